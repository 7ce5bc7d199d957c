//! Subscriptions that clients share: one to the local server, for as many clients as ask for the same.
//!
//! A [`feed`](task) is a connection to the local server on which a database's queries are subscribed to, each once. Its
//! [`core`] keeps what each of them shows and gives it to whoever asks, at a definite place among the updates; updates go
//! on in [batches](batch), whose frames are made once for all clients of the same [shape]. It also hears the receipts
//! of all sessions. When the server dies or gets another module, the feed is restored as a client of its own would be, and
//! all its members hear what they missed.
//!
//! v1 does not tell query sets apart: there each list of queries has a feed of its own. What depends on who asks is not
//! shared (`shareable.rs`).

mod batch;
mod core;
mod gathering;
mod item;
mod member;
mod registry;
mod shape;
mod shareable;
mod task;

pub(crate) use batch::{Batch, Frames};
pub(crate) use item::Item;
pub(crate) use member::Member;
pub(crate) use registry::{FeedConfig, Feeds};
pub(crate) use shape::Shape;
pub(crate) use shareable::shareable;
