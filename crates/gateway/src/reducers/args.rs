//! A reducer's or a procedure's arguments, read from JSON.

use rtdb_determinism::Module;
use serde::de::DeserializeSeed as _;
use spacetimedb_sats::de::{
    self, DeserializeSeed, Deserializer, NamedProductAccess, ProductKind, ProductVisitor, SeqProductAccess,
};
use spacetimedb_sats::serde::SerdeWrapper;
use spacetimedb_sats::{ProductType, ProductTypeElement, ProductValue, WithTypespace};

/// What is wrong with arguments.
pub(super) struct BadArgs {
    /// Where in them, unless it is behind them.
    pub(super) place: Option<String>,
    pub(super) error: String,
}

/// Its parameters: what is wrong is said of its arguments, and not of some product.
struct Args<'a> {
    name: &'a str,
    params: WithTypespace<'a, [ProductTypeElement]>,
}

pub(super) fn from_json(
    module: &Module,
    name: &str,
    params: &ProductType,
    json: &[u8],
) -> Result<ProductValue, BadArgs> {
    let args = SerdeWrapper(Args {
        name,
        params: WithTypespace::new(module.spelled(), &params.elements),
    });
    let mut json = serde_json::Deserializer::from_slice(json);
    let mut track = serde_path_to_error::Track::new();
    let bad = |error: serde_json::Error, place| BadArgs {
        place,
        error: error.to_string(),
    };
    let args = args.deserialize(serde_path_to_error::Deserializer::new(&mut json, &mut track));
    let args = args.map_err(|error| bad(error, Some(track.path().to_string())))?;
    json.end().map_err(|error| bad(error, None))?;
    Ok(args)
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

#[cfg(test)]
mod tests {
    use super::*;
    use spacetimedb_lib::RawModuleDef;
    use spacetimedb_lib::db::raw_def::v9::RawModuleDefV9Builder;
    use spacetimedb_sats::{AlgebraicType, AlgebraicTypeRef, ProductType, SumType, bsatn};

    #[test]
    fn arguments_as_deep_as_json_may_be_fit_the_stack() {
        let itself = || AlgebraicType::Ref(AlgebraicTypeRef(0));
        let shapes = [
            (ProductType::from([("a", itself())]).into(), "{\"a\":", "}"),
            (ProductType::from([("a", itself())]).into(), "[", "]"),
            (
                SumType::from([("a", itself()), ("b", AlgebraicType::U8)]).into(),
                "{\"a\":",
                "}",
            ),
            (AlgebraicType::option(itself()), "{\"some\":", "}"),
            (AlgebraicType::array(itself()), "[", "]"),
        ];
        for (ty, opened, closed) in shapes {
            let mut def = RawModuleDefV9Builder::new();
            def.add_reducer("take", ProductType::from([("it", itself())]), None);
            let mut def = def.finish();
            def.typespace.types.push(ty);
            let def = bsatn::to_vec(&RawModuleDef::V9(def)).expect("a definition");
            let module = Module::from_def(&def).expect("a module");
            let json = format!("[{}1{}]", opened.repeat(200), closed.repeat(200));
            let reducer = module.reducer("take").expect("the reducer");
            let bad = from_json(&module, &reducer.name, &reducer.params, json.as_bytes()).expect_err("deep");
            assert!(bad.error.contains("recursion limit exceeded"), "{}", bad.error);
        }
    }
}
