//! Which calls the local server would take: what it would refuse, the gateway refuses in its place and words, rather
//! than propose a call that can't take effect.

mod args;
mod bounds;

use rtdb_determinism::{Module, Reducer, ReducerKind};
use spacetimedb_sats::de::DeserializeSeed;
use spacetimedb_sats::{WithTypespace, bsatn};
use thiserror::Error;

/// Why a call is refused, in SpacetimeDB's words.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum CallRefused {
    /// The module has no such reducer, or none that this caller may know of.
    #[error("no such reducer")]
    NoSuchReducer,
    /// Only the database itself calls it.
    #[error("can't directly call special {0} lifecycle reducer")]
    Lifecycle(&'static str),
    /// The arguments are not of the reducer's types.
    #[error("invalid arguments for reducer {reducer}: {error}")]
    Args {
        /// The reducer's name.
        reducer: String,
        /// What is wrong with them; within JSON, where.
        error: String,
        /// Within JSON, what.
        cause: Option<String>,
    },
}

impl CallRefused {
    /// With the causes behind it, as SpacetimeDB 2.8.3 words it over HTTP and v1. 1.2.0 says the error but twice.
    pub(crate) fn with_cause(&self) -> String {
        match self {
            Self::Args {
                reducer,
                error,
                cause,
            } => {
                let cause = cause.iter().map(|cause| format!(": {cause}"));
                let cause = cause.collect::<String>();
                format!("{self}: invalid arguments for function {reducer}: {error}: {error}{cause}")
            }
            _ => self.to_string(),
        }
    }
}

/// The reducer that a client may call by that name; the database's owner may call private ones.
fn callable<'m>(module: &'m Module, name: &str, is_owner: bool) -> Result<&'m Reducer, CallRefused> {
    let reducer = module.reducer(name).ok_or(CallRefused::NoSuchReducer)?;
    match reducer.kind {
        ReducerKind::Init => Err(CallRefused::Lifecycle("Init")),
        ReducerKind::ClientConnected => Err(CallRefused::Lifecycle("OnConnect")),
        ReducerKind::ClientDisconnected => Err(CallRefused::Lifecycle("OnDisconnect")),
        ReducerKind::Scheduled | ReducerKind::Normal if reducer.private && !is_owner => {
            Err(CallRefused::NoSuchReducer)
        }
        ReducerKind::Scheduled | ReducerKind::Normal => Ok(reducer),
    }
}

/// Checks a call whose arguments are BSATN. As SpacetimeDB does, bytes after the arguments are not looked at.
pub(crate) fn check<'m>(
    module: &'m Module,
    name: &str,
    mut args: &[u8],
    is_owner: bool,
) -> Result<&'m Reducer, CallRefused> {
    let reducer = callable(module, name, is_owner)?;
    bounds::check(args, &reducer.params, module.typespace()).map_err(|error| refused(reducer, &error))?;
    WithTypespace::new(module.typespace(), &reducer.params)
        .validate(bsatn::Deserializer::new(&mut args))
        .map_err(|error| refused(reducer, &error))?;
    Ok(reducer)
}

/// Turns a call's JSON arguments into BSATN.
pub(crate) fn args_from_json<'m>(
    module: &'m Module,
    name: &str,
    json: &[u8],
    is_owner: bool,
) -> Result<(&'m Reducer, Vec<u8>), CallRefused> {
    let reducer = callable(module, name, is_owner)?;
    let args = args::from_json(module, reducer, json).map_err(|bad| {
        let (error, cause) = match bad.place {
            Some(place) => (place, Some(bad.error)),
            None => (bad.error, None),
        };
        CallRefused::Args {
            reducer: reducer.name.clone(),
            error,
            cause,
        }
    })?;
    let args = bsatn::to_vec(&args).map_err(|error| refused(reducer, &error))?;
    Ok((reducer, args))
}

fn refused(reducer: &Reducer, error: &dyn std::fmt::Display) -> CallRefused {
    CallRefused::Args {
        reducer: reducer.name.clone(),
        error: error.to_string(),
        cause: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use spacetimedb_lib::RawModuleDef;
    use spacetimedb_lib::db::raw_def::v9::{Lifecycle, RawModuleDefV9Builder};
    use spacetimedb_sats::{AlgebraicType, AlgebraicTypeRef, ProductType};

    fn module() -> Module {
        let mut def = RawModuleDefV9Builder::new();
        let timer = ProductType::from([("id", AlgebraicType::U64)]);
        def.build_table_with_new_type("timer", timer, true)
            .with_primary_key(0)
            .with_schedule("tick", 0)
            .finish();
        def.add_reducer("tick", ProductType::unit(), None);
        def.add_reducer("start", ProductType::unit(), Some(Lifecycle::Init));
        def.add_reducer("add", ProductType::from([("n", AlgebraicType::U8)]), None);
        let def = bsatn::to_vec(&RawModuleDef::V9(def.finish())).expect("a definition");
        Module::from_def(&def).expect("a module")
    }

    #[test]
    fn the_owner_alone_may_call_a_private_reducer() {
        let module = module();
        assert!(check(&module, "tick", &[], true).is_ok());
        assert_eq!(
            check(&module, "tick", &[], false).err(),
            Some(CallRefused::NoSuchReducer)
        );
        for is_owner in [true, false] {
            assert_eq!(
                check(&module, "start", &[], is_owner).err(),
                Some(CallRefused::Lifecycle("Init"))
            );
            assert!(check(&module, "add", &[1], is_owner).is_ok());
        }
    }

    #[test]
    fn what_is_wrong_with_arguments_is_said_thrice_over_http_and_v1() {
        let refused = check(&module(), "add", &[], false).expect_err("no arguments");
        let message = refused.to_string();
        let cause = message
            .strip_prefix("invalid arguments for reducer add: ")
            .expect("a cause");
        assert_eq!(refused.with_cause().matches(cause).count(), 3);
    }

    /// A module with a reducer of one parameter, which may be the typespace's only type.
    fn planting(name: &'static str, tree: AlgebraicType, ty: AlgebraicType) -> Module {
        let mut def = RawModuleDefV9Builder::new();
        def.add_reducer(name, ProductType::from([("it", ty)]), None);
        let mut def = def.finish();
        def.typespace.types.push(tree);
        let def = bsatn::to_vec(&RawModuleDef::V9(def)).expect("a definition");
        Module::from_def(&def).expect("a module")
    }

    fn itself() -> AlgebraicType {
        AlgebraicType::Ref(AlgebraicTypeRef(0))
    }

    #[test]
    fn arguments_that_are_nested_without_end_are_refused() {
        let branch = ProductType::from([("branches", AlgebraicType::array(itself()))]);
        let module = planting("plant", branch.into(), itself());
        let plant = |levels: usize| {
            let args = [1_u32.to_le_bytes().repeat(levels), vec![0; 4]].concat();
            check(&module, "plant", &args, false).map(drop)
        };
        for levels in [1, 40] {
            assert_eq!(plant(levels), Ok(()), "{levels}");
        }
        for levels in [50, 1_000, 100_000] {
            assert!(matches!(plant(levels), Err(CallRefused::Args { .. })), "{levels}");
        }
        // Each of these takes no bytes.
        let module = planting("fall", ProductType::from([("on", itself())]).into(), itself());
        let fall = check(&module, "fall", &[], false).map(drop);
        assert!(matches!(fall, Err(CallRefused::Args { .. })));
    }

    #[test]
    fn arguments_with_billions_of_parts_without_bytes_are_refused() {
        let units = AlgebraicType::array(AlgebraicType::unit());
        let module = planting("count", AlgebraicType::unit(), units);
        let count = |count: u32| check(&module, "count", &count.to_le_bytes(), false).map(drop);
        assert_eq!(count(1_000), Ok(()));
        assert!(matches!(count(u32::MAX), Err(CallRefused::Args { .. })));
    }
}
