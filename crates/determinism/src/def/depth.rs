//! A definition is passed over in its own encoding before anything recursive reads it: a few megabytes of an upload can
//! spell a million arrays in each other, and would overflow the stack. On the same way all its strings are seen, in
//! whatever section they stand.

use std::sync::LazyLock;

use spacetimedb_lib::RawModuleDef;
use spacetimedb_lib::db::raw_def::v9::RawModuleDefV9Builder;
use spacetimedb_sats::{AlgebraicType, Typespace};

use crate::PrepareError;
use crate::hidden;
use crate::shape::scalar_bytes;

/// How deep a definition may nest, counted in its own encoding: about four for every type in a type.
const DEPTH_MAX: u32 = 512;

/// Columns that a list of them may have. SpacetimeDB's own reader panics at some ten thousands.
const COLUMNS_MAX: u32 = 8_192;

/// The type of definitions themselves.
static DEFINITION: LazyLock<(AlgebraicType, Typespace)> = LazyLock::new(|| {
    let mut builder = RawModuleDefV9Builder::new();
    let definition = builder.add_type::<RawModuleDef>();
    (definition, builder.finish().typespace)
});

/// Refuses a definition that nests too deep, or is cut short.
pub(super) fn check(def: &[u8]) -> Result<(), PrepareError> {
    walk(def, &mut |_| {})
}

/// Refuses a definition in which a name is ours.
pub(super) fn check_names(def: &[u8]) -> Result<(), PrepareError> {
    let mut reserved = None;
    walk(def, &mut |text| {
        if reserved.is_none() {
            reserved = hidden::reserved(&String::from_utf8_lossy(text));
        }
    })?;
    match reserved {
        Some(name) => Err(PrepareError::HiddenName(name)),
        None => Ok(()),
    }
}

fn walk(def: &[u8], look: &mut dyn FnMut(&[u8])) -> Result<(), PrepareError> {
    let (ty, types) = &*DEFINITION;
    let mut rest = def;
    match pass(&mut rest, ty, types, 0, look) {
        Some(()) => Ok(()),
        None => Err(PrepareError::Definition(
            "it is damaged, its types are nested too deep, or a list of columns is too long".into(),
        )),
    }
}

/// Passes over one value, and shows its strings; `None` if there is no such value, or too deep a one.
fn pass(
    rest: &mut &[u8],
    ty: &AlgebraicType,
    types: &Typespace,
    depth: u32,
    look: &mut dyn FnMut(&[u8]),
) -> Option<()> {
    let deeper = depth.checked_add(1).filter(|depth| *depth <= DEPTH_MAX)?;
    match ty {
        AlgebraicType::Ref(reference) => pass(rest, types.get(*reference)?, types, deeper, look),
        AlgebraicType::Product(product) => product
            .elements
            .iter()
            .try_for_each(|element| pass(rest, &element.algebraic_type, types, deeper, look)),
        AlgebraicType::Sum(sum) => {
            let tag = usize::from(*rest.split_off_first()?);
            pass(rest, &sum.variants.get(tag)?.algebraic_type, types, deeper, look)
        }
        AlgebraicType::Array(array) => {
            let count = count(rest)?;
            // Nothing else in a definition has 16 bits.
            if *array.elem_ty == AlgebraicType::U16 && count > COLUMNS_MAX {
                return None;
            }
            (0..count).try_for_each(|_| pass(rest, &array.elem_ty, types, deeper, look))
        }
        AlgebraicType::String => {
            let bytes = count(rest)?;
            look(rest.split_off(..bytes as usize)?);
            Some(())
        }
        scalar => rest.split_off(..scalar_bytes(scalar)? as usize).map(drop),
    }
}

fn count(rest: &mut &[u8]) -> Option<u32> {
    rest.split_off(..4)?.try_into().ok().map(u32::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use spacetimedb_primitives::ColList;

    #[test]
    fn a_list_of_columns_is_as_long_as_it_can_be_read() {
        let columns = RawModuleDefV9Builder::new().add_type::<ColList>();
        let reads = |count: u32| {
            let mut list = count.to_le_bytes().to_vec();
            list.resize(list.len() + 2 * count as usize, 0);
            let (mut rest, types) = (&list[..], Typespace::default());
            pass(&mut rest, &columns, &types, 0, &mut |_| {}).map(|()| list)
        };
        let longest = reads(COLUMNS_MAX).expect("a list");
        assert!(spacetimedb_lib::bsatn::from_slice::<ColList>(&longest).is_ok());
        assert_eq!(reads(COLUMNS_MAX + 1), None);
    }
}
