//! `v1.bsatn`. Message layouts: SpacetimeDB 1.2.0, `crates/client-api-messages/src/websocket.rs`.

use anyhow::{Result, bail, ensure};
use bytes::{BufMut, BytesMut};

use super::event::{Committed, Event, Reply, TableChange};
use super::wire::{Reader, put_bytes, put_str};
use super::{Args, Hello};

pub(super) fn call(out: &mut BytesMut, reducer: &str, args: &Args, request_id: u32) {
    out.put_u8(0);
    put_str(out, reducer);
    put_bytes(out, args.bytes());
    out.put_u32_le(request_id);
    out.put_u8(0);
}

pub(super) fn subscribe(out: &mut BytesMut, queries: &[&str], request_id: u32, query_set: u32) {
    out.put_u8(4);
    put_queries(out, queries);
    out.put_u32_le(request_id);
    out.put_u32_le(query_set);
}

pub(super) fn query(out: &mut BytesMut, query: &str, request_id: u32) {
    out.put_u8(2);
    put_bytes(out, &request_id.to_le_bytes());
    put_str(out, query);
}

pub(super) fn put_queries(out: &mut BytesMut, queries: &[&str]) {
    out.put_u32_le(u32::try_from(queries.len()).unwrap_or(u32::MAX));
    for query in queries {
        put_str(out, query);
    }
}

pub(super) fn hello(reader: &mut Reader) -> Result<Hello> {
    let tag = reader.u8()?;
    ensure!(tag == 3, "the first message has tag {tag}, not IdentityToken's");
    Ok(Hello {
        identity: reader.array()?,
        token: reader.str()?,
        connection: reader.array()?,
    })
}

/// `connection` is the client's own: in v1 only that tells its own calls' updates from other people's.
pub(super) fn event(reader: &mut Reader, connection: &[u8; 16]) -> Result<Event> {
    Ok(match reader.u8()? {
        0 => {
            let tables = database_update(reader)?;
            let request_id = reader.u32()?;
            reader.i64()?;
            Event::Subscribed { request_id, tables }
        }
        1 => transaction(reader, connection)?,
        2 => {
            reader.u32()?;
            Event::Update(database_update(reader)?)
        }
        4 => {
            reader.bytes()?;
            let error = reader.option(Reader::str)?;
            let tables = reader.list(|reader| {
                Ok(TableChange {
                    table: reader.str()?,
                    inserts: reader.rows()?,
                    deletes: Vec::new(),
                })
            })?;
            reader.i64()?;
            Event::QueryReply(error.map_or(Ok(tables), Err))
        }
        7 => {
            reader.u64()?;
            for _ in 0..3 {
                reader.option(Reader::u32)?;
            }
            Event::SubscribeFailed(reader.str()?)
        }
        8 => {
            let request_id = reader.u32()?;
            reader.u64()?;
            reader.u32()?;
            Event::Subscribed {
                request_id,
                tables: database_update(reader)?,
            }
        }
        tag => bail!("the test client knows no v1 server message with tag {tag}"),
    })
}

fn transaction(reader: &mut Reader, connection: &[u8; 16]) -> Result<Event> {
    let result = match reader.u8()? {
        0 => Ok(Committed {
            tables: database_update(reader)?,
            return_value: None,
        }),
        1 => Err(reader.str()?),
        2 => Err("out of energy".to_string()),
        tag => bail!("{tag} is no update status"),
    };
    let timestamp_us = reader.i64()?;
    reader.array::<32>()?;
    let caller: [u8; 16] = reader.array()?;
    reader.str()?;
    reader.u32()?;
    reader.bytes()?;
    let request_id = reader.u32()?;
    reader.array::<16>()?;
    reader.i64()?;
    if &caller == connection {
        return Ok(Event::Reply(Reply {
            request_id,
            timestamp_us,
            result,
        }));
    }
    Ok(Event::Update(
        result.map(|committed| committed.tables).unwrap_or_default(),
    ))
}

fn database_update(reader: &mut Reader) -> Result<Vec<TableChange>> {
    reader.list(|reader| {
        reader.u32()?;
        let mut change = TableChange {
            table: reader.str()?,
            ..TableChange::default()
        };
        reader.u64()?;
        for (deletes, inserts) in reader.list(query_update)? {
            change.deletes.extend(deletes);
            change.inserts.extend(inserts);
        }
        Ok(change)
    })
}

type Rows = Vec<bytes::Bytes>;

fn query_update(reader: &mut Reader) -> Result<(Rows, Rows)> {
    let compression = reader.u8()?;
    ensure!(
        compression == 0,
        "a compressed update, though the client asked for none"
    );
    Ok((reader.rows()?, reader.rows()?))
}
