//! The hidden tables and reducers, the same in definitions of both versions.

use spacetimedb_sats::{AlgebraicType, ProductType, ProductTypeElement};

use crate::header;
use crate::successes::Successes;
use crate::{DISCONNECT, HIDDEN_PREFIX, LOAD, MARK, PrepareError};

/// A hidden table. Its first column is its primary key.
pub(crate) struct HiddenTable {
    pub(crate) name: &'static str,
    /// The name of its row type.
    pub(crate) type_name: &'static str,
    /// The name of the primary key's index: the one that the server would give it.
    pub(crate) index: &'static str,
    /// Whether clients may subscribe to it.
    pub(crate) public: bool,
    /// Its columns.
    pub(crate) row: fn() -> ProductType,
}

/// One row: what has been applied ([`Successes`] among it), and the numbers that come next. `sequences` is a pair `key: u64, next: i64` for each
/// generated column, in the order of first use: a call that generates numbers changes no other hidden row for it.
pub(crate) const STATE: HiddenTable = HiddenTable {
    name: "rtdb_state",
    type_name: "RtdbState",
    index: "rtdb_state_id_idx_btree",
    public: false,
    row: || {
        let head = [("id", AlgebraicType::U8)];
        let numbers = ["index", "digest", "module"]
            .into_iter()
            .chain(Successes::COLUMNS);
        let numbers = numbers.map(|name| (name, AlgebraicType::U64));
        let tail = [("sequences", AlgebraicType::bytes())];
        product(head.into_iter().chain(numbers).chain(tail))
    },
};

/// A row for each session: the receipt of its last successful call.
pub(crate) const SESSION: HiddenTable = HiddenTable {
    name: "rtdb_session",
    type_name: "RtdbSession",
    index: "rtdb_session_session_idx_btree",
    public: true,
    row: || product([("session", AlgebraicType::U64), ("index", AlgebraicType::U64)]),
};

pub(crate) const TABLES: [&HiddenTable; 2] = [&STATE, &SESSION];

/// The hidden reducers and their own parameters, in the order of their ids.
pub(crate) fn reducers() -> [(&'static str, ProductType); 3] {
    let rows = AlgebraicType::array(AlgebraicType::bytes());
    [
        (MARK, product([("published", AlgebraicType::Bool)])),
        (DISCONNECT, product([])),
        (LOAD, product([("table", AlgebraicType::String), ("rows", rows)])),
    ]
}

/// A reducer's parameters behind the call header.
pub(crate) fn with_header(params: &ProductType) -> ProductType {
    header::params()
        .into_iter()
        .chain(params.elements.iter().cloned())
        .collect()
}

/// Refuses a name that belongs to us.
pub(crate) fn check_name(name: &str) -> Result<(), PrepareError> {
    match name.starts_with(HIDDEN_PREFIX) {
        true => Err(PrepareError::HiddenName(name.to_owned())),
        false => Ok(()),
    }
}

fn product(columns: impl IntoIterator<Item = (&'static str, AlgebraicType)>) -> ProductType {
    columns
        .into_iter()
        .map(|(name, ty)| ProductTypeElement::new(ty, Some(name.into())))
        .collect()
}
