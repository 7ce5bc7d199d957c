//! The module that the database runs, and what clients say to it.
//!
//! It is a model of a part of `modules/counter-1x`: what a server would do that has the *prepared* module is in [`database`](crate::spacetime::database).

use bytes::{BufMut, Bytes, BytesMut};
use rtdb_consensus::command::{Owner, Publish};
use rtdb_determinism::header::{self, CallHeader};
use spacetimedb_lib::RawModuleDef;
use spacetimedb_lib::db::raw_def::v9::{Lifecycle, RawModuleDefV9Builder, TableAccess};
use spacetimedb_sats::{AlgebraicType, ProductType, bsatn};

/// The database that all use.
pub const DATABASE: Bytes = Bytes::from_static(&[7; 32]);

/// Inserts a row.
pub const ADD: &str = "add";
/// Removes the row whose number is the value that it is given, if there is one.
pub const REMOVE: &str = "remove";
/// Returns an error.
pub const FAIL: &str = "fail";
/// Traps.
pub const TRAP: &str = "explode";
/// Uses up its energy.
pub const BURN: &str = "burn";
/// What a client's arrival calls.
pub const CONNECTED: &str = "connected";
/// What its departure calls.
pub const DISCONNECTED: &str = "disconnected";

/// What clients subscribe to.
pub const QUERIES: [&str; 3] = [
    "SELECT * FROM counter",
    "SELECT * FROM counter WHERE id < 40",
    "SELECT * FROM counter WHERE value = 1",
];

/// What the names of calls begin with that insert a row.
pub const ADDS: &str = "add ";
/// What a module's bytes begin with; its number follows.
const MODULE: &str = "module ";
/// What stands before that in one with procedures: a WebAssembly module's beginning, and the section that says so.
const WITH_PROCEDURES: &[u8] = b"\0asm\x01\0\0\0\0\x11\x0frtdb_procedures\x01";
/// And what those of one begin with that no server takes.
pub const BAD: &str = "bad module ";
/// What those end with that are to clear the database.
pub const CLEARING: &str = " clearing";

/// The owner of all databases.
pub fn owner() -> Owner {
    Owner {
        identity: Bytes::from_static(&[1; 32]),
        issuer: "simulation".to_owned(),
        subject: "owner".to_owned(),
    }
}

/// The definition as the author wrote it.
fn definition() -> Bytes {
    let mut def = RawModuleDefV9Builder::new();
    let name = ("name", AlgebraicType::String);
    let added = ProductType::from([name.clone(), ("value", AlgebraicType::I64)]);
    let row = ProductType::from([
        ("id", AlgebraicType::U64),
        name.clone(),
        ("value", AlgebraicType::I64),
        ("at", AlgebraicType::I64),
        ("by", AlgebraicType::U256),
    ]);
    let counter = def.build_table_with_new_type("counter", row, true);
    counter.with_access(TableAccess::Public).finish();
    def.add_reducer(ADD, added.clone(), None);
    def.add_reducer(REMOVE, added, None);
    for reducer in [FAIL, BURN] {
        def.add_reducer(reducer, ProductType::from([name.clone()]), None);
    }
    // What stands behind its arguments nobody minds.
    def.add_reducer(TRAP, ProductType::unit(), None);
    def.add_reducer(CONNECTED, ProductType::unit(), Some(Lifecycle::OnConnect));
    def.add_reducer(DISCONNECTED, ProductType::unit(), Some(Lifecycle::OnDisconnect));
    let def = RawModuleDef::V9(def.finish());
    bsatn::to_vec(&def).map(Bytes::from).unwrap_or_default()
}

/// A publication of the module with a number.
pub fn publish(number: u64, clear: bool, is_bad: bool) -> Publish {
    let kind = if is_bad { BAD } else { MODULE };
    let end = if clear { CLEARING } else { "" };
    Publish {
        database: DATABASE,
        owner: Some(owner()),
        module: format!("{kind}{number}{end}").into(),
        original_def: definition(),
        clear,
        judged: true,
        ..Publish::default()
    }
}

/// The same of one that says that it has procedures.
pub fn publish_with_procedures(number: u64) -> Publish {
    let publish = publish(number, false, false);
    Publish {
        module: [WITH_PROCEDURES, &publish.module].concat().into(),
        ..publish
    }
}

/// The number of a module; what is wrong with one that no server takes.
pub fn number(module: &[u8]) -> Result<u64, String> {
    let text = String::from_utf8_lossy(module.strip_prefix(WITH_PROCEDURES).unwrap_or(module));
    let number = text.trim_end_matches(CLEARING).strip_prefix(MODULE);
    let number = number.and_then(|number| number.parse().ok());
    number.ok_or_else(|| "failed to parse WebAssembly module".to_owned())
}

/// The arguments of a call of any of the reducers, by which it is known.
pub fn args(session: u64, name: &str) -> Bytes {
    let header = CallHeader {
        session,
        ..CallHeader::default()
    };
    [&header.encode()[..], &own_args(name, 0)].concat().into()
}

/// The same without a header: a name, and a value.
pub fn own_args(name: &str, value: i64) -> Bytes {
    let mut args = BytesMut::with_capacity(4 + name.len() + 8);
    args.put_u32_le(name.len() as u32);
    args.put_slice(name.as_bytes());
    args.put_i64_le(value);
    args.freeze()
}

/// The value in a call's arguments.
pub fn value(args: &[u8]) -> Option<i64> {
    let (len, rest) = args.get(header::LEN..)?.split_first_chunk()?;
    let value = rest.get(u32::from_le_bytes(*len) as usize..)?;
    Some(i64::from_le_bytes(*value.first_chunk()?))
}

/// The name that a call is known by.
pub fn name(args: &[u8]) -> Option<&str> {
    let (len, text) = args.get(header::LEN..)?.split_first_chunk()?;
    let text = text.get(..u32::from_le_bytes(*len) as usize)?;
    std::str::from_utf8(text).ok()
}
