//! How long a value is in BSATN, as far as its type says.

use spacetimedb_sats::{AlgebraicType, ProductType, Typespace};

/// The most parts that a walk over one row may have: each becomes a few instructions.
const PARTS_MAX: u32 = 4_096;
/// The deepest nesting of types in a row: as deep as any type may be (`def/types.rs`).
const DEPTH_MAX: u32 = 128;

/// The shape of a BSATN value: what it takes to find its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Shape {
    /// So many bytes.
    Fixed(u32),
    /// A `u32` count, then so many elements of the given bytes each: strings, arrays of fixed-size elements.
    Counted(u32),
    /// A `u32` count, then so many elements.
    Array(Box<Shape>),
    /// One after the other.
    Product(Vec<Shape>),
    /// A tag byte, then the variant of that number.
    Sum(Vec<Shape>),
}

impl Shape {
    /// The shape of a type; `None` if it is recursive, or too intricate.
    pub(crate) fn of(ty: &AlgebraicType, types: &Typespace) -> Option<Self> {
        Resolver { types, parts: 0 }.resolve(ty, 0)
    }

    /// The shape of a row; `None` as for [`Shape::of`].
    pub(crate) fn of_row(row: &ProductType, types: &Typespace) -> Option<Self> {
        Resolver { types, parts: 0 }.product(row, 0)
    }

    /// The length, if it is always the same.
    pub(crate) fn fixed(&self) -> Option<u32> {
        match self {
            Self::Fixed(bytes) => Some(*bytes),
            _ => None,
        }
    }

    fn product(parts: impl Iterator<Item = Option<Self>>) -> Option<Self> {
        let mut merged: Vec<Self> = Vec::new();
        for part in parts {
            match (merged.last_mut(), part?) {
                (_, Self::Fixed(0)) => {}
                (Some(Self::Fixed(sum)), Self::Fixed(more)) => *sum = sum.checked_add(more)?,
                (_, part) => merged.push(part),
            }
        }
        Some(match merged.len() {
            0 => Self::Fixed(0),
            1 => merged.remove(0),
            _ => Self::Product(merged),
        })
    }

    fn sum(variants: Vec<Self>) -> Option<Self> {
        let first = variants.first().and_then(Self::fixed);
        match first {
            Some(bytes) if variants.iter().all(|variant| variant.fixed() == first) => {
                Some(Self::Fixed(bytes.checked_add(1)?))
            }
            _ => Some(Self::Sum(variants)),
        }
    }
}

struct Resolver<'a> {
    types: &'a Typespace,
    parts: u32,
}

impl Resolver<'_> {
    fn resolve(&mut self, ty: &AlgebraicType, depth: u32) -> Option<Shape> {
        self.parts += 1;
        if depth > DEPTH_MAX || self.parts > PARTS_MAX {
            return None;
        }
        Some(match ty {
            AlgebraicType::Ref(reference) => return self.resolve(self.types.get(*reference)?, depth + 1),
            AlgebraicType::Product(product) => return self.product(product, depth),
            AlgebraicType::Sum(sum) => {
                let variants = sum
                    .variants
                    .iter()
                    .map(|variant| self.resolve(&variant.algebraic_type, depth + 1));
                return Shape::sum(variants.collect::<Option<_>>()?);
            }
            AlgebraicType::Array(array) => match self.resolve(&array.elem_ty, depth + 1)? {
                Shape::Fixed(bytes) => Shape::Counted(bytes),
                element => Shape::Array(Box::new(element)),
            },
            AlgebraicType::String => Shape::Counted(1),
            other => Shape::Fixed(scalar_bytes(other)?),
        })
    }

    fn product(&mut self, product: &ProductType, depth: u32) -> Option<Shape> {
        Shape::product(
            product
                .elements
                .iter()
                .map(|element| self.resolve(&element.algebraic_type, depth + 1)),
        )
    }
}

/// The length of a scalar in bytes; `None` for what is not a scalar.
pub fn scalar_bytes(ty: &AlgebraicType) -> Option<u32> {
    Some(match ty {
        AlgebraicType::Bool | AlgebraicType::I8 | AlgebraicType::U8 => 1,
        AlgebraicType::I16 | AlgebraicType::U16 => 2,
        AlgebraicType::I32 | AlgebraicType::U32 | AlgebraicType::F32 => 4,
        AlgebraicType::I64 | AlgebraicType::U64 | AlgebraicType::F64 => 8,
        AlgebraicType::I128 | AlgebraicType::U128 => 16,
        AlgebraicType::I256 | AlgebraicType::U256 => 32,
        _ => return None,
    })
}
