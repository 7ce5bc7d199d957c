//! A reducer's arguments, read from JSON.

use rtdb_determinism::{Module, Reducer};
use serde::de::DeserializeSeed as _;
use spacetimedb_sats::de::{
    self, DeserializeSeed, Deserializer, NamedProductAccess, ProductKind, ProductVisitor, SeqProductAccess,
};
use spacetimedb_sats::serde::SerdeWrapper;
use spacetimedb_sats::{ProductTypeElement, ProductValue, WithTypespace};

/// What is wrong with arguments, and where in them.
pub(super) struct BadArgs {
    pub(super) place: String,
    pub(super) error: String,
}

/// A reducer's parameters: what is wrong is said of its arguments, and not of some product.
struct Args<'a> {
    name: &'a str,
    params: WithTypespace<'a, [ProductTypeElement]>,
}

pub(super) fn from_json(module: &Module, reducer: &Reducer, json: &[u8]) -> Result<ProductValue, BadArgs> {
    let args = SerdeWrapper(Args {
        name: &reducer.name,
        params: WithTypespace::new(module.typespace(), &reducer.params.elements),
    });
    let mut json = serde_json::Deserializer::from_slice(json);
    let mut track = serde_path_to_error::Track::new();
    args.deserialize(serde_path_to_error::Deserializer::new(&mut json, &mut track))
        .and_then(|args| json.end().map(|()| args))
        .map_err(|error| BadArgs {
            place: track.path().to_string(),
            error: error.to_string(),
        })
}

impl<'de> DeserializeSeed<'de> for Args<'_> {
    type Output = ProductValue;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<ProductValue, D::Error> {
        deserializer.deserialize_product(self)
    }
}

impl<'de> ProductVisitor<'de> for Args<'_> {
    type Output = ProductValue;

    fn product_name(&self) -> Option<&str> {
        Some(self.name)
    }

    fn product_len(&self) -> usize {
        self.params.ty().len()
    }

    fn product_kind(&self) -> ProductKind {
        ProductKind::ReducerArgs
    }

    fn visit_seq_product<A: SeqProductAccess<'de>>(self, args: A) -> Result<ProductValue, A::Error> {
        de::visit_seq_product(self.params, &self, args)
    }

    fn visit_named_product<A: NamedProductAccess<'de>>(self, args: A) -> Result<ProductValue, A::Error> {
        de::visit_named_product(self.params, &self, args)
    }
}
