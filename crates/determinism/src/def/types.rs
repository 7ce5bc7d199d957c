//! A limit to how big types are once all references in them are followed. Types that refer to each other twice double
//! their size with each reference: a few hundred bytes can spell more parts than there are atoms, and whoever walks over
//! such a type, here or in the server, does not come back.

use spacetimedb_sats::{AlgebraicType, AlgebraicTypeRef, Typespace};

use crate::PrepareError;

/// The most parts of a type.
const PARTS_MAX: u64 = 65_536;
/// How deep types may be nested in each other.
const DEPTH_MAX: u32 = 128;
/// The most parts of all tables' rows together, counted again for each index: for each of them there may be code.
const ROWS_PARTS_MAX: u64 = 1 << 20;

/// How big a type is.
#[derive(Debug, Clone, Copy)]
struct Size {
    parts: u64,
    depth: u32,
    /// Whether it contains itself. What is counted then is one turn of it.
    recursive: bool,
}

const LEAF: Size = Size {
    parts: 1,
    depth: 1,
    recursive: false,
};

#[derive(Debug, Clone, Copy)]
enum Known {
    Not,
    /// It is being measured: a reference to it from within makes it recursive.
    Open,
    Is(Size),
}

/// The sizes of a definition's types.
#[derive(Debug)]
pub(super) struct Sizes<'a> {
    types: &'a Typespace,
    known: Vec<Known>,
}

impl<'a> Sizes<'a> {
    /// Measures all types of a typespace; refuses references to nowhere, and types that are too big.
    pub(super) fn of(types: &'a Typespace) -> Result<Self, PrepareError> {
        let mut sizes = Self {
            types,
            known: vec![Known::Not; types.types.len()],
        };
        for at in 0..types.types.len() as u32 {
            sizes.reference(AlgebraicTypeRef(at), 0)?;
        }
        Ok(sizes)
    }

    /// Refuses a type that stands elsewhere than in the typespace.
    pub(super) fn check(&mut self, ty: &AlgebraicType) -> Result<(), PrepareError> {
        self.measure(ty, 0).map(drop)
    }

    /// Refuses tables, each with its row type and the number of its indexes, that are too big together.
    pub(super) fn check_rows(
        &mut self,
        tables: impl Iterator<Item = (AlgebraicTypeRef, usize)>,
    ) -> Result<(), PrepareError> {
        let mut parts = 0_u64;
        for (row, indexes) in tables {
            let size = self.reference(row, 0)?;
            parts = parts.saturating_add(size.parts.saturating_mul(1 + indexes as u64));
        }
        if parts > ROWS_PARTS_MAX {
            return Err(PrepareError::Definition(format!(
                "the rows of its tables have {parts} parts, at most {ROWS_PARTS_MAX} can be replicated"
            )));
        }
        Ok(())
    }

    /// Refuses a table whose rows contain rows of their own type.
    pub(super) fn check_row(&mut self, table: &str, row: AlgebraicTypeRef) -> Result<(), PrepareError> {
        match self.reference(row, 0)?.recursive {
            true => Err(PrepareError::Definition(format!(
                "the row type of table `{table}` contains a type that contains itself"
            ))),
            false => Ok(()),
        }
    }

    fn reference(&mut self, reference: AlgebraicTypeRef, depth: u32) -> Result<Size, PrepareError> {
        let nowhere = || PrepareError::Definition(format!("there is no type {}", reference.0));
        let known = *self.known.get(reference.idx()).ok_or_else(nowhere)?;
        match known {
            Known::Is(size) => Ok(size),
            Known::Open => Ok(Size {
                recursive: true,
                ..LEAF
            }),
            Known::Not => {
                let types = self.types;
                self.known[reference.idx()] = Known::Open;
                let size = self.measure(types.get(reference).ok_or_else(nowhere)?, depth)?;
                self.known[reference.idx()] = Known::Is(size);
                Ok(size)
            }
        }
    }

    fn measure(&mut self, ty: &AlgebraicType, depth: u32) -> Result<Size, PrepareError> {
        if depth >= DEPTH_MAX {
            return Err(PrepareError::Definition("its types are nested too deep".into()));
        }
        let mut size = LEAF;
        let mut add = |part: Size| {
            size.parts = size.parts.saturating_add(part.parts);
            size.depth = size.depth.max(part.depth + 1);
            size.recursive |= part.recursive;
        };
        match ty {
            AlgebraicType::Ref(reference) => add(self.reference(*reference, depth + 1)?),
            AlgebraicType::Product(product) => {
                for element in product.elements.iter() {
                    add(self.measure(&element.algebraic_type, depth + 1)?);
                }
            }
            AlgebraicType::Sum(sum) => {
                for variant in sum.variants.iter() {
                    add(self.measure(&variant.algebraic_type, depth + 1)?);
                }
            }
            AlgebraicType::Array(array) => add(self.measure(&array.elem_ty, depth + 1)?),
            _ => {}
        }
        if size.parts > PARTS_MAX || depth + size.depth > DEPTH_MAX {
            return Err(PrepareError::Definition(format!(
                "a type has more than {PARTS_MAX} parts once its references are followed, or is nested deeper than \
                 {DEPTH_MAX}"
            )));
        }
        Ok(size)
    }
}
