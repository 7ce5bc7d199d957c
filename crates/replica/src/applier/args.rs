//! Whether a call's arguments are of its reducer's types.
//!
//! SpacetimeDB answers a call whose arguments it can't read out of turn: 1.2.0 sends such an error past the results that
//! still wait in its queue. An applier matches results to calls by their order, so it does not send such a call at all.
//! Like the server, this does not mind bytes after the last argument.

use rtdb_determinism::scalar_bytes;
use spacetimedb_sats::{AlgebraicType, ProductType, Typespace};
use thiserror::Error;

/// How deep types may be nested: more would be a type that refers to itself without end.
const DEPTH_MAX: usize = 128;

/// How many parts a value may have: so many, and so many for each of its bytes. Types that refer to each other twice may
/// spell parts without end that take no byte at all.
const PARTS_MIN: usize = 4096;
const PARTS_PER_BYTE: usize = 64;

/// What is wrong with arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum ArgsError {
    #[error("data too short")]
    TooShort,
    #[error("a bool must be 0 or 1")]
    NotBool,
    #[error("a string must be UTF-8")]
    NotUtf8,
    #[error("no such variant")]
    NoSuchVariant,
    #[error("the types are nested too deep")]
    TooDeep,
    #[error("the types have too many parts for so few bytes")]
    TooManyParts,
}

/// Checks that `args` are BSATN of `params`.
pub(super) fn check(types: &Typespace, params: &ProductType, args: &[u8]) -> Result<(), ArgsError> {
    let mut walk = Walk::new(types, args);
    params
        .elements
        .iter()
        .try_for_each(|element| walk.value(&element.algebraic_type, 0))
}

/// The columns of a row of this type, in BSATN each.
pub(crate) fn columns<'a>(
    types: &'a Typespace,
    row: &ProductType,
    bytes: &'a [u8],
) -> Result<Vec<&'a [u8]>, ArgsError> {
    let mut walk = Walk::new(types, bytes);
    let columns = row.elements.iter().map(|column| {
        let before = walk.rest;
        walk.value(&column.algebraic_type, 0)?;
        Ok(&before[..before.len() - walk.rest.len()])
    });
    columns.collect()
}

struct Walk<'a> {
    types: &'a Typespace,
    rest: &'a [u8],
    parts_left: usize,
}

impl<'a> Walk<'a> {
    fn new(types: &'a Typespace, bytes: &'a [u8]) -> Self {
        let parts = bytes.len().saturating_mul(PARTS_PER_BYTE);
        Self {
            types,
            rest: bytes,
            parts_left: parts.saturating_add(PARTS_MIN),
        }
    }

    fn value(&mut self, ty: &AlgebraicType, depth: usize) -> Result<(), ArgsError> {
        if depth > DEPTH_MAX {
            return Err(ArgsError::TooDeep);
        }
        self.parts_left = self.parts_left.checked_sub(1).ok_or(ArgsError::TooManyParts)?;
        match ty {
            AlgebraicType::Ref(place) => match self.types.get(*place) {
                Some(ty) => self.value(ty, depth + 1),
                None => Err(ArgsError::TooDeep),
            },
            AlgebraicType::Product(product) => product
                .elements
                .iter()
                .try_for_each(|element| self.value(&element.algebraic_type, depth + 1)),
            AlgebraicType::Sum(sum) => {
                let tag = self.take(1)?[0];
                let variant = sum
                    .variants
                    .get(usize::from(tag))
                    .ok_or(ArgsError::NoSuchVariant)?;
                self.value(&variant.algebraic_type, depth + 1)
            }
            AlgebraicType::Array(array) => self.array(&array.elem_ty, depth),
            AlgebraicType::String => {
                let length = self.length()?;
                std::str::from_utf8(self.take(length)?)
                    .map(drop)
                    .map_err(|_| ArgsError::NotUtf8)
            }
            AlgebraicType::Bool => match self.take(1)?[0] {
                0 | 1 => Ok(()),
                _ => Err(ArgsError::NotBool),
            },
            ty => self.take(fixed_size(ty).unwrap_or(0)).map(drop),
        }
    }

    fn array(&mut self, element: &AlgebraicType, depth: usize) -> Result<(), ArgsError> {
        let count = self.length()?;
        if let Some(size) = fixed_size(element) {
            return self
                .take(count.checked_mul(size).ok_or(ArgsError::TooShort)?)
                .map(drop);
        }
        for _ in 0..count {
            let before = self.rest.len();
            self.value(element, depth + 1)?;
            if self.rest.len() == before {
                // The elements are empty, so all are alike, and there may be four thousand million of them.
                break;
            }
        }
        Ok(())
    }

    fn length(&mut self) -> Result<usize, ArgsError> {
        let (length, rest) = self.rest.split_first_chunk().ok_or(ArgsError::TooShort)?;
        self.rest = rest;
        Ok(u32::from_le_bytes(*length) as usize)
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], ArgsError> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(ArgsError::TooShort)?;
        self.rest = rest;
        Ok(taken)
    }
}

/// The size of a number; every pattern of bits is one.
fn fixed_size(ty: &AlgebraicType) -> Option<usize> {
    match ty {
        AlgebraicType::Bool => None,
        ty => scalar_bytes(ty).map(|bytes| bytes as usize),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use spacetimedb_sats::de::DeserializeSeed;
    use spacetimedb_sats::{WithTypespace, bsatn};

    fn params() -> ProductType {
        ProductType::from([
            ("name", AlgebraicType::String),
            ("on", AlgebraicType::Bool),
            ("maybe", AlgebraicType::option(AlgebraicType::U16)),
            ("bytes", AlgebraicType::bytes()),
            ("words", AlgebraicType::array(AlgebraicType::String)),
            ("wide", AlgebraicType::U256),
        ])
    }

    fn sats_accepts(types: &Typespace, params: &ProductType, args: &[u8]) -> bool {
        let mut rest = args;
        WithTypespace::new(types, params)
            .deserialize(bsatn::Deserializer::new(&mut rest))
            .is_ok()
    }

    fn valid(name: &str, on: bool, words: &[String]) -> Vec<u8> {
        let mut args = bsatn::to_vec(&name.to_string()).unwrap();
        args.push(on.into());
        args.extend([0, 7, 0]);
        args.extend(bsatn::to_vec(&vec![1_u8, 2, 3]).unwrap());
        args.extend(bsatn::to_vec(&words.to_vec()).unwrap());
        args.extend([9; 32]);
        args
    }

    proptest! {
        #[test]
        fn accepts_what_the_servers_own_decoder_accepts(
            name in ".{0,8}",
            on: bool,
            words in prop::collection::vec(".{0,4}", 0..4),
            flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
            cut in any::<prop::sample::Index>(),
            whole: bool,
        ) {
            let (types, params) = (Typespace::default(), params());
            let mut args = valid(&name, on, &words);
            prop_assert!(check(&types, &params, &args).is_ok());
            let parts = columns(&types, &params, &args).unwrap();
            prop_assert_eq!((parts[0].len(), parts[1], parts.len()), (4 + name.len(), &[u8::from(on)][..], 6));
            prop_assert_eq!(parts.concat(), args.clone());
            for (at, byte) in flips {
                let at = at.index(args.len());
                args[at] = byte;
            }
            if !whole {
                args.truncate(cut.index(args.len()));
            }
            prop_assert_eq!(check(&types, &params, &args).is_ok(), sats_accepts(&types, &params, &args));
        }
    }

    #[test]
    fn huge_counts_and_types_without_end_are_refused_quickly() {
        let mut types = Typespace::default();
        let units = ProductType::from([("units", AlgebraicType::array(AlgebraicType::unit()))]);
        assert_eq!(check(&types, &units, &u32::MAX.to_le_bytes()), Ok(()));
        let bytes = ProductType::from([("bytes", AlgebraicType::bytes())]);
        assert_eq!(
            check(&types, &bytes, &u32::MAX.to_le_bytes()),
            Err(ArgsError::TooShort)
        );

        let this = types.add(AlgebraicType::unit());
        types[this] = AlgebraicType::Ref(this);
        let endless = ProductType::from([("endless", AlgebraicType::Ref(this))]);
        assert_eq!(check(&types, &endless, &[]), Err(ArgsError::TooDeep));
    }

    #[test]
    fn types_that_double_with_each_reference_are_given_up() {
        let mut types = Typespace::default();
        let mut last = types.add(AlgebraicType::unit());
        for _ in 0..60 {
            last = types.add(AlgebraicType::Product(ProductType::from_iter([
                AlgebraicType::Ref(last),
                AlgebraicType::Ref(last),
            ])));
        }
        let doubling = ProductType::from([("doubling", AlgebraicType::Ref(last))]);
        assert_eq!(check(&types, &doubling, &[]), Err(ArgsError::TooManyParts));
        let many = ProductType::from([("many", AlgebraicType::array(AlgebraicType::Ref(last)))]);
        assert_eq!(
            check(&types, &many, &u32::MAX.to_le_bytes()),
            Err(ArgsError::TooManyParts)
        );
    }

    #[test]
    fn large_arguments_of_small_parts_are_fine() {
        let boxed = (0..10).fold(AlgebraicType::U8, |ty, _| AlgebraicType::product([ty]));
        let params = ProductType::from([("bytes", AlgebraicType::array(boxed))]);
        let args = bsatn::to_vec(&vec![7_u8; 1 << 20]).unwrap();
        assert_eq!(check(&Typespace::default(), &params, &args), Ok(()));
    }
}
