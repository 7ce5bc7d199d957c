//! What a client is told.

use super::reader::{Reader, Untranslatable};
use super::value::{self, Names};
use bytes::Bytes;
use rtdb_determinism::Module;
use std::fmt::{Display, Write};

/// Translates a message of v1 into JSON, with the rows of the module's tables.
///
/// # Errors
/// [`Untranslatable`]
pub(crate) fn message(module: &Module, message: &[u8]) -> Result<Bytes, Untranslatable> {
    let mut translator = Translator {
        module,
        from: Reader::new(message),
        json: String::with_capacity(2 * message.len()),
    };
    translator.message()?;
    translator.from.end()?;
    Ok(translator.json.into())
}

struct Translator<'a> {
    module: &'a Module,
    from: Reader<'a>,
    json: String,
}

type Done = Result<(), Untranslatable>;

impl<'a> Translator<'a> {
    fn message(&mut self) -> Done {
        match self.from.u8()? {
            0 => self.variant("InitialSubscription", |it| {
                it.key("{", "database_update");
                it.update(Names::With)?;
                it.number_of(",", "request_id", Reader::u32)?;
                it.duration(",")?;
                it.put("}")
            }),
            1 => self.variant("TransactionUpdate", Self::transaction),
            2 => self.variant("TransactionUpdateLight", |it| {
                it.number_of("{", "request_id", Reader::u32)?;
                it.key(",", "update");
                it.update(Names::Without)?;
                it.put("}")
            }),
            3 => self.variant("IdentityToken", |it| {
                it.identity("{", "identity")?;
                it.text_of(",", "token")?;
                it.connection(",", "connection_id")?;
                it.put("}")
            }),
            4 => self.variant("OneOffQueryResponse", Self::answer),
            5 => self.variant("SubscribeApplied", Self::applied),
            6 => self.variant("UnsubscribeApplied", Self::applied),
            7 => self.variant("SubscriptionError", |it| {
                it.number_of("{", "total_host_execution_duration_micros", Reader::u64)?;
                for name in ["request_id", "query_id", "table_id"] {
                    it.key(",", name);
                    it.option(|it| {
                        let number = it.from.u32()?;
                        it.put(number)
                    })?;
                }
                it.text_of(",", "error")?;
                it.put("}")
            }),
            8 => self.variant("SubscribeMultiApplied", Self::applied_to_many),
            9 => self.variant("UnsubscribeMultiApplied", Self::applied_to_many),
            10 => self.variant("ProcedureResult", Self::procedure),
            tag => Err(Untranslatable(format!("there is no message {tag}"))),
        }
    }

    fn transaction(&mut self) -> Done {
        self.key("{", "status");
        match self.from.u8()? {
            0 => self.variant("Committed", |it| it.update(Names::Without))?,
            1 => self.variant("Failed", Self::text)?,
            _ => self.put(r#"{"OutOfEnergy":[]}"#)?,
        }
        self.timestamp(",")?;
        self.identity(",", "caller_identity")?;
        self.connection(",", "caller_connection_id")?;
        self.key(",", "reducer_call");
        let reducer = self.from.text()?;
        self.key("{", "reducer_name");
        self.quoted(reducer)?;
        self.number_of(",", "reducer_id", Reader::u32)?;
        self.key(",", "args");
        let args = value::args(self.module, reducer, self.from.bytes()?);
        self.quoted(&args)?;
        self.number_of(",", "request_id", Reader::u32)?;
        self.put("}")?;
        self.key(",", "energy_quanta_used");
        self.number_of("{", "quanta", Reader::u128)?;
        self.put("}")?;
        self.duration(",")?;
        self.put("}")
    }

    fn answer(&mut self) -> Done {
        self.key("{", "message_id");
        let id = self.from.bytes()?;
        self.put('"')?;
        for byte in id {
            self.put(format_args!("{byte:02x}"))?;
        }
        self.put('"')?;
        self.key(",", "error");
        self.option(Self::text)?;
        self.key(",", "tables");
        self.list(|it| {
            let table = it.from.text()?;
            it.key("{", "table_name");
            it.quoted(table)?;
            it.key(",", "rows");
            it.rows(table, Names::With)?;
            it.put("}")
        })?;
        self.duration(",")?;
        self.put("}")
    }

    fn applied(&mut self) -> Done {
        self.applied_head()?;
        self.key(",", "rows");
        self.number_of("{", "table_id", Reader::u32)?;
        self.text_of(",", "table_name")?;
        self.key(",", "table_rows");
        self.table(Names::With)?;
        self.put("}}")
    }

    fn applied_to_many(&mut self) -> Done {
        self.applied_head()?;
        self.key(",", "update");
        self.update(Names::With)?;
        self.put("}")
    }

    fn applied_head(&mut self) -> Done {
        self.number_of("{", "request_id", Reader::u32)?;
        self.number_of(",", "total_host_execution_duration_micros", Reader::u64)?;
        self.key(",", "query_id");
        self.number_of("{", "id", Reader::u32)?;
        self.put("}")
    }

    fn procedure(&mut self) -> Done {
        self.key("{", "status");
        match self.from.u8()? {
            // It is JSON already.
            0 => self.variant("Returned", Self::text)?,
            1 => self.put(r#"{"OutOfEnergy":[]}"#)?,
            _ => self.variant("InternalError", Self::text)?,
        }
        self.timestamp(",")?;
        self.duration(",")?;
        self.number_of(",", "request_id", Reader::u32)?;
        self.put("}")
    }

    fn update(&mut self, names: Names) -> Done {
        self.key("{", "tables");
        self.list(|it| it.table(names))?;
        self.put("}")
    }

    fn table(&mut self, names: Names) -> Done {
        self.number_of("{", "table_id", Reader::u32)?;
        let table = self.from.text()?;
        self.key(",", "table_name");
        self.quoted(table)?;
        self.number_of(",", "num_rows", Reader::u64)?;
        self.key(",", "updates");
        self.list(|it| {
            if it.from.u8()? != 0 {
                return Err(Untranslatable::new(
                    "rows are compressed, and nobody has asked for that",
                ));
            }
            it.key("{", "deletes");
            it.rows(table, names)?;
            it.key(",", "inserts");
            it.rows(table, names)?;
            it.put("}")
        })?;
        self.put("}")
    }

    fn rows(&mut self, table: &str, names: Names) -> Done {
        let mut starts: Vec<usize> = Vec::new();
        let size = match self.from.u8()? {
            0 => Some(usize::from(self.from.u16()?)),
            _ => {
                for _ in 0..self.from.u32()? {
                    starts.push(usize::try_from(self.from.u64()?).map_err(Untranslatable::new)?);
                }
                None
            }
        };
        let rows = self.from.bytes()?;
        if let Some(size) = size {
            starts = (0..rows.len()).step_by(size.max(1)).collect();
        }
        let ends = starts.iter().skip(1).copied().chain([rows.len()]);
        self.put('[')?;
        for (place, (start, end)) in starts.iter().copied().zip(ends).enumerate() {
            let row = rows
                .get(start..end)
                .ok_or_else(|| Untranslatable::new("a row ends before it begins"))?;
            if place > 0 {
                self.put(',')?;
            }
            let row = value::row(self.module, table, row, names)?;
            self.quoted(&row)?;
        }
        self.put(']')
    }

    fn variant(&mut self, name: &str, value: impl FnOnce(&mut Self) -> Done) -> Done {
        self.key("{", name);
        value(self)?;
        self.put('}')
    }

    fn option(&mut self, value: impl FnOnce(&mut Self) -> Done) -> Done {
        match self.from.u8()? {
            0 => self.variant("some", value),
            _ => self.put(r#"{"none":[]}"#),
        }
    }

    fn list(&mut self, mut item: impl FnMut(&mut Self) -> Done) -> Done {
        self.put('[')?;
        for place in 0..self.from.u32()? {
            if place > 0 {
                self.put(',')?;
            }
            item(self)?;
        }
        self.put(']')
    }

    fn identity(&mut self, before: &str, name: &str) -> Done {
        let mut identity: [u8; 32] = self.from.array()?;
        identity.reverse();
        self.key(before, name);
        self.put(r#"{"__identity__":"0x"#)?;
        for byte in identity {
            self.put(format_args!("{byte:02x}"))?;
        }
        self.put(r#""}"#)
    }

    fn connection(&mut self, before: &str, name: &str) -> Done {
        self.key(before, name);
        self.number_of("{", "__connection_id__", Reader::u128)?;
        self.put('}')
    }

    fn timestamp(&mut self, before: &str) -> Done {
        self.key(before, "timestamp");
        self.number_of("{", "__timestamp_micros_since_unix_epoch__", Reader::i64)?;
        self.put('}')
    }

    fn duration(&mut self, before: &str) -> Done {
        self.key(before, "total_host_execution_duration");
        self.number_of("{", "__time_duration_micros__", Reader::i64)?;
        self.put('}')
    }

    fn number_of<N: Display>(
        &mut self,
        before: &str,
        name: &str,
        read: impl FnOnce(&mut Reader<'a>) -> Result<N, Untranslatable>,
    ) -> Done {
        self.key(before, name);
        let number = read(&mut self.from)?;
        self.put(number)
    }

    fn text_of(&mut self, before: &str, name: &str) -> Done {
        self.key(before, name);
        self.text()
    }

    fn text(&mut self) -> Done {
        let text = self.from.text()?;
        self.quoted(text)
    }

    fn quoted(&mut self, text: &str) -> Done {
        let quoted = serde_json::to_string(text).map_err(Untranslatable::new)?;
        self.put(quoted)
    }

    /// A name of a field, which needs no escapes.
    fn key(&mut self, before: &str, name: &str) {
        self.json.extend([before, "\"", name, "\":"]);
    }

    fn put(&mut self, what: impl Display) -> Done {
        write!(self.json, "{what}").map_err(Untranslatable::new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::request;
    use proptest::prelude::*;
    use rtdb_protocol::{Subprotocol, reply};
    use spacetimedb_lib::RawModuleDef;
    use spacetimedb_lib::db::raw_def::v9::RawModuleDefV9Builder;
    use spacetimedb_sats::{AlgebraicType, ProductType, bsatn};

    fn module() -> Module {
        let mut def = RawModuleDefV9Builder::new();
        let row = ProductType::from([("n", AlgebraicType::U8), ("text", AlgebraicType::String)]);
        def.build_table_with_new_type("t", row, true).finish();
        let params = ProductType::from([("n", AlgebraicType::U8)]);
        def.add_reducer("add", params, None);
        let def = bsatn::to_vec(&RawModuleDef::V9(def.finish())).expect("a definition");
        Module::from_def(&def).expect("a module")
    }

    /// An answer to a query with rows whose places are these.
    fn answer(starts: &[u64], rows: &[u8]) -> Vec<u8> {
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
    const ROWS: &[u8] = b"\x01\x01\0\0\0a\x02\x04\0\0\0\"\n\xc3\xbc";

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
}
