//! Values in JSON, by their types.

use super::output::Output;
use super::reader::Untranslatable;
use crate::limits::{JSON_BYTES_MAX, JSON_VALUE_BYTES_MAX};
use crate::reducers;
use bytes::{BufMut, Bytes, BytesMut};
use rtdb_determinism::Module;
use serde::ser::{Error, SerializeMap, SerializeTuple};
use serde::{Serialize, Serializer};
use serde_json::to_writer;
use spacetimedb_sats::de::DeserializeSeed;
use spacetimedb_sats::serde::SerdeWrapper;
use spacetimedb_sats::{
    AlgebraicType, AlgebraicValue, ProductType, ProductValue, Typespace, WithTypespace, bsatn,
};
use std::io::Write;

/// How SpacetimeDB writes a row: what it finds in a table with the columns' names, what a transaction has changed and what
/// views show without.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Names {
    With,
    Without,
}

/// Writes a row of a table or of a view.
pub(super) fn row(
    module: &Module,
    table: &str,
    row: &[u8],
    names: Names,
    json: impl Write,
) -> Result<(), Untranslatable> {
    let of_table = module
        .table_named(table)
        .map(|(_, table)| (AlgebraicType::Ref(table.row), names));
    let of_view = || {
        let view = module.views().iter().find(|view| view.name == table)?;
        Some((view.row.clone(), Names::Without))
    };
    let known = of_table.or_else(of_view);
    let (ty, names) =
        known.ok_or_else(|| Untranslatable::Misread(format!("the types of `{table}` are not known")))?;
    let value = read(module, &ty, row)?;
    match names {
        Names::With => to_writer(
            json,
            &Found {
                types: module.spelled(),
                ty: &ty,
                value: &value,
            },
        )?,
        Names::Without => to_writer(json, &SerdeWrapper(value))?,
    }
    Ok(())
}

/// What is found in a table: fields have names, variants and what is in arrays do not.
struct Found<'a> {
    types: &'a Typespace,
    ty: &'a AlgebraicType,
    value: &'a AlgebraicValue,
}

impl<'a> Found<'a> {
    fn within(&self, ty: &'a AlgebraicType, value: &'a AlgebraicValue) -> Self {
        let types = self.types;
        Self { types, ty, value }
    }
}

impl Serialize for Found<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut ty = self.ty;
        while let AlgebraicType::Ref(of) = ty {
            ty = self
                .types
                .get(*of)
                .ok_or_else(|| S::Error::custom("a type is not there"))?;
        }
        match (self.value, ty) {
            (AlgebraicValue::Product(value), AlgebraicType::Product(ty)) => {
                let mut map = serializer.serialize_map(Some(ty.elements.len()))?;
                for (field, value) in ty.elements.iter().zip(&*value.elements) {
                    let name = field.name.as_deref();
                    let name = name.ok_or_else(|| S::Error::custom("tuple element has no name"))?;
                    map.serialize_entry(name, &self.within(&field.algebraic_type, value))?;
                }
                map.end()
            }
            (AlgebraicValue::Sum(value), AlgebraicType::Sum(ty)) => {
                let variant = ty.variants.get(usize::from(value.tag));
                let variant = variant.ok_or_else(|| S::Error::custom("a variant is not there"))?;
                let mut pair = serializer.serialize_tuple(2)?;
                pair.serialize_element(&value.tag)?;
                pair.serialize_element(&self.within(&variant.algebraic_type, &value.value))?;
                pair.end()
            }
            (value, _) => SerdeWrapper::from_ref(value).serialize(serializer),
        }
    }
}

/// Writes a reducer's arguments; none, if they are not what it takes, as of a call that never ran, or very large: who has
/// called knows them, and nobody else need be closed for them.
pub(super) fn args(
    module: &Module,
    reducer: &str,
    args: &[u8],
    mut json: impl Write,
) -> Result<(), Untranslatable> {
    let reducer = module.reducer(reducer);
    match reducer.and_then(|reducer| read_product(module, &reducer.params, args).ok()) {
        Some(value) => Ok(to_writer(json, &SerdeWrapper(value))?),
        None => Ok(json.write_all(b"[]")?),
    }
}

/// The result of a procedure, with what it has returned in JSON in the place of BSATN: only who has called knows the type.
///
/// # Errors
/// [`Untranslatable`]
pub(crate) fn returned(
    module: &Module,
    ty: &AlgebraicType,
    value: &[u8],
    raw: &[u8],
) -> Result<Bytes, Untranslatable> {
    /// The message's tag and that of its status.
    const TAGS: usize = 2;
    let value_end = TAGS + size_of::<u32>() + value.len();
    let parts = raw.get(..TAGS).zip(raw.get(value_end..));
    let (tags, rest) = parts.ok_or_else(|| Untranslatable::new("it ends too early"))?;
    let mut json = Output::new(JSON_BYTES_MAX);
    to_writer(&mut json, &SerdeWrapper(read(module, ty, value)?))?;
    let json = json.finish();
    let mut message = BytesMut::with_capacity(raw.len() + json.len());
    message.put_slice(tags);
    message.put_u32_le(u32::try_from(json.len()).map_err(Untranslatable::new)?);
    message.put_slice(&json);
    message.put_slice(rest);
    Ok(message.freeze())
}

fn read(module: &Module, ty: &AlgebraicType, value: &[u8]) -> Result<AlgebraicValue, Untranslatable> {
    // What is read takes many times as much.
    if value.len() > JSON_VALUE_BYTES_MAX {
        return Err(Untranslatable::ValueTooLarge);
    }
    reducers::check_value(value, ty, module.spelled()).map_err(Untranslatable::new)?;
    let mut rest = value;
    WithTypespace::new(module.spelled(), ty)
        .deserialize(bsatn::Deserializer::new(&mut rest))
        .map_err(Untranslatable::new)
}

fn read_product(module: &Module, ty: &ProductType, value: &[u8]) -> Result<ProductValue, Untranslatable> {
    match read(module, &AlgebraicType::Product(ty.clone()), value)? {
        AlgebraicValue::Product(value) => Ok(value),
        _ => Err(Untranslatable::new("no product")),
    }
}
