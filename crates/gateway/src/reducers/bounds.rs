//! How deep arguments go, and how long they are: before anything recursive reads them. A type may contain itself, and an
//! element of an array may take no bytes.

use rtdb_determinism::scalar_bytes;
use spacetimedb_sats::{AlgebraicType, ProductType, Typespace};
use thiserror::Error;

/// Types in each other, references counted too. SpacetimeDB knows no limit, and ends at some thousands; a replica sends it
/// no more than these.
const LEVELS_MAX: u32 = 128;

/// Parts of all arguments that take no bytes, beyond one for each byte: four bytes can say that there are billions.
const EMPTY_PARTS_MAX: usize = 65_536;

/// Why arguments are not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(super) enum OutOfBounds {
    #[error("they are nested deeper than {LEVELS_MAX} levels")]
    Deep,
    #[error("they have more than {EMPTY_PARTS_MAX} parts without bytes")]
    Empty,
}

/// Refuses arguments out of bounds. Whether they are well-formed is not said.
pub(super) fn check(args: &[u8], params: &ProductType, types: &Typespace) -> Result<(), OutOfBounds> {
    let mut walk = Walk {
        rest: args,
        types,
        empty_parts: args.len() + EMPTY_PARTS_MAX,
    };
    match walk.product(params, 0) {
        Err(Stop::OutOfBounds(why)) => Err(why),
        // Who reads them comes no further either.
        Ok(()) | Err(Stop::Malformed) => Ok(()),
    }
}

/// Why a walk over arguments ends early.
enum Stop {
    OutOfBounds(OutOfBounds),
    Malformed,
}

struct Walk<'a> {
    rest: &'a [u8],
    types: &'a Typespace,
    /// How many more parts may take no bytes.
    empty_parts: usize,
}

impl Walk<'_> {
    fn pass(&mut self, ty: &AlgebraicType, level: u32) -> Result<(), Stop> {
        if level > LEVELS_MAX {
            return Err(Stop::OutOfBounds(OutOfBounds::Deep));
        }
        let deeper = level + 1;
        match ty {
            AlgebraicType::Ref(reference) => {
                let types = self.types;
                self.pass(types.get(*reference).ok_or(Stop::Malformed)?, deeper)
            }
            AlgebraicType::Product(product) => self.product(product, deeper),
            AlgebraicType::Sum(sum) => {
                let tag = usize::from(self.take(1)?[0]);
                let variant = sum.variants.get(tag).ok_or(Stop::Malformed)?;
                self.pass(&variant.algebraic_type, deeper)
            }
            AlgebraicType::Array(array) => {
                let count = self.count()?;
                match scalar_bytes(&array.elem_ty) {
                    Some(bytes) => self.take(count.saturating_mul(bytes as usize)).map(drop),
                    None => (0..count).try_for_each(|_| self.pass(&array.elem_ty, deeper)),
                }
            }
            AlgebraicType::String => {
                let bytes = self.count()?;
                self.take(bytes).map(drop)
            }
            scalar => {
                let bytes = scalar_bytes(scalar).ok_or(Stop::Malformed)?;
                self.take(bytes as usize).map(drop)
            }
        }
    }

    fn product(&mut self, product: &ProductType, level: u32) -> Result<(), Stop> {
        if product.elements.is_empty() {
            let left = self.empty_parts.checked_sub(1);
            self.empty_parts = left.ok_or(Stop::OutOfBounds(OutOfBounds::Empty))?;
        }
        let mut elements = product.elements.iter();
        elements.try_for_each(|element| self.pass(&element.algebraic_type, level))
    }

    fn count(&mut self) -> Result<usize, Stop> {
        let count = self.take(4)?.try_into().map_err(|_| Stop::Malformed)?;
        Ok(u32::from_le_bytes(count) as usize)
    }

    fn take(&mut self, bytes: usize) -> Result<&[u8], Stop> {
        self.rest.split_off(..bytes).ok_or(Stop::Malformed)
    }
}
