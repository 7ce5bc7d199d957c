//! `v1.json`: v1's messages in JSON. The session speaks BSATN, to the client too, and what goes between it and the client's
//! socket is translated by the types of the module.

mod message;
mod output;
mod reader;
mod request;
#[cfg(test)]
pub(crate) mod tests;
mod value;

pub(crate) use message::message;
pub(crate) use reader::Untranslatable;
pub(crate) use request::{Asked, request};
pub(crate) use value::returned;
