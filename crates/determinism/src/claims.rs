//! What a prepared module does with the claims of its callers' tokens. The module says so itself, in a section of its own:
//! whoever feeds it finds out whichever version of this program has prepared it.

use crate::section;

/// The section's name. Its contents are one byte.
pub(crate) const SECTION: &str = "rtdb_claims";
const KEPT: u8 = 1;
const READ: u8 = 2;

/// The longest claims that a prepared module keeps, in bytes.
pub const CLAIMS_BYTES_MAX: usize = 16 << 10;

/// What a prepared module does with the claims of its callers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Claims {
    /// It can't know of any: it is of SpacetimeDB 1.x, or was prepared by an earlier version of this program.
    Ignored,
    /// It does not ask for them. Those of a session are kept, because the next module may.
    Kept,
    /// It may ask for them in each call.
    Read,
}

impl Claims {
    /// What a prepared module does.
    pub fn of(wasm: &[u8]) -> Self {
        match section::of(wasm, SECTION) {
            Some([READ]) => Self::Read,
            Some([KEPT]) => Self::Kept,
            _ => Self::Ignored,
        }
    }

    /// The section's contents; `None` for no section.
    pub(crate) fn contents(self) -> Option<&'static [u8]> {
        match self {
            Self::Ignored => None,
            Self::Kept => Some(&[KEPT]),
            Self::Read => Some(&[READ]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn module(sections: &[(u8, &[u8])]) -> Vec<u8> {
        let mut wasm = b"\0asm\x01\0\0\0".to_vec();
        for (id, contents) in sections {
            // Lengths of two bytes, as a linker may write them.
            wasm.extend([*id, contents.len() as u8 | 0x80, 0]);
            wasm.extend(*contents);
        }
        wasm
    }

    #[test]
    fn a_module_says_what_it_does() {
        assert_eq!(
            Claims::of(&module(&[(1, b"\0"), (0, b"\x0brtdb_claims\x01")])),
            Claims::Kept
        );
        assert_eq!(
            Claims::of(&module(&[
                (0, b"\x04name"),
                (0, b"\x0brtdb_claims\x02"),
                (1, b"\0")
            ])),
            Claims::Read
        );
        for other in [
            &b"\x0brtdb_claims"[..],
            b"\x0brtdb_claims\x03",
            b"\x0brtdb_claimz\x02",
            b"\x7f",
        ] {
            assert_eq!(Claims::of(&module(&[(0, other)])), Claims::Ignored);
        }
        for cut in 0..24 {
            Claims::of(&module(&[(0, b"\x0brtdb_claims\x02")])[..cut]);
        }
    }
}
