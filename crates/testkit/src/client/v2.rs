//! `v2.bsatn`, and `v3.bsatn`, which is v2's messages, one or more to a frame.
//! Message layouts: SpacetimeDB 2.8.3, `crates/client-api-messages/src/websocket/v2.rs`.

use anyhow::{Result, bail, ensure};
use bytes::{BufMut, BytesMut};

use super::event::{Committed, Event, Reply, TableChange};
use super::v1::put_queries;
use super::wire::{Reader, put_bytes, put_str};
use super::{Args, Hello};

pub(super) fn call(out: &mut BytesMut, reducer: &str, args: &Args, request_id: u32) {
    out.put_u8(3);
    out.put_u32_le(request_id);
    out.put_u8(0);
    put_str(out, reducer);
    put_bytes(out, args.bytes());
}

pub(super) fn subscribe(out: &mut BytesMut, queries: &[&str], request_id: u32, query_set: u32) {
    out.put_u8(0);
    out.put_u32_le(request_id);
    out.put_u32_le(query_set);
    put_queries(out, queries);
}

pub(super) fn query(out: &mut BytesMut, query: &str, request_id: u32) {
    out.put_u8(2);
    out.put_u32_le(request_id);
    put_str(out, query);
}

pub(super) fn hello(reader: &mut Reader) -> Result<Hello> {
    let tag = reader.u8()?;
    ensure!(
        tag == 0,
        "the first message has tag {tag}, not InitialConnection's"
    );
    let (identity, connection) = (reader.array()?, reader.array()?);
    Ok(Hello {
        identity,
        connection,
        token: reader.str()?,
    })
}

pub(super) fn event(reader: &mut Reader) -> Result<Event> {
    Ok(match reader.u8()? {
        1 => {
            let request_id = reader.u32()?;
            reader.u32()?;
            Event::Subscribed {
                request_id,
                tables: query_rows(reader)?,
            }
        }
        3 => {
            reader.option(Reader::u32)?;
            reader.u32()?;
            Event::SubscribeFailed(reader.str()?)
        }
        4 => Event::Update(transaction(reader)?),
        5 => {
            reader.u32()?;
            Event::QueryReply(match reader.u8()? {
                0 => Ok(query_rows(reader)?),
                1 => Err(reader.str()?),
                tag => bail!("{tag} is no result's tag"),
            })
        }
        6 => Event::Reply(Reply {
            request_id: reader.u32()?,
            timestamp_us: reader.i64()?,
            result: outcome(reader)?,
        }),
        tag => bail!("the test client knows no v2 server message with tag {tag}"),
    })
}

fn outcome(reader: &mut Reader) -> Result<Result<Committed, String>> {
    Ok(match reader.u8()? {
        0 => {
            let return_value = Some(reader.bytes()?);
            Ok(Committed {
                return_value,
                tables: transaction(reader)?,
            })
        }
        1 => Ok(Committed::default()),
        // The reducer's error value: a BSATN string in every module that returns `Result<_, String>`.
        2 => Err(Reader(reader.bytes()?).str()?),
        3 => Err(reader.str()?),
        tag => bail!("{tag} is no reducer outcome"),
    })
}

fn query_rows(reader: &mut Reader) -> Result<Vec<TableChange>> {
    reader.list(|reader| {
        Ok(TableChange {
            table: reader.str()?,
            inserts: reader.rows()?,
            deletes: Vec::new(),
        })
    })
}

fn transaction(reader: &mut Reader) -> Result<Vec<TableChange>> {
    let sets = reader.list(|reader| {
        reader.u32()?;
        reader.list(table_update)
    })?;
    Ok(sets.into_iter().flatten().collect())
}

fn table_update(reader: &mut Reader) -> Result<TableChange> {
    let mut change = TableChange {
        table: reader.str()?,
        ..TableChange::default()
    };
    let parts = reader.list(|reader| {
        Ok(match reader.u8()? {
            0 => (reader.rows()?, reader.rows()?),
            1 => (reader.rows()?, Vec::new()),
            tag => bail!("{tag} is no kind of table rows"),
        })
    })?;
    for (inserts, deletes) in parts {
        change.inserts.extend(inserts);
        change.deletes.extend(deletes);
    }
    Ok(change)
}
