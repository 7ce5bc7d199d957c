use super::shape::Shape;
use crate::budget::Budget;
use crate::limits::{FRAMES_BYTES_MAX, V3_FRAME_BYTES_MAX};
use crate::socket::{BINARY, FRAME_HEAD_BYTES_MAX, frame_head};
use bytes::{BufMut, Bytes, BytesMut};
use rtdb_protocol::Subprotocol;
use rtdb_protocol::compress;
use rtdb_protocol::server::Update;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

/// Updates that came together, for all members of a feed.
pub(crate) struct Batch {
    updates: Vec<Update>,
    /// Which of them tell of a query set.
    by_set: BTreeMap<u32, Vec<usize>>,
    /// The receipts among them: of which session, in which update.
    receipts: Vec<(u64, usize)>,
    bytes: usize,
    /// What clients of the same shape are sent.
    frames: Mutex<Vec<(Arc<Shape>, Arc<Frames>)>>,
}

/// What clients of one shape are sent of a batch.
#[derive(Debug)]
pub(crate) enum Frames {
    /// WebSocket frames, ready to be written.
    Ready(Bytes),
    /// Payloads that are too large for that.
    Payloads(Vec<Bytes>),
}

impl Batch {
    /// Updates of a feed, in order. In v1 all of them tell of its `only` query set.
    pub(crate) fn new(updates: Vec<Update>, only: Option<u32>) -> Self {
        let mut by_set: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
        let mut receipts = Vec::new();
        for (at, update) in updates.iter().enumerate() {
            let sets = update.changes().query_sets();
            for set in sets.chain(only.filter(|_| update.changes().visible().next().is_some())) {
                by_set.entry(set).or_default().push(at);
            }
            receipts.extend(update.changes().receipts().map(|(session, _)| (session, at)));
        }
        Self {
            bytes: updates.iter().map(Update::bytes).sum(),
            updates,
            by_set,
            receipts,
            frames: Mutex::default(),
        }
    }

    /// The query sets that it tells of.
    pub(super) fn query_sets(&self) -> impl Iterator<Item = u32> + '_ {
        self.by_set.keys().copied()
    }

    /// The sessions whose receipts it has.
    pub(super) fn sessions(&self) -> impl Iterator<Item = u64> + '_ {
        self.receipts.iter().map(|(session, _)| *session)
    }

    /// How many updates there are.
    pub(crate) fn len(&self) -> usize {
        self.updates.len()
    }

    /// Their bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The update at a place.
    pub(crate) fn update(&self, at: usize) -> Option<&Update> {
        self.updates.get(at)
    }

    /// Whether it has a receipt of a session.
    pub(crate) fn has_receipt(&self, session: u64) -> bool {
        self.receipts.iter().any(|(of, _)| *of == session)
    }

    /// Whether nothing has to be made any more for clients of a shape.
    pub(crate) fn is_made(&self, shape: &Arc<Shape>) -> bool {
        self.made(shape).is_some()
    }

    /// What a client of a shape is sent.
    pub(crate) fn frames(&self, shape: &Arc<Shape>, budget: &Budget) -> Arc<Frames> {
        if let Some(frames) = self.made(shape) {
            return frames;
        }
        let frames = Arc::new(match self.make(shape) {
            Frames::Ready(bytes) => Frames::Ready(budget.shared(bytes)),
            Frames::Payloads(payloads) => {
                Frames::Payloads(payloads.into_iter().map(|bytes| budget.shared(bytes)).collect())
            }
        });
        if shape.is_shared() {
            let mut made = self.frames.lock().unwrap_or_else(PoisonError::into_inner);
            made.push((shape.clone(), frames.clone()));
        }
        frames
    }

    /// What a client of a shape sees of the update at a place.
    pub(crate) fn message(&self, at: usize, shape: &Shape) -> Option<Bytes> {
        let update = self.updates.get(at)?;
        update.renumbered(&shape.numbers).into_other()
    }

    fn made(&self, shape: &Arc<Shape>) -> Option<Arc<Frames>> {
        let made = self.frames.lock().unwrap_or_else(PoisonError::into_inner);
        let mut made = made.iter();
        made.find_map(|(of, frames)| Arc::ptr_eq(of, shape).then(|| frames.clone()))
    }

    /// The places of the updates that a shape sees.
    fn seen(&self, shape: &Shape) -> Vec<usize> {
        let sets = shape.numbers.iter().filter_map(|(set, _)| self.by_set.get(set));
        let mut seen: Vec<_> = sets.flatten().copied().collect();
        if shape.numbers.len() > 1 {
            seen.sort_unstable();
            seen.dedup();
        }
        seen
    }

    fn make(&self, shape: &Shape) -> Frames {
        let messages = self
            .seen(shape)
            .into_iter()
            .filter_map(|at| self.message(at, shape));
        let messages: Vec<_> = messages.collect();
        let together = |bytes: &mut usize, message: &Bytes| {
            *bytes += message.len();
            shape.subprotocol == Subprotocol::V3 && *bytes <= V3_FRAME_BYTES_MAX
        };
        let mut payloads = Vec::new();
        let mut left = messages.as_slice();
        while let Some(first) = left.first() {
            let mut bytes = first.len();
            let more = left[1..]
                .iter()
                .take_while(|message| together(&mut bytes, message));
            let (now, later) = left.split_at(1 + more.count());
            let parts = now.iter().map(|message| message.as_ref());
            payloads.push(compress::encode_all(shape.compression, parts));
            left = later;
        }
        let bytes = payloads.iter().map(Bytes::len).sum::<usize>();
        if bytes > FRAMES_BYTES_MAX {
            return Frames::Payloads(payloads);
        }
        let mut frames = BytesMut::with_capacity(bytes + payloads.len() * FRAME_HEAD_BYTES_MAX);
        for payload in &payloads {
            frames.put_slice(&frame_head(BINARY, true, payload.len()));
            frames.put_slice(payload);
        }
        Frames::Ready(frames.freeze())
    }
}

impl Frames {
    /// Their bytes.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Ready(bytes) => bytes.len(),
            Self::Payloads(payloads) => payloads.iter().map(Bytes::len).sum(),
        }
    }
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} updates", self.updates.len())
    }
}

impl PartialEq for Batch {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }
}
