//! Values in JSON, by their types.

use super::reader::Untranslatable;
use crate::reducers;
use bytes::{BufMut, Bytes, BytesMut};
use rtdb_determinism::Module;
use serde::ser::{Error, SerializeMap, SerializeTuple};
use serde::{Serialize, Serializer};
use serde_json::to_string;
use spacetimedb_sats::de::DeserializeSeed;
use spacetimedb_sats::serde::SerdeWrapper;
use spacetimedb_sats::{
    AlgebraicType, AlgebraicValue, ProductType, ProductValue, Typespace, WithTypespace, bsatn,
};

/// How SpacetimeDB writes a row: what it finds in a table with the columns' names, what a transaction has changed and what
/// views show without.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Names {
    With,
    Without,
}

/// A row of a table or of a view.
pub(super) fn row(module: &Module, table: &str, row: &[u8], names: Names) -> Result<String, Untranslatable> {
    let of_table = module
        .table_named(table)
        .map(|(_, table)| (AlgebraicType::Ref(table.row), names));
    let of_view = || {
        let view = module.views().iter().find(|view| view.name == table)?;
        Some((view.row.clone(), Names::Without))
    };
    let known = of_table.or_else(of_view);
    let (ty, names) = known.ok_or_else(|| Untranslatable(format!("the types of `{table}` are not known")))?;
    let value = read(module, &ty, row)?;
    let json = match names {
        Names::With => to_string(&Found {
            types: module.spelled(),
            ty: &ty,
            value: &value,
        }),
        Names::Without => to_string(&SerdeWrapper(value)),
    };
    json.map_err(Untranslatable::new)
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

/// A reducer's arguments; none, if they are not what it takes, as of a call that never ran.
pub(super) fn args(module: &Module, reducer: &str, args: &[u8]) -> String {
    let none = || "[]".to_owned();
    let Some(reducer) = module.reducer(reducer) else {
        return none();
    };
    let value = read_product(module, &reducer.params, args);
    let json = value.ok().and_then(|value| to_string(&SerdeWrapper(value)).ok());
    json.unwrap_or_else(none)
}

/// The result of a procedure, with what it has returned in JSON in the place of BSATN: only who has called knows the type.
pub(crate) fn returned(module: &Module, ty: &AlgebraicType, value: &[u8], raw: &[u8]) -> Option<Bytes> {
    /// The message's tag and that of its status.
    const TAGS: usize = 2;
    let json = to_string(&SerdeWrapper(read(module, ty, value).ok()?)).ok()?;
    let rest = raw.get(TAGS + size_of::<u32>() + value.len()..)?;
    let mut message = BytesMut::with_capacity(raw.len() + json.len());
    message.put_slice(raw.get(..TAGS)?);
    message.put_u32_le(u32::try_from(json.len()).ok()?);
    message.put_slice(json.as_bytes());
    message.put_slice(rest);
    Some(message.freeze())
}

fn read(module: &Module, ty: &AlgebraicType, value: &[u8]) -> Result<AlgebraicValue, Untranslatable> {
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
