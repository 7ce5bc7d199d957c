//! The hidden tables and reducers, the same in definitions of both versions.

use convert_case::{Case, Casing};
use spacetimedb_lib::ScheduleAt;
use spacetimedb_sats::raw_identifier::RawIdentifier;
use spacetimedb_sats::{AlgebraicType, ProductType, ProductTypeElement};

use crate::handlers;
use crate::header;
use crate::successes::Successes;
use crate::{
    APPLY, CLAIMS_TABLE, DISCONNECT, HANDLE, HIDDEN_PREFIX, IDENTIFY, LOAD, MARK, REFRESH, REPLAY, SCHEDULED,
    SEQUENCE_TABLE, SESSION_TABLE, SETTLE, STATE_TABLE, TICK, UNSCHEDULED,
};

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

/// How many generated columns have their numbers in [`STATE`]. Those of the others are in [`SEQUENCE`].
pub(crate) const STATE_PAIRS: usize = 4;

/// One row: what has been applied ([`Successes`] among it), and pairs of a generated column's key (the lower half) and the
/// number that comes next there (the upper half), in the order of first use. A key of 0 is a free pair.
///
/// Every call reads this row and rewrites it, and so it has few columns, all of fixed size: SpacetimeDB copies such rows
/// as they are (their layout is "static"), and takes others apart column by column, as it does with all that it logs.
pub(crate) const STATE: HiddenTable = HiddenTable {
    name: STATE_TABLE,
    type_name: "RtdbState",
    index: "rtdb_state_id_idx_btree",
    public: false,
    row: || {
        let head = [("id".into(), AlgebraicType::U8)];
        let numbers = ["index", "digest", "module"].map(|name| (name.into(), AlgebraicType::U64));
        let sums = Successes::COLUMNS.map(|name| (name.into(), AlgebraicType::U128));
        let pairs = (0..STATE_PAIRS).map(|nth| {
            (
                RawIdentifier::from(format!("sequence_{nth}")),
                AlgebraicType::U128,
            )
        });
        product(head.into_iter().chain(numbers).chain(sums).chain(pairs))
    },
};

/// At most one row: the pairs, `key: u64, next: i64`, that [`STATE`] has no room for. Only calls that generate numbers
/// of these columns touch it.
pub(crate) const SEQUENCE: HiddenTable = HiddenTable {
    name: SEQUENCE_TABLE,
    type_name: "RtdbSequence",
    index: "rtdb_sequence_id_idx_btree",
    public: false,
    row: || product([("id", AlgebraicType::U8), ("pairs", AlgebraicType::bytes())]),
};

/// A row for each session: the receipt of its last successful call.
pub(crate) const SESSION: HiddenTable = HiddenTable {
    name: SESSION_TABLE,
    type_name: "RtdbSession",
    index: "rtdb_session_session_idx_btree",
    public: true,
    row: || product([("session", AlgebraicType::U64), ("index", AlgebraicType::U64)]),
};

/// An event table: its rows are gone when the transaction ends. A row says that the transaction is a refresh, and of
/// which views: see `shim/views.rs`. Who looks at views hears of it which rows a refresh has brought. Only in definitions of
/// version 10.
pub(crate) const NOW: HiddenTable = HiddenTable {
    name: "rtdb_now",
    type_name: "RtdbNow",
    index: "rtdb_now_key_idx_btree",
    public: true,
    row: || product([("key", AlgebraicType::U64)]),
};

/// A row for each procedure of this node that has a transaction to commit: what it has written (see
/// [`Transaction`](crate::Transaction)). Local to the node, as [`VERDICT`] is. Only in definitions of version 10.
pub(crate) const OUTBOX: HiddenTable = HiddenTable {
    name: crate::OUTBOX,
    type_name: "RtdbOutbox",
    index: "rtdb_outbox_run_idx_btree",
    public: false,
    row: || {
        product([
            ("run", AlgebraicType::U64),
            ("seq", AlgebraicType::U64),
            ("base", AlgebraicType::U64),
            ("operations", AlgebraicType::bytes()),
        ])
    },
};

/// What has become of the last transaction of a procedure, by its run. Only in definitions of version 10.
pub(crate) const VERDICT: HiddenTable = HiddenTable {
    name: crate::procedures::VERDICT,
    type_name: "RtdbVerdict",
    index: "rtdb_verdict_run_idx_btree",
    public: false,
    row: || {
        product([
            ("run", AlgebraicType::U64),
            ("seq", AlgebraicType::U64),
            ("verdict", AlgebraicType::U8),
        ])
    },
};

/// A row for each session whose client came with a token: what the token says, and the index of the call that keeps it. That
/// of session 0 is for the call at its index alone, which belongs to no session.
pub(crate) const CLAIMS: HiddenTable = HiddenTable {
    name: CLAIMS_TABLE,
    type_name: "RtdbClaims",
    index: "rtdb_claims_session_idx_btree",
    public: false,
    row: || {
        product([
            ("session", AlgebraicType::U64),
            ("index", AlgebraicType::U64),
            ("claims", AlgebraicType::String),
        ])
    },
};

/// A row for each call that the module has asked for, and that is still to be made: the reducer's name, and its arguments. The
/// shim sees it as one of the module's own schedule tables, the last one, and so it is not among [`TABLES`].
///
/// Each module has it that is prepared [with it](crate::Options::calls_at_once), whether it asks for such calls or not: the next one
/// may not, and SpacetimeDB 1.2 removes no tables, 2.8 only as what breaks clients.
pub(crate) const IMMEDIATE: HiddenTable = HiddenTable {
    name: crate::IMMEDIATE,
    type_name: "RtdbImmediate",
    index: "rtdb_immediate_id_idx_btree",
    public: false,
    row: || {
        product([
            ("id", AlgebraicType::U64),
            ("at", ScheduleAt::get_type()),
            ("reducer", AlgebraicType::String),
            ("args", AlgebraicType::bytes()),
        ])
    },
};

/// Where in a row of it the column stands that says when, and the name's length behind it.
pub(crate) const IMMEDIATE_AT: u32 = 8;
pub(crate) const IMMEDIATE_NAME: u32 = IMMEDIATE_AT + 9;

pub(crate) const TABLES: [&HiddenTable; 4] = [&STATE, &SESSION, &SEQUENCE, &CLAIMS];

/// Those that follow in definitions of version 10.
pub(crate) const TABLES_SINCE_10: [&HiddenTable; 3] = [&NOW, &OUTBOX, &VERDICT];

/// The hidden reducers and their own parameters, in the order of their ids.
pub(crate) fn reducers() -> [(&'static str, ProductType); 7] {
    let rows = AlgebraicType::array(AlgebraicType::bytes());
    [
        (MARK, product([("published", AlgebraicType::Bool)])),
        (DISCONNECT, ProductType::unit()),
        (LOAD, product([("table", AlgebraicType::String), ("rows", rows)])),
        (IDENTIFY, product([("claims", AlgebraicType::String)])),
        (SCHEDULED, timer()),
        (UNSCHEDULED, timer()),
        (APPLY, product([("changes", AlgebraicType::bytes())])),
    ]
}

/// The hidden reducers that follow them in definitions of version 10, and their own parameters.
pub(crate) fn reducers_since_10() -> [(&'static str, ProductType); 3] {
    let replay = [
        ("base", AlgebraicType::U64),
        ("operations", AlgebraicType::bytes()),
    ];
    let run = [("run", AlgebraicType::U64), ("seq", AlgebraicType::U64)];
    [
        (REFRESH, product([("key", AlgebraicType::U64)])),
        (REPLAY, product(replay)),
        (
            SETTLE,
            product(run.into_iter().chain([("verdict", AlgebraicType::U8)])),
        ),
    ]
}

/// A hidden procedure: its name, its own parameters, and what it returns.
type Procedure = (&'static str, ProductType, AlgebraicType);

/// The hidden procedures, in the order of their ids, if the module has procedures or HTTP handlers.
pub(crate) fn procedures() -> [Procedure; 2] {
    [
        (TICK, timer(), AlgebraicType::unit()),
        (HANDLE, handlers::params(), handlers::returns()),
    ]
}

/// What [`encode_timer`](crate::encode_timer) writes.
fn timer() -> ProductType {
    product([
        ("schedule", AlgebraicType::U32),
        ("id", AlgebraicType::U64),
        ("due", AlgebraicType::U8),
        ("micros", AlgebraicType::I64),
    ])
}

/// A reducer's parameters behind the call header.
pub(crate) fn with_header(params: &ProductType) -> ProductType {
    header::params()
        .into_iter()
        .chain(params.elements.iter().cloned())
        .collect()
}

/// The first name in a text that is ours, in the server's spelling. A text is a name, or SQL with names in it. Version 10
/// turns names into snake case; and a table `rtdb` would have indexes that are called like ours.
pub(crate) fn reserved(text: &str) -> Option<String> {
    let words = text.split(|c: char| !(c.is_alphanumeric() || c == '_'));
    let ours = HIDDEN_PREFIX.trim_end_matches('_');
    words
        .filter(|word| {
            word.get(..ours.len())
                .is_some_and(|start| start.eq_ignore_ascii_case(ours))
        })
        .map(|word| word.to_case(Case::Snake))
        .find(|word| word == ours || word.starts_with(HIDDEN_PREFIX))
}

fn product(columns: impl IntoIterator<Item = (impl Into<RawIdentifier>, AlgebraicType)>) -> ProductType {
    columns
        .into_iter()
        .map(|(name, ty)| ProductTypeElement::new(ty, Some(name.into())))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What databases have that were prepared before: a server changes no column of a table with rows, 1.2 removes no table,
    /// and 2.8 only if that may break clients. Who needs another column needs another table, and a mark by which prepared
    /// modules say that they have it (see [`crate::section`]), as there is for claims, procedures and what is called at once.
    #[test]
    fn hidden_tables_stay_as_they_are() {
        let tables = TABLES.into_iter().chain(TABLES_SINCE_10).chain([&IMMEDIATE]);
        let said: Vec<_> = tables
            .map(|table| {
                let columns = (table.row)();
                let columns = columns.elements.iter().map(|column| {
                    let ty = match &column.algebraic_type {
                        ty if *ty == AlgebraicType::bytes() => "bytes".to_owned(),
                        ty if *ty == ScheduleAt::get_type() => "when".to_owned(),
                        ty => format!("{ty:?}"),
                    };
                    format!("{} {ty}", column.name().expect("all have names"))
                });
                let columns: Vec<_> = columns.collect();
                let access = if table.public { "public" } else { "private" };
                format!("{} {access}: {}", table.name, columns.join(", "))
            })
            .collect();
        let known = [
            "rtdb_state private: id U8, index U64, digest U64, module U64, successes_0 U128, successes_4 U128, \
             sequence_0 U128, sequence_1 U128, sequence_2 U128, sequence_3 U128",
            "rtdb_session public: session U64, index U64",
            "rtdb_sequence private: id U8, pairs bytes",
            "rtdb_claims private: session U64, index U64, claims String",
            "rtdb_now public: key U64",
            "rtdb_outbox private: run U64, seq U64, base U64, operations bytes",
            "rtdb_verdict private: run U64, seq U64, verdict U8",
            "rtdb_immediate private: id U64, at when, reducer String, args bytes",
        ];
        assert_eq!(said, known);
    }
}
