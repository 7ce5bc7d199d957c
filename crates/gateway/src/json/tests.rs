use super::Untranslatable;
use super::message as message_of;
use super::request;
use crate::limits::{JSON_BYTES_MAX, JSON_VALUE_BYTES_MAX};
use bytes::Bytes;
use proptest::prelude::*;
use rtdb_determinism::Module;
use rtdb_protocol::{Subprotocol, reply};
use spacetimedb_lib::RawModuleDef;
use spacetimedb_lib::db::raw_def::v9::RawModuleDefV9Builder;
use spacetimedb_sats::{AlgebraicType, ProductType, ProductTypeElement, bsatn};

fn module() -> Module {
    module_with("text")
}

/// A module with a table `t`, and a name for its second column.
pub(crate) fn module_with(name: &str) -> Module {
    let mut def = RawModuleDefV9Builder::new();
    let column = |name: &str, ty| ProductTypeElement::new(ty, Some(name.to_owned().into()));
    let row = ProductType::new(Box::new([
        column("n", AlgebraicType::U8),
        column(name, AlgebraicType::String),
    ]));
    def.build_table_with_new_type("t", row, true).finish();
    let params = ProductType::from([("n", AlgebraicType::U8)]);
    def.add_reducer("add", params, None);
    let def = bsatn::to_vec(&RawModuleDef::V9(def.finish())).expect("a definition");
    Module::from_def(&def).expect("a module")
}

fn message(module: &Module, message: &[u8]) -> Result<Bytes, Untranslatable> {
    message_of(module, message, JSON_BYTES_MAX)
}

/// An answer to a query with rows whose places are these.
pub(crate) fn answer(starts: &[u64], rows: &[u8]) -> Vec<u8> {
    let text = |bytes: &[u8]| [&(bytes.len() as u32).to_le_bytes(), bytes].concat();
    let mut message = vec![4];
    message.extend(text(&[0, 255]));
    message.push(1);
    message.extend(1_u32.to_le_bytes());
    message.extend(text(b"t"));
    message.push(1);
    message.extend((starts.len() as u32).to_le_bytes());
    message.extend(starts.iter().flat_map(|start| start.to_le_bytes()));
    message.extend(text(rows));
    message.extend(7_i64.to_le_bytes());
    message
}

/// 1 and "a", 2 and a text of 4 bytes.
pub(crate) const ROWS: &[u8] = b"\x01\x01\0\0\0a\x02\x04\0\0\0\"\n\xc3\xbc";

#[test]
fn rows_are_texts_in_json() {
    let json = message(&module(), &answer(&[0, 6], ROWS)).expect("a message");
    let expected = r#"{"OneOffQueryResponse":{"message_id":"00ff","error":{"none":[]},"tables":[{"table_name":"t","rows":["{\"n\":1,\"text\":\"a\"}","{\"n\":2,\"text\":\"\\\"\\nü\"}"]}],"total_host_execution_duration":{"__time_duration_micros__":7}}}"#;
    assert_eq!(std::str::from_utf8(&json).expect("text"), expected);
    let hello = reply::hello(Subprotocol::V1, &[1; 32], "a token", &[255; 16]);
    let json = message(&module(), &hello).expect("a message");
    let json = std::str::from_utf8(&json).expect("text");
    assert!(
        json.contains(&u128::MAX.to_string()) && json.contains("0x0101"),
        "{json}"
    );
}

#[test]
fn what_is_no_message_is_not_translated() {
    let whole = answer(&[0, 6], ROWS);
    for end in 0..whole.len() {
        assert!(message(&module(), &whole[..end]).is_err(), "{end}");
    }
    assert!(message(&module(), &[&whole[..], &[0]].concat()).is_err());
    for starts in [&[6, 0][..], &[0, u64::MAX], &[0, 5], &[99]] {
        assert!(message(&module(), &answer(starts, ROWS)).is_err(), "{starts:?}");
    }
}

#[test]
fn too_much_is_not_translated() {
    let asked = answer(&[0, 6], ROWS);
    let json = message(&module(), &asked).expect("a message");
    assert_eq!(message_of(&module(), &asked, json.len()).expect("it fits"), json);
    for max in 0..json.len() {
        let refused = message_of(&module(), &asked, max);
        assert!(matches!(refused, Err(Untranslatable::TooLarge)), "{max}");
    }
    let long = module_with(&"n".repeat(JSON_BYTES_MAX / 2));
    assert!(matches!(message(&long, &asked), Err(Untranslatable::TooLarge)));

    let row = |bytes: usize| {
        let text = vec![b'a'; bytes - 5];
        let row = [&[1], &(text.len() as u32).to_le_bytes()[..], &text].concat();
        message(&module(), &answer(&[0], &row))
    };
    assert!(row(JSON_VALUE_BYTES_MAX).is_ok());
    assert!(matches!(
        row(JSON_VALUE_BYTES_MAX + 1),
        Err(Untranslatable::ValueTooLarge)
    ));
}

#[test]
fn arguments_that_can_not_be_read_are_told_from_messages_that_can_not() {
    let ask = |text: &str| request(text, &module(), false);
    let call = |args: &str| {
        let call = serde_json::json!({"reducer": "add", "args": args, "request_id": 1, "flags": 0});
        ask(&serde_json::json!({ "CallReducer": call }).to_string())
    };
    let good = call("[7]").expect("a message");
    assert!(good.misread.is_none() && good.frame.windows(5).any(|bytes| bytes == [1, 0, 0, 0, 7]));
    for args in ["[]", "[256]", "[", "", "{}", "[1] 2"] {
        assert!(call(args).expect("a message").misread.is_some(), "{args}");
    }
    for text in ["", "7", "{}", r#"{"CallReducer":{}}"#, r#"{"Else":[]}"#, "[0,[]]"] {
        assert!(ask(text).is_err(), "{text}");
    }
}

proptest! {
    #[test]
    fn nothing_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200), text in ".{0,200}") {
        let _ = message(&module(), &bytes);
        let _ = request(&text, &module(), false);
    }

    #[test]
    fn nothing_that_is_nearly_a_message_panics(at in 0_usize..60, byte: u8) {
        let mut bytes = answer(&[0, 6], ROWS);
        if let Some(changed) = bytes.get_mut(at) {
            *changed = byte;
        }
        let _ = message(&module(), &bytes);
    }
}
