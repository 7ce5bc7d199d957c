use rtdb_protocol::Subprotocol;
use rtdb_protocol::compress::Compression;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

/// How a client is told of a feed's updates. Clients that are told in the same way get the same bytes.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Shape {
    pub(super) subprotocol: Subprotocol,
    pub(super) compression: Compression,
    /// The feed's number of each query set, and the client's; sorted.
    pub(super) numbers: Vec<(u32, u32)>,
}

/// The shapes of a feed's members, each once.
#[derive(Debug, Default)]
pub(super) struct Shapes(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    shapes: BTreeSet<Arc<Shape>>,
    /// How many there may be before those are forgotten that nobody has any more.
    room: usize,
}

impl Shapes {
    /// The shape that all have who are told in the same way.
    pub(super) fn of(&self, shape: Shape) -> Arc<Shape> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(shape) = known.shapes.get(&shape) {
            return shape.clone();
        }
        if known.shapes.len() >= known.room {
            known.shapes.retain(|shape| Arc::strong_count(shape) > 1);
            known.room = known.shapes.len() * 2 + 16;
        }
        let shape = Arc::new(shape);
        known.shapes.insert(shape.clone());
        shape
    }
}

impl Shape {
    /// Whether several clients have it.
    pub(super) fn is_shared(self: &Arc<Self>) -> bool {
        // One is the feed's own.
        Arc::strong_count(self) > 2
    }
}
