//! What a client is told.

use super::output::{Output, Within};
use super::reader::{Reader, Untranslatable};
use super::value::{self, Names};
use bytes::Bytes;
use rtdb_determinism::Module;
use std::fmt::Display;
use std::io::Write;

/// Translates a message of v1 into at most `max` bytes of JSON, with the rows of the module's tables.
///
/// # Errors
/// [`Untranslatable`]
pub(crate) fn message(module: &Module, message: &[u8], max: usize) -> Result<Bytes, Untranslatable> {
    let mut translator = Translator {
        module,
        from: Reader::new(message),
        json: Output::new(max),
    };
    translator.message()?;
    translator.from.end()?;
    Ok(translator.json.finish())
}

struct Translator<'a> {
    module: &'a Module,
    from: Reader<'a>,
    json: Output,
}

type Done = Result<(), Untranslatable>;

impl<'a> Translator<'a> {
    fn message(&mut self) -> Done {
        match self.from.u8()? {
            0 => self.variant("InitialSubscription", |it| {
                it.key("{", "database_update")?;
                it.update(Names::With)?;
                it.number_of(",", "request_id", Reader::u32)?;
                it.duration(",")?;
                it.put("}")
            }),
            1 => self.variant("TransactionUpdate", Self::transaction),
            2 => self.variant("TransactionUpdateLight", |it| {
                it.number_of("{", "request_id", Reader::u32)?;
                it.key(",", "update")?;
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
                    it.key(",", name)?;
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
            tag => Err(Untranslatable::Misread(format!("there is no message {tag}"))),
        }
    }

    fn transaction(&mut self) -> Done {
        self.key("{", "status")?;
        match self.from.u8()? {
            0 => self.variant("Committed", |it| it.update(Names::Without))?,
            1 => self.variant("Failed", Self::text)?,
            _ => self.put(r#"{"OutOfEnergy":[]}"#)?,
        }
        self.timestamp(",")?;
        self.identity(",", "caller_identity")?;
        self.connection(",", "caller_connection_id")?;
        self.key(",", "reducer_call")?;
        let reducer = self.from.text()?;
        self.key("{", "reducer_name")?;
        self.quoted(reducer)?;
        self.number_of(",", "reducer_id", Reader::u32)?;
        self.key(",", "args")?;
        let args = self.from.bytes()?;
        self.within(|module, json| value::args(module, reducer, args, json))?;
        self.number_of(",", "request_id", Reader::u32)?;
        self.put("}")?;
        self.key(",", "energy_quanta_used")?;
        self.number_of("{", "quanta", Reader::u128)?;
        self.put("}")?;
        self.duration(",")?;
        self.put("}")
    }

    fn answer(&mut self) -> Done {
        self.key("{", "message_id")?;
        let id = self.from.bytes()?;
        self.put('"')?;
        for byte in id {
            self.put(format_args!("{byte:02x}"))?;
        }
        self.put('"')?;
        self.key(",", "error")?;
        self.option(Self::text)?;
        self.key(",", "tables")?;
        self.list(|it| {
            let table = it.from.text()?;
            it.key("{", "table_name")?;
            it.quoted(table)?;
            it.key(",", "rows")?;
            it.rows(table, Names::With)?;
            it.put("}")
        })?;
        self.duration(",")?;
        self.put("}")
    }

    fn applied(&mut self) -> Done {
        self.applied_head()?;
        self.key(",", "rows")?;
        self.number_of("{", "table_id", Reader::u32)?;
        self.text_of(",", "table_name")?;
        self.key(",", "table_rows")?;
        self.table(Names::With)?;
        self.put("}}")
    }

    fn applied_to_many(&mut self) -> Done {
        self.applied_head()?;
        self.key(",", "update")?;
        self.update(Names::With)?;
        self.put("}")
    }

    fn applied_head(&mut self) -> Done {
        self.number_of("{", "request_id", Reader::u32)?;
        self.number_of(",", "total_host_execution_duration_micros", Reader::u64)?;
        self.key(",", "query_id")?;
        self.number_of("{", "id", Reader::u32)?;
        self.put("}")
    }

    fn procedure(&mut self) -> Done {
        self.key("{", "status")?;
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
        self.key("{", "tables")?;
        self.list(|it| it.table(names))?;
        self.put("}")
    }

    fn table(&mut self, names: Names) -> Done {
        self.number_of("{", "table_id", Reader::u32)?;
        let table = self.from.text()?;
        self.key(",", "table_name")?;
        self.quoted(table)?;
        self.number_of(",", "num_rows", Reader::u64)?;
        self.key(",", "updates")?;
        self.list(|it| {
            if it.from.u8()? != 0 {
                return Err(Untranslatable::new(
                    "rows are compressed, and nobody has asked for that",
                ));
            }
            it.key("{", "deletes")?;
            it.rows(table, names)?;
            it.key(",", "inserts")?;
            it.rows(table, names)?;
            it.put("}")
        })?;
        self.put("}")
    }

    fn rows(&mut self, table: &str, names: Names) -> Done {
        self.put('[')?;
        if self.from.u8()? == 0 {
            let size = usize::from(self.from.u16()?).max(1);
            for (place, row) in self.from.bytes()?.chunks(size).enumerate() {
                self.row(place, table, row, names)?;
            }
            return self.put(']');
        }
        let count = self.from.u32()? as usize;
        let mut starts = Reader::new(self.from.take(count.saturating_mul(size_of::<u64>()))?);
        let rows = self.from.bytes()?;
        for place in 0..count {
            let start = usize::try_from(starts.u64()?).ok();
            // The next one begins where this one ends.
            let end = starts
                .clone()
                .u64()
                .map_or(Some(rows.len()), |end| end.try_into().ok());
            let row = start.zip(end).and_then(|(start, end)| rows.get(start..end));
            let row = row.ok_or_else(|| Untranslatable::new("a row ends before it begins"))?;
            self.row(place, table, row, names)?;
        }
        self.put(']')
    }

    fn row(&mut self, place: usize, table: &str, row: &[u8], names: Names) -> Done {
        if place > 0 {
            self.put(',')?;
        }
        self.within(|module, json| value::row(module, table, row, names, json))
    }

    /// JSON as a text within JSON.
    fn within(&mut self, write: impl FnOnce(&Module, &mut Within<'_>) -> Done) -> Done {
        self.put('"')?;
        write(self.module, &mut Within(&mut self.json))?;
        self.put('"')
    }

    fn variant(&mut self, name: &str, value: impl FnOnce(&mut Self) -> Done) -> Done {
        self.key("{", name)?;
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
        self.key(before, name)?;
        self.put(r#"{"__identity__":"0x"#)?;
        for byte in identity {
            self.put(format_args!("{byte:02x}"))?;
        }
        self.put(r#""}"#)
    }

    fn connection(&mut self, before: &str, name: &str) -> Done {
        self.key(before, name)?;
        self.number_of("{", "__connection_id__", Reader::u128)?;
        self.put('}')
    }

    fn timestamp(&mut self, before: &str) -> Done {
        self.key(before, "timestamp")?;
        self.number_of("{", "__timestamp_micros_since_unix_epoch__", Reader::i64)?;
        self.put('}')
    }

    fn duration(&mut self, before: &str) -> Done {
        self.key(before, "total_host_execution_duration")?;
        self.number_of("{", "__time_duration_micros__", Reader::i64)?;
        self.put('}')
    }

    fn number_of<N: Display>(
        &mut self,
        before: &str,
        name: &str,
        read: impl FnOnce(&mut Reader<'a>) -> Result<N, Untranslatable>,
    ) -> Done {
        self.key(before, name)?;
        let number = read(&mut self.from)?;
        self.put(number)
    }

    fn text_of(&mut self, before: &str, name: &str) -> Done {
        self.key(before, name)?;
        self.text()
    }

    fn text(&mut self) -> Done {
        let text = self.from.text()?;
        self.quoted(text)
    }

    fn quoted(&mut self, text: &str) -> Done {
        Ok(serde_json::to_writer(&mut self.json, text)?)
    }

    /// A name of a field, which needs no escapes.
    fn key(&mut self, before: &str, name: &str) -> Done {
        Ok(write!(self.json, "{before}\"{name}\":")?)
    }

    fn put(&mut self, what: impl Display) -> Done {
        Ok(write!(self.json, "{what}")?)
    }
}
