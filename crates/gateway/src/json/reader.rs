//! BSATN, as far as v1's messages need it.

use crate::limits::{JSON_BYTES_MAX, JSON_VALUE_BYTES_MAX};
use std::io;
use thiserror::Error;

/// Why something is not translated.
#[derive(Debug, Error)]
pub(crate) enum Untranslatable {
    /// Bytes that are no message of v1, or not of the module's types.
    #[error("a message can't be translated: {0}")]
    Misread(String),
    /// It is more JSON than may be.
    #[error("an answer or update has more than {} MiB in JSON: ask for less, or speak BSATN", JSON_BYTES_MAX >> 20)]
    TooLarge,
    /// A row, or what a procedure has returned, is larger than may be.
    #[error("a value has more than {} KiB, too many for JSON: speak BSATN", JSON_VALUE_BYTES_MAX >> 10)]
    ValueTooLarge,
}

impl Untranslatable {
    pub(super) fn new(why: impl std::fmt::Display) -> Self {
        Self::Misread(why.to_string())
    }
}

impl From<io::Error> for Untranslatable {
    /// Nothing else goes wrong in writing JSON.
    fn from(_: io::Error) -> Self {
        Self::TooLarge
    }
}

impl From<serde_json::Error> for Untranslatable {
    fn from(error: serde_json::Error) -> Self {
        match error.is_io() {
            true => Self::TooLarge,
            false => Self::new(error),
        }
    }
}

/// What is still to be read.
#[derive(Clone)]
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(super) fn take(&mut self, count: usize) -> Result<&'a [u8], Untranslatable> {
        let (taken, rest) = self
            .0
            .split_at_checked(count)
            .ok_or_else(|| Untranslatable::new("it ends too early"))?;
        self.0 = rest;
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], Untranslatable> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    pub(super) fn u8(&mut self) -> Result<u8, Untranslatable> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    pub(super) fn u16(&mut self) -> Result<u16, Untranslatable> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub(super) fn u32(&mut self) -> Result<u32, Untranslatable> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(super) fn u64(&mut self) -> Result<u64, Untranslatable> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub(super) fn i64(&mut self) -> Result<i64, Untranslatable> {
        Ok(i64::from_le_bytes(self.array()?))
    }

    pub(super) fn u128(&mut self) -> Result<u128, Untranslatable> {
        Ok(u128::from_le_bytes(self.array()?))
    }

    /// A byte string.
    pub(super) fn bytes(&mut self) -> Result<&'a [u8], Untranslatable> {
        let count = self.u32()? as usize;
        self.take(count)
    }

    pub(super) fn text(&mut self) -> Result<&'a str, Untranslatable> {
        std::str::from_utf8(self.bytes()?).map_err(Untranslatable::new)
    }

    pub(super) fn end(&self) -> Result<(), Untranslatable> {
        match self.0.is_empty() {
            true => Ok(()),
            false => Err(Untranslatable::new("there is more behind it")),
        }
    }
}
