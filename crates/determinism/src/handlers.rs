//! HTTP handlers. One runs as a procedure does: once, on the node that was asked. What is called is the hidden procedure
//! [`HANDLE`](crate::HANDLE), with the request as it came; it returns the answer.

use std::collections::HashSet;

use spacetimedb_lib::bsatn;
use spacetimedb_lib::db::raw_def::v10::{MethodOrAny, RawModuleDefV10};
use spacetimedb_lib::http::{Method, Request, Response, character_is_acceptable_for_route_path};
use spacetimedb_sats::{AlgebraicType, ProductType, ProductTypeElement};

use crate::PrepareError;
use crate::module::Names;

/// The most routes of a module. The server compares each with all others.
const ROUTES_MAX: usize = 1_024;
/// The most handlers.
const HANDLERS_MAX: usize = 1_024;
/// The longest path of a route, in bytes.
const PATH_BYTES_MAX: usize = 1_024;

/// Bytes that a handler may answer at most, head and body together.
pub const ANSWER_BYTES_MAX: u32 = 32 << 20;

/// Bytes of an answer's head at most: read, it takes several times as many. Clients and proxies take much less.
pub const ANSWER_HEAD_BYTES_MAX: u32 = 1 << 20;

/// Which handler answers which requests.
#[derive(Debug, Clone, Default)]
pub(crate) struct Routes {
    /// See [`Handler`].
    module: u64,
    all: Vec<Route>,
}

#[derive(Debug, Clone)]
struct Route {
    /// The handler's number.
    handler: u32,
    method: MethodOrAny,
    path: Box<str>,
}

/// A handler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Handler {
    /// What the module's handlers are known by, so that the number means the same to who calls and to who is called.
    module: u64,
    number: u32,
}

impl Routes {
    /// Those of a definition; what has no handler is left out.
    pub(crate) fn of(def: &RawModuleDefV10, names: &Names) -> Self {
        let handlers: Vec<_> = handlers(def, names).collect();
        let routes = def.http_routes().into_iter().flatten();
        let routes = routes.filter_map(|route| {
            let handler = names.function(&route.handler_function);
            let handler = handlers.iter().position(|known| *known == handler)?;
            Some(Route {
                handler: handler as u32,
                method: route.method.clone(),
                path: (*route.path).into(),
            })
        });
        Self {
            module: key(handlers.iter()),
            all: routes.collect(),
        }
    }

    /// The handler of a request, whose path is what follows `/route`: compared letter by letter.
    pub(crate) fn find(&self, method: &Method, path: &str) -> Option<Handler> {
        let mut routes = self.all.iter();
        let found = routes.find(|route| {
            let is_of_method = match &route.method {
                MethodOrAny::Method(of) => of == method,
                _ => true,
            };
            is_of_method && *route.path == *path
        })?;
        Some(Handler {
            module: self.module,
            number: found.handler,
        })
    }
}

/// What handlers of these names, in this order, are known by: FNV-1a.
pub(crate) fn key(names: impl Iterator<Item = impl AsRef<str>>) -> u64 {
    let bytes = names.flat_map(|name| [name.as_ref().as_bytes(), &[0]].concat());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// The handlers' names, by number.
pub(crate) fn handlers(def: &RawModuleDefV10, names: &Names) -> impl Iterator<Item = String> {
    let handlers = def.http_handlers().into_iter().flatten();
    handlers.map(|handler| names.function(&handler.source_name))
}

/// Refuses what the server would, and too much of it.
pub(crate) fn check(def: &RawModuleDefV10, names: &Names) -> Result<(), PrepareError> {
    let handlers: Vec<_> = handlers(def, names).collect();
    limit("HTTP handlers", handlers.len(), HANDLERS_MAX)?;
    let mut known = HashSet::new();
    for name in handlers {
        if let Some(twice) = known.replace(name) {
            return Err(PrepareError::Definition(format!(
                "there are two HTTP handlers called `{twice}`"
            )));
        }
    }
    let routes: Vec<_> = def.http_routes().into_iter().flatten().collect();
    limit("HTTP routes", routes.len(), ROUTES_MAX)?;
    for (at, route) in routes.iter().enumerate() {
        let path = &*route.path;
        let begins = path.is_empty() || path.starts_with('/');
        if !begins || !path.chars().all(character_is_acceptable_for_route_path) || path.len() > PATH_BYTES_MAX
        {
            return Err(PrepareError::RoutePath(
                path.chars().take(PATH_BYTES_MAX).collect(),
            ));
        }
        let handler = names.function(&route.handler_function);
        if !known.contains(&handler) {
            return Err(PrepareError::Definition(format!(
                "the route `{path}` leads to the HTTP handler `{handler}`, which is not there"
            )));
        }
        let is_any = |method: &MethodOrAny| matches!(method, MethodOrAny::Any);
        let overlaps = routes[..at].iter().any(|other| {
            let methods = [&other.method, &route.method];
            other.path == route.path && (methods[0] == methods[1] || methods.into_iter().any(is_any))
        });
        if overlaps {
            return Err(PrepareError::Definition(format!(
                "there are two routes for the same requests to `{path}`"
            )));
        }
    }
    Ok(())
}

fn limit(what: &'static str, count: usize, max: usize) -> Result<(), PrepareError> {
    match count <= max {
        true => Ok(()),
        false => Err(PrepareError::TooMuch {
            what,
            count: count as u64,
            max: max as u64,
        }),
    }
}

/// The own parameters of [`HANDLE`](crate::HANDLE).
pub(crate) fn params() -> ProductType {
    let params = [
        ("module", AlgebraicType::U64),
        ("handler", AlgebraicType::U32),
        ("request", AlgebraicType::bytes()),
        ("body", AlgebraicType::bytes()),
    ];
    params
        .into_iter()
        .map(|(name, ty)| ProductTypeElement::new(ty, Some(name.into())))
        .collect()
}

/// What it returns: the answer's head, its length before it, and the answer's body, as one array of bytes. No bytes at all if
/// another module runs by now.
pub(crate) fn returns() -> AlgebraicType {
    AlgebraicType::bytes()
}

/// The own arguments of [`HANDLE`](crate::HANDLE).
///
/// # Errors
/// If the request can't be encoded.
pub fn handle_args(handler: &Handler, request: &Request, body: &[u8]) -> Result<Vec<u8>, bsatn::EncodeError> {
    let request = bsatn::to_vec(request)?;
    let counted = |bytes: &[u8]| (bytes.len() as u32).to_le_bytes();
    Ok([
        &handler.module.to_le_bytes()[..],
        &handler.number.to_le_bytes(),
        &counted(&request),
        &request,
        &counted(body),
        body,
    ]
    .concat())
}

/// What [`HANDLE`](crate::HANDLE) returns.
pub enum Answer {
    /// What the handler has answered.
    Given {
        /// Status and headers.
        head: Response,
        /// Where the body begins.
        body_at: usize,
    },
    /// Nothing was done: the handlers are others than those that the call was made for.
    OtherModule,
}

impl Answer {
    /// Reads it.
    ///
    /// # Errors
    /// If the module has written something else, or the head is too large.
    pub fn decode(returned: &[u8]) -> Result<Self, bsatn::DecodeError> {
        let mut rest = returned;
        if bsatn::from_reader::<u32>(&mut rest)? == 0 {
            return Ok(Self::OtherModule);
        }
        let bytes: u32 = bsatn::from_reader(&mut rest)?;
        if bytes > ANSWER_HEAD_BYTES_MAX {
            let max = ANSWER_HEAD_BYTES_MAX >> 20;
            return Err(bsatn::DecodeError::Other(format!(
                "the head of an HTTP handler's answer may have {max} MiB at most"
            )));
        }
        let head_at = returned.len() - rest.len();
        let head = rest.get(..bytes as usize).ok_or_else(|| {
            bsatn::DecodeError::Other("the answer of an HTTP handler ends in the middle".to_owned())
        })?;
        Ok(Self::Given {
            head: bsatn::from_slice(head)?,
            body_at: head_at + head.len(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use spacetimedb_lib::http::Version;

    #[test]
    fn heads_have_a_limit() {
        let decoded = |value_bytes: usize| {
            let name: Box<str> = "x".into();
            let value: Box<[u8]> = vec![b'x'; value_bytes].into();
            let head = Response {
                headers: [(Some(name), value)].into_iter().collect(),
                version: Version::Http11,
                code: 200,
            };
            let head = bsatn::to_vec(&head).unwrap();
            let length = |bytes: usize| (bytes as u32).to_le_bytes();
            let all = [&length(head.len() + 4)[..], &length(head.len()), &head].concat();
            Answer::decode(&all).is_ok()
        };
        assert!(decoded(1_000_000));
        assert!(!decoded(ANSWER_HEAD_BYTES_MAX as usize));
    }
}
