//! What callers' tokens say, as modules see it.

use rtdb_determinism::header::{CallHeader, NO_RECEIPT};
use rtdb_determinism::{CLAIMS_BYTES_MAX, Claims, DISCONNECT, IDENTIFY, prepare};
use spacetimedb_lib::db::raw_def::v9::RawModuleDefV9;
use spacetimedb_lib::{RawModuleDef, bsatn};
use spacetimedb_sats::AlgebraicType;

use crate::fixtures::wasm;
use crate::generated::product;
use crate::host::{Failure, FakeHost};
use crate::raw_module::{encode, escape, module, reducer, table};

/// A module that asks for its caller's claims, in pieces of 7 bytes, and inserts them into the table `said`. `other` asks
/// for somebody else's. What can't be makes it trap.
pub(crate) fn asking() -> Vec<u8> {
    let mut def = RawModuleDefV9::default();
    table(&mut def, "said", product(vec![AlgebraicType::bytes()]), &[]);
    for name in ["own", "other"] {
        reducer(&mut def, name);
    }
    let def = encode(RawModuleDef::V9(def));
    let text = include_str!("asking.wat")
        .replace("{DEF}", &escape(&def))
        .replace("{LEN}", &def.len().to_string());
    wat::parse_str(text).expect("the module is well formed")
}

fn host() -> FakeHost {
    FakeHost::new(&prepare(&asking()).expect("it can be prepared").wasm, 4096)
}

fn header(index: u64, session: u64) -> CallHeader {
    CallHeader {
        connection: [session as u8 + 1; 16],
        index,
        session,
        ..CallHeader::default()
    }
}

fn identify(host: &mut FakeHost, header: CallHeader, claims: &str) -> Result<(), Failure> {
    host.call(IDENTIFY, header, &bsatn::to_vec(claims).unwrap())
}

/// What the module has seen in a call.
fn seen(host: &mut FakeHost, reducer: &str, header: CallHeader) -> String {
    host.db.tables[0].rows.clear();
    host.call(reducer, header, &[]).unwrap();
    let row = host.db.rows("said").remove(0);
    String::from_utf8(bsatn::from_slice(&row).unwrap()).unwrap()
}

#[test]
fn a_session_keeps_what_its_token_says() {
    let mut host = host();
    assert_eq!(seen(&mut host, "own", header(1, 0)), "");
    identify(&mut host, header(2, 2), "{\"sub\":\"bob\"}").unwrap();
    identify(&mut host, header(3, 3), "{\"sub\":\"eve\",\"roles\":[\"admin\"]}").unwrap();
    for index in [4, 5] {
        assert_eq!(seen(&mut host, "own", header(index, 2)), "{\"sub\":\"bob\"}");
        host.restart();
    }
    assert_eq!(
        seen(&mut host, "own", header(6, 3)),
        "{\"sub\":\"eve\",\"roles\":[\"admin\"]}"
    );
    assert_eq!(host.receipts(), [(2, 5), (3, 6)]);
    // Without a receipt, too.
    let header_without = |index| CallHeader {
        session: 2 | NO_RECEIPT,
        ..header(index, 2)
    };
    assert_eq!(seen(&mut host, "own", header_without(7)), "{\"sub\":\"bob\"}");
    assert_eq!(host.receipts(), [(2, 5), (3, 6)]);
    // Neither somebody else's, nor without a session, nor for the log itself.
    assert_eq!(seen(&mut host, "other", header(8, 2)), "");
    assert_eq!(seen(&mut host, "own", header(9, 0)), "");
    assert_eq!(seen(&mut host, "own", header(10, 4)), "");

    host.call(DISCONNECT, header(11, 2), &[]).unwrap();
    assert_eq!(seen(&mut host, "own", header(12, 2)), "");
    assert_eq!(host.db.rows("rtdb_claims").len(), 1);
}

#[test]
fn a_call_without_a_session_sees_what_was_said_for_it_alone() {
    let mut host = host();
    identify(&mut host, header(5, 0), "first").unwrap();
    // Made again after a crash.
    identify(&mut host, header(5, 0), "first").unwrap();
    assert_eq!(seen(&mut host, "own", header(5, 0)), "first");
    assert_eq!(seen(&mut host, "own", header(6, 0)), "");
    identify(&mut host, header(7, 0), "second").unwrap();
    assert_eq!(seen(&mut host, "own", header(7, 0)), "second");
    // What is applied already is not said again.
    identify(&mut host, header(7, 0), "third").unwrap();
    identify(&mut host, header(3, 9), "late").unwrap();
    let rows = host.db.rows("rtdb_claims");
    assert_eq!(rows.len(), 1);
    assert!(rows[0].ends_with(b"second"));
}

#[test]
fn identifying_is_no_call_of_its_own() {
    let mut host = host();
    seen(&mut host, "own", header(1, 0));
    let before = host.db.rows("rtdb_state");
    identify(&mut host, header(2, 2), "said").unwrap();
    assert_eq!(host.db.rows("rtdb_state"), before);
    assert_eq!(host.receipts(), []);
    assert_eq!(seen(&mut host, "own", header(2, 2)), "said");
}

#[test]
fn claims_are_as_long_as_they_may_be() {
    let mut host = host();
    let long = "x".repeat(CLAIMS_BYTES_MAX);
    identify(&mut host, header(1, 1), &long).unwrap();
    assert!(seen(&mut host, "own", header(2, 1)) == long);
    let longer = "x".repeat(CLAIMS_BYTES_MAX + 1);
    assert_eq!(identify(&mut host, header(3, 3), &longer), Err(Failure::Trapped));
}

#[test]
fn a_prepared_module_says_whether_it_asks() {
    let claims = |wasm: &[u8]| Claims::of(&prepare(wasm).expect("it can be prepared").wasm);
    assert_eq!(claims(&asking()), Claims::Read);
    assert_eq!(Claims::of(&asking()), Claims::Ignored);
    assert_eq!(claims(&wasm("counter-1x")), Claims::Ignored);
    assert!(claims(&wasm("counter-2x")) >= Claims::Kept);

    // Whatever it says of itself.
    let mut def = RawModuleDefV9::default();
    reducer(&mut def, "add");
    let mut boasting = module(&encode(RawModuleDef::V9(def)), "");
    boasting.extend(b"\0\x0d\x0brtdb_claims\x02");
    assert_eq!(Claims::of(&boasting), Claims::Read);
    assert_eq!(claims(&boasting), Claims::Ignored);
}

/// Other crates' tests publish it.
#[test]
fn the_prebuilt_module_is_of_its_source() {
    assert!(
        asking() == include_bytes!("asking.wasm"),
        "write `asking.wasm` anew: see `write_prebuilt`"
    );
}

#[test]
#[ignore = "writes the module that the test above reads"]
fn write_prebuilt() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/suite/asking.wasm");
    std::fs::write(path, asking()).unwrap();
}
