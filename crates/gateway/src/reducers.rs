//! Which calls of reducers and procedures the local server would take: what it would refuse, the gateway refuses in its place and words, rather
//! than propose a call that can't take effect.

mod args;
mod bounds;

use rtdb_determinism::{Module, Procedure, Reducer, ReducerKind};
use spacetimedb_sats::de::DeserializeSeed;
use spacetimedb_sats::{AlgebraicType, ProductType, Typespace, WithTypespace, bsatn};
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
    /// The module has no such procedure, or none that this caller may know of.
    #[error("No such procedure")]
    NoSuchProcedure,
    /// The arguments are not of its types.
    #[error("invalid arguments for {kind} {name}: {error}")]
    Args {
        /// `reducer` or `procedure`.
        kind: &'static str,
        /// Its name.
        name: String,
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
                name, error, cause, ..
            } => {
                let cause = cause.iter().map(|cause| format!(": {cause}"));
                let cause = cause.collect::<String>();
                format!("{self}: invalid arguments for function {name}: {error}: {error}{cause}")
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

/// Whether a caller is to know of a reducer of that name.
pub(crate) fn knows(module: &Module, name: &str, is_owner: bool) -> Result<(), CallRefused> {
    match callable(module, name, is_owner) {
        Err(why @ CallRefused::NoSuchReducer) => Err(why),
        Ok(_) | Err(_) => Ok(()),
    }
}

/// The procedure that a client may call by that name; the database's owner may call private ones.
fn callable_procedure<'m>(
    module: &'m Module,
    name: &str,
    is_owner: bool,
) -> Result<&'m Procedure, CallRefused> {
    let procedure = module.procedure(name);
    procedure
        .filter(|procedure| is_owner || !procedure.private)
        .ok_or(CallRefused::NoSuchProcedure)
}

/// Checks a call whose arguments are BSATN. As SpacetimeDB does, bytes after the arguments are not looked at.
pub(crate) fn check<'m>(
    module: &'m Module,
    name: &str,
    args: &[u8],
    is_owner: bool,
) -> Result<&'m Reducer, CallRefused> {
    let reducer = callable(module, name, is_owner)?;
    Callee::from(reducer).check(module, args)?;
    Ok(reducer)
}

/// The same for a procedure.
pub(crate) fn check_procedure<'m>(
    module: &'m Module,
    name: &str,
    args: &[u8],
    is_owner: bool,
) -> Result<&'m Procedure, CallRefused> {
    let procedure = callable_procedure(module, name, is_owner)?;
    Callee::from(procedure).check(module, args)?;
    Ok(procedure)
}

/// Turns a call's JSON arguments into BSATN.
pub(crate) fn args_from_json<'m>(
    module: &'m Module,
    name: &str,
    json: &[u8],
    is_owner: bool,
) -> Result<(&'m Reducer, Vec<u8>), CallRefused> {
    let reducer = callable(module, name, is_owner)?;
    Ok((reducer, Callee::from(reducer).args_from_json(module, json)?))
}

/// The same for a procedure.
pub(crate) fn procedure_args_from_json<'m>(
    module: &'m Module,
    name: &str,
    json: &[u8],
    is_owner: bool,
) -> Result<(&'m Procedure, Vec<u8>), CallRefused> {
    let procedure = callable_procedure(module, name, is_owner)?;
    Ok((procedure, Callee::from(procedure).args_from_json(module, json)?))
}

/// Checks that a value is no deeper than may be.
pub(crate) fn check_value(
    value: &[u8],
    ty: &AlgebraicType,
    types: &Typespace,
) -> Result<(), impl std::fmt::Display> {
    bounds::check(value, &ProductType::from([ty.clone()]), types)
}

/// What is called.
struct Callee<'m> {
    kind: &'static str,
    name: &'m str,
    params: &'m ProductType,
}

impl<'m> From<&'m Reducer> for Callee<'m> {
    fn from(reducer: &'m Reducer) -> Self {
        Self {
            kind: "reducer",
            name: &reducer.name,
            params: &reducer.params,
        }
    }
}

impl<'m> From<&'m Procedure> for Callee<'m> {
    fn from(procedure: &'m Procedure) -> Self {
        Self {
            kind: "procedure",
            name: &procedure.name,
            params: &procedure.params,
        }
    }
}

impl Callee<'_> {
    fn check(&self, module: &Module, mut args: &[u8]) -> Result<(), CallRefused> {
        let types = module.typespace();
        bounds::check(args, self.params, types).map_err(|error| self.refused(&error))?;
        WithTypespace::new(types, self.params)
            .validate(bsatn::Deserializer::new(&mut args))
            .map_err(|error| self.refused(&error))
    }

    fn args_from_json(&self, module: &Module, json: &[u8]) -> Result<Vec<u8>, CallRefused> {
        let args = args::from_json(module, self.name, self.params, json).map_err(|bad| {
            let (error, cause) = match bad.place {
                Some(place) => (place, Some(bad.error)),
                None => (bad.error, None),
            };
            self.refused_for(error, cause)
        })?;
        bsatn::to_vec(&args).map_err(|error| self.refused(&error))
    }

    fn refused(&self, error: &dyn std::fmt::Display) -> CallRefused {
        self.refused_for(error.to_string(), None)
    }

    fn refused_for(&self, error: String, cause: Option<String>) -> CallRefused {
        CallRefused::Args {
            kind: self.kind,
            name: self.name.to_owned(),
            error,
            cause,
        }
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
