//! What the tests make messages of, independent of any version's types.

use proptest::prelude::*;
use rtdb_protocol::HIDDEN_PREFIX;

pub(crate) type Row = Vec<u8>;

/// A table in a message: its name, and each query's inserts and deletes.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    pub name: String,
    pub updates: Vec<(Vec<Row>, Vec<Row>)>,
}

impl Table {
    pub(crate) fn new(name: &str, inserts: &[&[u8]]) -> Self {
        let rows = inserts.iter().map(|row| row.to_vec()).collect();
        Self {
            name: name.into(),
            updates: vec![(rows, vec![])],
        }
    }

    /// The receipt of a call: the changed row of `rtdb_session`.
    pub(crate) fn receipt(session: u64, index: u64) -> Self {
        let row = |index: u64| [session.to_le_bytes(), index.to_le_bytes()].concat();
        Self {
            name: "rtdb_session".into(),
            updates: vec![(vec![row(index)], vec![row(index - 1)])],
        }
    }

    pub(crate) fn is_visible(&self) -> bool {
        !self.name.starts_with(HIDDEN_PREFIX)
    }
}

pub(crate) fn visible(tables: &[Table]) -> Vec<Table> {
    tables
        .iter()
        .filter(|table| table.is_visible())
        .cloned()
        .collect()
}

pub(crate) fn rows() -> impl Strategy<Value = Vec<Row>> {
    let of_one_size = (1usize..24)
        .prop_flat_map(|size| prop::collection::vec(prop::collection::vec(any::<u8>(), size), 0..4));
    let of_any_size = prop::collection::vec(prop::collection::vec(any::<u8>(), 0..24), 0..4);
    prop_oneof![of_one_size, of_any_size]
}

pub(crate) fn tables() -> impl Strategy<Value = Vec<Table>> {
    let name = prop_oneof![
        Just("player".to_owned()),
        Just("rtdb_session".to_owned()),
        Just("rtdb_state".to_owned()),
        Just("rtdb".to_owned()),
        "[a-zé]{0,9}",
    ];
    let table = (name, prop::collection::vec((rows(), rows()), 0..3));
    prop::collection::vec(table.prop_map(|(name, updates)| Table { name, updates }), 0..5)
}

/// Whether rows can be packed with a fixed size, and which.
pub(crate) fn fixed_size(rows: &[Row]) -> Option<u16> {
    let size = rows.first()?.len();
    (size > 0 && rows.iter().all(|row| row.len() == size)).then_some(size as u16)
}

/// The 72 bytes before a replicated call's arguments.
pub(crate) fn header(
    sender: [u8; 32],
    connection: [u8; 16],
    timestamp_us: i64,
    index: u64,
    session: u64,
) -> Vec<u8> {
    let mut header = sender.to_vec();
    header.extend(connection);
    header.extend(timestamp_us.to_le_bytes());
    header.extend(index.to_le_bytes());
    header.extend(session.to_le_bytes());
    header
}

/// A payload as the server sends it uncompressed.
pub(crate) fn payload(messages: &[Vec<u8>]) -> bytes::Bytes {
    let mut payload = vec![0];
    messages.iter().for_each(|message| payload.extend(message));
    payload.into()
}
