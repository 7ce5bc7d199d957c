//! Which calls the local server would take: what it would refuse, the gateway refuses in its place and words, rather
//! than propose a call that can't take effect.

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
    #[error("invalid arguments for reducer {reducer}: {error}: {error}")]
    Args {
        /// The reducer's name.
        reducer: String,
        /// What is wrong with them.
        error: String,
    },
}

/// The reducer that a client may call by that name.
pub(crate) fn callable<'m>(module: &'m Module, name: &str) -> Result<&'m Reducer, CallRefused> {
    let reducer = module.reducer(name).ok_or(CallRefused::NoSuchReducer)?;
    match reducer.kind {
        ReducerKind::Init => Err(CallRefused::Lifecycle("Init")),
        ReducerKind::ClientConnected => Err(CallRefused::Lifecycle("OnConnect")),
        ReducerKind::ClientDisconnected => Err(CallRefused::Lifecycle("OnDisconnect")),
        ReducerKind::Scheduled => Err(CallRefused::NoSuchReducer),
        ReducerKind::Normal if reducer.private => Err(CallRefused::NoSuchReducer),
        ReducerKind::Normal => Ok(reducer),
    }
}

/// Checks a call whose arguments are BSATN. As SpacetimeDB does, bytes after the arguments are not looked at.
pub(crate) fn check<'m>(module: &'m Module, name: &str, mut args: &[u8]) -> Result<&'m Reducer, CallRefused> {
    let reducer = callable(module, name)?;
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
) -> Result<(&'m Reducer, Vec<u8>), CallRefused> {
    let reducer = callable(module, name)?;
    let seed = spacetimedb_sats::serde::SerdeWrapper(WithTypespace::new(module.typespace(), &reducer.params));
    let mut json = serde_json::Deserializer::from_slice(json);
    let args = serde::de::DeserializeSeed::deserialize(seed, &mut json)
        .and_then(|args| json.end().map(|()| args))
        .map_err(|error| refused(reducer, &error))?;
    let args = bsatn::to_vec(&args).map_err(|error| refused(reducer, &error))?;
    Ok((reducer, args))
}

fn refused(reducer: &Reducer, error: &dyn std::fmt::Display) -> CallRefused {
    CallRefused::Args {
        reducer: reducer.name.clone(),
        error: error.to_string(),
    }
}
