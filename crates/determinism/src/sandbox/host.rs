//! The host of a sandbox: what a module finds there of the server's functions.
//!
//! A module that describes itself has no business with the host, but for writing the result and logging. Only in a call
//! does it find tables, and these hold at most one row: as many as the shim ever reads or writes at a time.

use std::collections::{HashMap, HashSet};

use wasmi::{Caller, Error, ExternType, Linker, Module, Store, StoreLimits};

use super::DEF_BYTES_MAX;
use crate::abi;
use crate::hidden::HiddenTable;

/// The handle of the sink that collects the definition, and of the source that a call's arguments come from.
pub(super) const SINK: u32 = 1;
pub(super) const SOURCE: u32 = 2;
const ITERATOR: u32 = 3;
/// The database's identity, little-endian: like a real one, so that no module can tell where it runs.
const IDENTITY: [u8; 32] = *b"\x5f\x1d\x90\xe3\x42\xa8\x0b\x77\x36\xce\x19\xf4\x8d\x61\xb2\x2a\xd5\x70\x08\x9c\xe6\x3b\x54\xaf\x11\x7d\xc3\x92\x48\xfe\x00\xc2";

const NO_SUCH_TABLE: u32 = 4;
const NO_SUCH_INDEX: u32 = 5;
const NO_SUCH_BYTES: i32 = 8;

pub(super) struct Host {
    limits: StoreLimits,
    sink: Vec<u8>,
    /// The call under way.
    call: Option<Call>,
    tables: HashMap<String, u32>,
    indexes: HashMap<String, u32>,
    /// The hidden tables' rows, by the ids of their tables; those of their indexes are the same.
    rows: HashMap<u32, Vec<u8>>,
}

struct Call {
    args: Vec<u8>,
    /// The row that the open iterator has still to give.
    next: Vec<u8>,
}

impl Host {
    pub(super) fn new(limits: StoreLimits) -> Self {
        Self {
            limits,
            sink: Vec::new(),
            call: None,
            tables: HashMap::new(),
            indexes: HashMap::new(),
            rows: HashMap::new(),
        }
    }

    pub(super) fn limits(&mut self) -> &mut dyn wasmi::ResourceLimiter {
        &mut self.limits
    }

    /// What was written to the sink.
    pub(super) fn take_sink(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.sink)
    }

    /// Names tables and indexes. The hidden ones come first.
    pub(super) fn name<'a>(
        &mut self,
        hidden: &[&HiddenTable],
        tables: impl Iterator<Item = &'a str>,
        indexes: impl Iterator<Item = &'a str>,
    ) {
        let ids = 1_u32..;
        let names = hidden.iter().map(|table| table.name).chain(tables);
        self.tables = names.map(str::to_owned).zip(ids.clone()).collect();
        let names = hidden.iter().map(|table| table.index).chain(indexes);
        self.indexes = names.map(str::to_owned).zip(ids).collect();
    }

    /// A call begins, or ends with `None`.
    pub(super) fn set_call(&mut self, args: Option<Vec<u8>>) {
        self.sink.clear();
        self.call = args.map(|args| Call {
            args,
            next: Vec::new(),
        });
    }

    /// The row of a hidden table.
    pub(super) fn row(&self, table: &HiddenTable) -> Option<&[u8]> {
        let id = self.tables.get(table.name)?;
        self.rows.get(id).map(Vec::as_slice)
    }

    fn call(&mut self) -> Result<&mut Call, Error> {
        let outside = || Error::new("it uses the database while it describes itself");
        self.call.as_mut().ok_or_else(outside)
    }
}

/// What a module imports.
pub(super) fn imports(store: &mut Store<Host>, module: &Module) -> Result<Linker<Host>, Error> {
    let mut linker = Linker::new(store.engine());
    // The shim imports what it calls once more.
    let mut known = HashSet::new();
    for import in module.imports() {
        let (from, name) = (import.module(), import.name().to_owned());
        let ExternType::Func(ty) = import.ty() else {
            return Err(Error::new(format!(
                "it imports `{name}`, which is not a function"
            )));
        };
        if !known.insert((from.to_owned(), name.clone())) {
            continue;
        }
        match name.as_str() {
            "bytes_sink_write" => linker.func_wrap(from, &name, write)?,
            "identity" => linker.func_wrap(from, &name, identity)?,
            "bytes_source_read" => linker.func_wrap(from, &name, read)?,
            "table_id_from_name" => linker.func_wrap(from, &name, table_id)?,
            "index_id_from_name" => linker.func_wrap(from, &name, index_id)?,
            "datastore_table_scan_bsatn" => linker.func_wrap(from, &name, scan)?,
            "row_iter_bsatn_advance" => linker.func_wrap(from, &name, advance)?,
            "datastore_index_scan_range_bsatn" => linker.func_wrap(from, &name, scan_range)?,
            "datastore_index_scan_point_bsatn" => linker.func_wrap(from, &name, scan_point)?,
            "datastore_insert_bsatn" => linker.func_wrap(from, &name, insert)?,
            "datastore_update_bsatn" => linker.func_wrap(from, &name, update)?,
            "datastore_delete_by_index_scan_range_bsatn" => linker.func_wrap(from, &name, delete_range)?,
            abi::START_TX => linker.func_wrap(from, &name, start_tx)?,
            "procedure_abort_mut_tx" => linker.func_wrap(from, &name, abort_tx)?,
            _ if ty.results().is_empty() => {
                linker.func_new(from, &name.clone(), ty.clone(), |_, _, _| Ok(()))?
            }
            _ => linker.func_new(from, &name.clone(), ty.clone(), move |_, _, _| {
                Err(Error::new(format!("`{name}` can't be called here")))
            })?,
        };
    }
    Ok(linker)
}

type Context<'a> = Caller<'a, Host>;

/// The module's memory, and the host.
fn split<'a>(caller: &'a mut Context<'_>) -> Result<(&'a mut [u8], &'a mut Host), Error> {
    let memory = caller.get_export(abi::MEMORY).and_then(|it| it.into_memory());
    let memory = memory.ok_or_else(|| Error::new("it exports no memory"))?;
    Ok(memory.data_and_store_mut(caller))
}

fn slice(bytes: &[u8], at: u32, len: u32) -> Result<&[u8], Error> {
    let slice = bytes
        .get(at as usize..)
        .and_then(|bytes| bytes.get(..len as usize));
    slice.ok_or_else(|| Error::new("it gives the host an address out of bounds"))
}

fn get32(bytes: &[u8], at: u32) -> Result<u32, Error> {
    let bytes = slice(bytes, at, 4)?;
    Ok(bytes.try_into().map(u32::from_le_bytes).unwrap_or_default())
}

fn put(bytes: &mut [u8], at: u32, value: &[u8]) -> Result<(), Error> {
    let room = bytes
        .get_mut(at as usize..)
        .and_then(|bytes| bytes.get_mut(..value.len()));
    let room = room.ok_or_else(|| Error::new("it gives the host an address out of bounds"))?;
    room.copy_from_slice(value);
    Ok(())
}

fn put32(bytes: &mut [u8], at: u32, value: u32) -> Result<(), Error> {
    put(bytes, at, &value.to_le_bytes())
}

fn write(mut caller: Context<'_>, _sink: u32, from: u32, len_at: u32) -> Result<u32, Error> {
    let (bytes, host) = split(&mut caller)?;
    let written = slice(bytes, from, get32(bytes, len_at)?)?;
    if host.sink.len() + written.len() > DEF_BYTES_MAX {
        return Err(Error::new(format!(
            "its definition is longer than {DEF_BYTES_MAX} bytes"
        )));
    }
    host.sink.extend_from_slice(written);
    Ok(0)
}

fn identity(mut caller: Context<'_>, out: u32) -> Result<(), Error> {
    let (bytes, _) = split(&mut caller)?;
    put(bytes, out, &IDENTITY)
}

fn read(mut caller: Context<'_>, source: u32, to: u32, len_at: u32) -> Result<i32, Error> {
    let (bytes, host) = split(&mut caller)?;
    let args = &mut host.call()?.args;
    if source != SOURCE {
        return Ok(NO_SUCH_BYTES);
    }
    let len = (get32(bytes, len_at)? as usize).min(args.len());
    put(bytes, to, &args[..len])?;
    put32(bytes, len_at, len as u32)?;
    args.drain(..len);
    Ok(if args.is_empty() { abi::EXHAUSTED } else { 0 })
}

fn table_id(caller: Context<'_>, name: u32, len: u32, out: u32) -> Result<u32, Error> {
    id(caller, name, len, out, |host| (&host.tables, NO_SUCH_TABLE))
}

fn index_id(caller: Context<'_>, name: u32, len: u32, out: u32) -> Result<u32, Error> {
    id(caller, name, len, out, |host| (&host.indexes, NO_SUCH_INDEX))
}

fn id(
    mut caller: Context<'_>,
    name: u32,
    len: u32,
    out: u32,
    names: impl Fn(&Host) -> (&HashMap<String, u32>, u32),
) -> Result<u32, Error> {
    let (bytes, host) = split(&mut caller)?;
    host.call()?;
    let (ids, none) = names(host);
    let name = std::str::from_utf8(slice(bytes, name, len)?);
    let id = name.ok().and_then(|name| ids.get(name));
    match id.copied() {
        Some(id) => put32(bytes, out, id).map(|()| 0),
        None => Ok(none),
    }
}

fn scan(mut caller: Context<'_>, table: u32, out: u32) -> Result<u32, Error> {
    let (bytes, host) = split(&mut caller)?;
    let row = host.rows.get(&table).cloned().unwrap_or_default();
    host.call()?.next = row;
    put32(bytes, out, ITERATOR)?;
    Ok(0)
}

/// A transaction of a procedure: only a call finds anything in it.
fn start_tx(mut caller: Context<'_>, out: u32) -> Result<i32, Error> {
    let (bytes, host) = split(&mut caller)?;
    host.call()?;
    put(bytes, out, &[0; 8])?;
    Ok(0)
}

fn abort_tx(mut caller: Context<'_>) -> Result<i32, Error> {
    caller.data_mut().call().map(|_| 0)
}

/// The module's own tables have no rows.
#[expect(clippy::too_many_arguments, reason = "the host's signature")]
fn scan_range(
    caller: Context<'_>,
    index: u32,
    _prefix: u32,
    _prefix_len: u32,
    _columns: u32,
    _start: u32,
    _start_len: u32,
    _end: u32,
    _end_len: u32,
    out: u32,
) -> Result<u32, Error> {
    scan(caller, index, out)
}

fn scan_point(caller: Context<'_>, index: u32, _point: u32, _len: u32, out: u32) -> Result<u32, Error> {
    scan(caller, index, out)
}

fn advance(mut caller: Context<'_>, _iterator: u32, to: u32, len_at: u32) -> Result<i32, Error> {
    let (bytes, host) = split(&mut caller)?;
    let call = host.call()?;
    let (room, len) = (get32(bytes, len_at)? as usize, call.next.len());
    put32(bytes, len_at, len as u32)?;
    if room < len {
        return Ok(abi::BUFFER_TOO_SMALL);
    }
    put(bytes, to, &std::mem::take(&mut call.next))?;
    Ok(abi::EXHAUSTED)
}

fn insert(mut caller: Context<'_>, table: u32, row: u32, len_at: u32) -> Result<i32, Error> {
    let (bytes, host) = split(&mut caller)?;
    host.call()?;
    let row = slice(bytes, row, get32(bytes, len_at)?)?;
    host.rows.insert(table, row.to_vec());
    put32(bytes, len_at, 0)?;
    Ok(0)
}

fn update(mut caller: Context<'_>, table: u32, _index: u32, row: u32, len_at: u32) -> Result<i32, Error> {
    if caller.data().rows.contains_key(&table) {
        return insert(caller, table, row, len_at);
    }
    caller.data_mut().call()?;
    Ok(abi::NO_SUCH_ROW)
}

#[expect(clippy::too_many_arguments, reason = "the host's signature")]
fn delete_range(
    mut caller: Context<'_>,
    index: u32,
    _prefix: u32,
    _prefix_len: u32,
    _columns: u32,
    _start: u32,
    _start_len: u32,
    _end: u32,
    _end_len: u32,
    out: u32,
) -> Result<u32, Error> {
    let (bytes, host) = split(&mut caller)?;
    host.call()?;
    let deleted = u32::from(host.rows.remove(&index).is_some());
    put32(bytes, out, deleted)?;
    Ok(0)
}
