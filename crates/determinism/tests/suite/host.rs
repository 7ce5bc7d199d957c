//! A fake SpacetimeDB: runs a prepared module in an interpreter over the tiny datastore, with the host's semantics of
//! sources, sinks, iterators, rollback and traps. Rows come in an order that no two hosts agree on, wherever two servers
//! may differ.

use std::collections::{BTreeSet, HashMap, VecDeque};

use rtdb_determinism::header::CallHeader;
use spacetimedb_lib::bsatn;
use spacetimedb_sats::ProductValue;
use wasmi::{Caller, Config, Engine, Error, Instance, Linker, Memory, Module, Store};

use crate::database::{Database, NO_SUCH_INDEX, NO_SUCH_TABLE};

const NO_SUCH_BYTES: u32 = 8;
const SINK: u32 = 1;
/// A source hands out at most so many bytes at a time to small reads, to show that it may. The bindings of 1.2.0, which
/// read in bulk, do not bear it.
const PIECE_BYTES: usize = 50;
const SMALL_BYTES: usize = 1_000;
/// A scan's rows come in chunks that are at least so long.
const CHUNK_BYTES: usize = 100;
const BUFFER_TOO_SMALL: i32 = 11;
const NO_SUCH_ITERATOR: i32 = 6;
const NO_SUCH_TIMER: u32 = 7;
/// A table of the server's own, with as many rows as it has clients.
const CLIENTS: (&str, u32) = ("st_client", 12);

/// What the host answers to a call.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    Failed(String),
    Trapped,
}

struct World {
    db: Option<Database>,
    /// What table and index ids begin with: no two servers need to agree.
    first_id: u32,
    sources: HashMap<u32, Vec<u8>>,
    iterators: HashMap<u32, VecDeque<Vec<u8>>>,
    timers: Vec<u32>,
    /// The rows as they were when the transaction began.
    committed: Vec<BTreeSet<ProductValue>>,
    /// What the order of rows comes from.
    disorder: u64,
    sink: Vec<u8>,
    handles: u32,
    touched: Vec<String>,
}

impl World {
    fn db(&mut self) -> Result<&mut Database, Error> {
        self.db.as_mut().ok_or_else(|| Error::new("not in a transaction"))
    }

    /// The rows of a scan, as they happen to stand.
    fn shuffled(&mut self, mut rows: Vec<ProductValue>) -> Vec<ProductValue> {
        for at in (1..rows.len()).rev() {
            self.disorder = self.disorder.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            rows.swap(at, (self.disorder >> 33) as usize % (at + 1));
        }
        rows
    }

    /// The rows of an index scan: the transaction's own, then the others, each by their keys; those of one key as they
    /// happen to stand.
    fn ordered(&mut self, index: usize, rows: Vec<ProductValue>) -> Result<Vec<ProductValue>, Error> {
        let mut rows = self.shuffled(rows);
        let committed = std::mem::take(&mut self.committed);
        let db = self.db()?;
        let table = &committed[db.indexes[index].table];
        rows.sort_by(|a, b| {
            let order = |row| (table.contains(row), db.key(index, row));
            order(a).cmp(&order(b))
        });
        self.committed = committed;
        Ok(rows)
    }

    /// The place of the table with this id, which is now touched.
    fn touch(&mut self, table: u32) -> Result<usize, Error> {
        let at = (table - self.first_id) as usize;
        let name = self.db()?.tables[at].name.clone();
        self.touched.push(name);
        Ok(at)
    }

    fn handle(&mut self) -> u32 {
        self.handles += 1;
        self.handles
    }
}

pub(crate) struct FakeHost {
    engine: Engine,
    module: Module,
    first_id: u32,
    instance: Option<(Store<World>, Instance)>,
    pub(crate) db: Database,
    /// How many instances there have been.
    pub(crate) instances: u32,
    /// The tables that the last successful call scanned or wrote to, in order.
    pub(crate) touched: Vec<String>,
}

impl FakeHost {
    pub(crate) fn new(wasm: &[u8], first_id: u32) -> Self {
        let engine = Engine::new(&Config::default());
        let module = Module::new(&engine, wasm).expect("the prepared module is valid");
        let (store, instance, def) = instantiate(&engine, &module, first_id);
        let instance = Some((store, instance));
        Self {
            engine,
            module,
            first_id,
            instance,
            db: Database::new(&def),
            instances: 1,
            touched: Vec::new(),
        }
    }

    /// The next call finds a new instance.
    pub(crate) fn restart(&mut self) {
        self.instance = None;
    }

    /// Publishes another version over the same rows; nothing but the tables' rows stays.
    pub(crate) fn update(&mut self, wasm: &[u8]) {
        let mut new = Self::new(wasm, self.first_id);
        for table in &mut new.db.tables {
            if let Some(old) = self.db.tables.iter().find(|old| old.name == table.name) {
                table.rows.clone_from(&old.rows);
            }
        }
        new.instances += self.instances;
        *self = new;
    }

    pub(crate) fn call(&mut self, reducer: &str, header: CallHeader, args: &[u8]) -> Result<(), Failure> {
        let id = self
            .db
            .reducers
            .iter()
            .position(|name| name == reducer)
            .expect("the reducer exists") as u32;
        let (mut store, instance) = self.instance.take().unwrap_or_else(|| {
            self.instances += 1;
            let (store, instance, _) = instantiate(&self.engine, &self.module, self.first_id);
            (store, instance)
        });
        let world = store.data_mut();
        world.db = Some(self.db.clone());
        let tables = self.db.tables.iter();
        world.committed = tables.map(|table| table.rows.iter().cloned().collect()).collect();
        world.sink.clear();
        world.touched.clear();
        let source = world.handle();
        world.sources.insert(source, [&header.encode(), args].concat());
        let call = instance
            .get_func(&store, "__call_reducer__")
            .expect("the export exists");
        // The host's own caller and clock, which must not matter.
        let junk = i64::from(store.data().handles);
        let mut params = vec![wasmi::Val::I32(id as i32)];
        params.extend([junk; 7].map(wasmi::Val::I64));
        params.extend([wasmi::Val::I32(source as i32), wasmi::Val::I32(SINK as i32)]);
        let mut results = [wasmi::Val::I32(0)];
        if call.call(&mut store, &params, &mut results).is_err() {
            return Err(Failure::Trapped);
        }
        let world = store.data_mut();
        assert!(world.iterators.is_empty(), "iterators are left open");
        world.sources.clear();
        let db = world.db.take().expect("the transaction is still there");
        let message = String::from_utf8_lossy(&world.sink).into_owned();
        let touched = std::mem::take(&mut world.touched);
        self.instance = Some((store, instance));
        match results[0].i32() {
            Some(0) => {
                (self.db, self.touched) = (db, touched);
                Ok(())
            }
            _ => Err(Failure::Failed(message)),
        }
    }

    /// The row of `rtdb_state`: index, digest, module.
    pub(crate) fn state(&self) -> (u64, u64, u64) {
        let rows = self.db.rows("rtdb_state");
        let word = |at| u64::from_le_bytes(rows[0][at..at + 8].try_into().unwrap());
        (word(1), word(9), word(17))
    }

    /// The rows of `rtdb_session`: session, index.
    pub(crate) fn receipts(&self) -> Vec<(u64, u64)> {
        let word = |row: &[u8], at: usize| u64::from_le_bytes(row[at..at + 8].try_into().unwrap());
        self.db
            .rows("rtdb_session")
            .iter()
            .map(|row| (word(row, 0), word(row, 8)))
            .collect()
    }
}

/// A new instance, described.
fn instantiate(engine: &Engine, module: &Module, first_id: u32) -> (Store<World>, Instance, Vec<u8>) {
    let world = World {
        db: None,
        first_id,
        sources: HashMap::new(),
        iterators: HashMap::new(),
        timers: Vec::new(),
        committed: Vec::new(),
        disorder: u64::from(first_id),
        sink: Vec::new(),
        handles: first_id,
        touched: Vec::new(),
    };
    let mut store = Store::new(engine, world);
    let instance = linker(engine)
        .instantiate_and_start(&mut store, module)
        .expect("the imports are there");
    let mut preinits: Vec<_> = module.exports().map(|export| export.name().to_owned()).collect();
    preinits.retain(|name| name.starts_with("__preinit__"));
    preinits.sort();
    for name in preinits {
        instance
            .get_typed_func::<(), ()>(&store, &name)
            .unwrap()
            .call(&mut store, ())
            .unwrap();
    }
    let describe = instance
        .get_typed_func::<u32, ()>(&store, "__describe_module__")
        .unwrap();
    describe
        .call(&mut store, SINK)
        .expect("the module describes itself");
    let def = std::mem::take(&mut store.data_mut().sink);
    (store, instance, def)
}

fn memory<'a>(caller: &'a mut Caller<'_, World>) -> (&'a mut [u8], &'a mut World) {
    let memory: Memory = caller
        .get_export("memory")
        .and_then(|it| it.into_memory())
        .expect("a memory");
    memory.data_and_store_mut(caller)
}

fn slice(bytes: &[u8], at: u32, len: u32) -> &[u8] {
    &bytes[at as usize..][..len as usize]
}

fn read32(bytes: &[u8], at: u32) -> u32 {
    u32::from_le_bytes(slice(bytes, at, 4).try_into().unwrap())
}

fn put(bytes: &mut [u8], at: u32, value: &[u8]) {
    bytes[at as usize..][..value.len()].copy_from_slice(value);
}

/// As the host hands them out: several rows at once, and never a part of these.
fn chunks(rows: &[ProductValue]) -> VecDeque<Vec<u8>> {
    let mut chunks: VecDeque<Vec<u8>> = VecDeque::new();
    for row in rows {
        let row = bsatn::to_vec(row).unwrap();
        match chunks.back_mut() {
            Some(chunk) if chunk.len() < CHUNK_BYTES => chunk.extend(row),
            _ => chunks.push_back(row),
        }
    }
    chunks
}

type Host<'a> = Caller<'a, World>;

#[rustfmt::skip]
fn linker(engine: &Engine) -> Linker<World> {
    let mut linker = Linker::new(engine);
    let base = "spacetime_10.0";
    linker.func_wrap(base, "console_log", |_: Host, _: u32, _: u32, _: u32, _: u32, _: u32, _: u32, _: u32, _: u32| {}).unwrap();
    linker.func_wrap(base, "table_id_from_name", table_id).unwrap();
    linker.func_wrap(base, "index_id_from_name", index_id).unwrap();
    linker.func_wrap(base, "datastore_table_scan_bsatn", scan).unwrap();
    linker.func_wrap(base, "datastore_table_row_count", row_count).unwrap();
    linker.func_wrap(base, "console_timer_start", |mut host: Host, _: u32, _: u32| -> u32 {
        let timer = host.data_mut().handle();
        host.data_mut().timers.push(timer);
        timer
    }).unwrap();
    linker.func_wrap(base, "console_timer_end", |mut host: Host, timer: u32| -> u32 {
        let timers = &mut host.data_mut().timers;
        match timers.iter().position(|it| *it == timer) {
            Some(at) => { timers.remove(at); 0 }
            None => NO_SUCH_TIMER,
        }
    }).unwrap();
    linker.func_wrap(base, "datastore_index_scan_range_bsatn", scan_range).unwrap();
    linker.func_wrap(base, "datastore_btree_scan_bsatn", scan_range).unwrap();
    linker.func_wrap(base, "row_iter_bsatn_advance", advance).unwrap();
    linker.func_wrap(base, "row_iter_bsatn_close", |mut host: Host, iterator: u32| -> u32 {
        match host.data_mut().iterators.remove(&iterator) {
            Some(_) => 0,
            None => NO_SUCH_ITERATOR as u32,
        }
    }).unwrap();
    linker.func_wrap(base, "datastore_insert_bsatn", insert).unwrap();
    linker.func_wrap(base, "datastore_update_bsatn", update).unwrap();
    linker.func_wrap(base, "datastore_delete_by_index_scan_range_bsatn", delete_range).unwrap();
    linker.func_wrap(base, "datastore_delete_all_by_eq_bsatn", |_: Host, _: u32, _: u32, _: u32, _: u32| -> u32 { panic!("not used here") }).unwrap();
    linker.func_wrap(base, "bytes_source_read", source_read).unwrap();
    linker.func_wrap(base, "bytes_sink_write", sink_write).unwrap();
    linker.func_wrap(base, "identity", |_: Host, _: u32| {}).unwrap();
    linker.func_wrap("spacetime_10.1", "bytes_source_remaining_length", remaining).unwrap();
    linker.func_wrap("spacetime_10.2", "get_jwt", |_: Host, _: u32, _: u32| -> u32 { panic!("this must not reach the host") }).unwrap();
    linker.func_wrap("spacetime_10.4", "datastore_index_scan_point_bsatn", scan_point).unwrap();
    linker.func_wrap("spacetime_10.4", "datastore_delete_by_index_scan_point_bsatn", delete_point).unwrap();
    linker
}

fn table_id(mut host: Host, name: u32, len: u32, out: u32) -> Result<u32, Error> {
    let (bytes, world) = memory(&mut host);
    let (name, first) = (slice(bytes, name, len).to_vec(), world.first_id);
    if name == CLIENTS.0.as_bytes() {
        put(bytes, out, &CLIENTS.1.to_le_bytes());
        return Ok(0);
    }
    let Some(at) = world
        .db()?
        .tables
        .iter()
        .position(|it| it.name.as_bytes() == name)
    else {
        return Ok(NO_SUCH_TABLE);
    };
    put(bytes, out, &(at as u32 + first).to_le_bytes());
    Ok(0)
}

fn index_id(mut host: Host, name: u32, len: u32, out: u32) -> Result<u32, Error> {
    let (bytes, world) = memory(&mut host);
    let (name, first) = (slice(bytes, name, len).to_vec(), world.first_id);
    let Some(at) = world
        .db()?
        .indexes
        .iter()
        .position(|it| it.name.as_bytes() == name)
    else {
        return Ok(NO_SUCH_INDEX);
    };
    put(bytes, out, &(at as u32 + first).to_le_bytes());
    Ok(0)
}

fn open(world: &mut World, bytes: &mut [u8], rows: Vec<ProductValue>, out: u32) {
    let handle = world.handle();
    world.iterators.insert(handle, chunks(&rows));
    put(bytes, out, &handle.to_le_bytes());
}

fn scan(mut host: Host, table: u32, out: u32) -> Result<u32, Error> {
    let (bytes, world) = memory(&mut host);
    let at = world.touch(table)?;
    let rows = world.db()?.tables[at].rows.clone();
    let rows = world.shuffled(rows);
    open(world, bytes, rows, out);
    Ok(0)
}

fn row_count(mut host: Host, table: u32, out: u32) -> Result<u32, Error> {
    let (bytes, world) = memory(&mut host);
    let rows = if table == CLIENTS.1 {
        world.first_id as usize
    } else {
        let at = world.touch(table)?;
        world.db()?.tables[at].rows.len()
    };
    put(bytes, out, &(rows as u64).to_le_bytes());
    Ok(0)
}

#[expect(clippy::too_many_arguments, reason = "the host's signature")]
fn scan_range(
    mut host: Host,
    index: u32,
    prefix: u32,
    prefix_len: u32,
    columns: u32,
    start: u32,
    start_len: u32,
    end: u32,
    end_len: u32,
    out: u32,
) -> Result<u32, Error> {
    let (bytes, world) = memory(&mut host);
    let at = (index - world.first_id) as usize;
    let bounds = [slice(bytes, start, start_len), slice(bytes, end, end_len)];
    let rows = world
        .db()?
        .select(at, slice(bytes, prefix, prefix_len), columns as usize, bounds);
    let rows = world.ordered(at, rows)?;
    open(world, bytes, rows, out);
    Ok(0)
}

fn scan_point(mut host: Host, index: u32, point: u32, len: u32, out: u32) -> Result<u32, Error> {
    let (bytes, world) = memory(&mut host);
    let at = (index - world.first_id) as usize;
    let rows = world.db()?.select_point(at, slice(bytes, point, len));
    let rows = world.ordered(at, rows)?;
    open(world, bytes, rows, out);
    Ok(0)
}

fn advance(mut host: Host, iterator: u32, buffer: u32, len_at: u32) -> Result<i32, Error> {
    let (bytes, world) = memory(&mut host);
    let Some(chunks) = world.iterators.get_mut(&iterator) else {
        return Ok(NO_SUCH_ITERATOR);
    };
    let room = read32(bytes, len_at) as usize;
    // The real host traps, too.
    if buffer == 0 || bytes.len() < buffer as usize + room {
        return Err(Error::new("the buffer is out of bounds"));
    }
    let mut written = 0;
    while let Some(chunk) = chunks.pop_front_if(|chunk| written + chunk.len() <= room) {
        put(bytes, buffer + written as u32, &chunk);
        written += chunk.len();
    }
    if let Some(chunk) = chunks.front() {
        let (len, result) = match written {
            0 => (chunk.len(), BUFFER_TOO_SMALL),
            _ => (written, 0),
        };
        put(bytes, len_at, &(len as u32).to_le_bytes());
        return Ok(result);
    }
    put(bytes, len_at, &(written as u32).to_le_bytes());
    world.iterators.remove(&iterator);
    Ok(-1)
}

fn insert(mut host: Host, table: u32, row: u32, len_at: u32) -> Result<u32, Error> {
    let (bytes, world) = memory(&mut host);
    let at = world.touch(table)?;
    let row = slice(bytes, row, read32(bytes, len_at)).to_vec();
    let db = world.db()?;
    let row = db.decode(at, &row);
    let errno = db.insert(at, row);
    if errno == 0 {
        put(bytes, len_at, &0_u32.to_le_bytes());
    }
    Ok(errno)
}

fn update(mut host: Host, table: u32, index: u32, row: u32, len_at: u32) -> Result<u32, Error> {
    let (bytes, world) = memory(&mut host);
    let (at, index) = (world.touch(table)?, (index - world.first_id) as usize);
    let row = slice(bytes, row, read32(bytes, len_at)).to_vec();
    let db = world.db()?;
    let row = db.decode(at, &row);
    let errno = db.update(at, index, row);
    if errno == 0 {
        put(bytes, len_at, &0_u32.to_le_bytes());
    }
    Ok(errno)
}

#[expect(clippy::too_many_arguments, reason = "the host's signature")]
fn delete_range(
    mut host: Host,
    index: u32,
    prefix: u32,
    prefix_len: u32,
    columns: u32,
    start: u32,
    start_len: u32,
    end: u32,
    end_len: u32,
    out: u32,
) -> Result<u32, Error> {
    let (bytes, world) = memory(&mut host);
    let at = (index - world.first_id) as usize;
    let bounds = [slice(bytes, start, start_len), slice(bytes, end, end_len)];
    let db = world.db()?;
    let doomed = db.select(at, slice(bytes, prefix, prefix_len), columns as usize, bounds);
    let table = db.indexes[at].table;
    let deleted = db.delete(table, &doomed);
    put(bytes, out, &deleted.to_le_bytes());
    Ok(0)
}

fn delete_point(mut host: Host, index: u32, point: u32, len: u32, out: u32) -> Result<u32, Error> {
    let (bytes, world) = memory(&mut host);
    let at = (index - world.first_id) as usize;
    let db = world.db()?;
    let doomed = db.select_point(at, slice(bytes, point, len));
    let table = db.indexes[at].table;
    let deleted = db.delete(table, &doomed);
    put(bytes, out, &deleted.to_le_bytes());
    Ok(0)
}

fn source_read(mut host: Host, source: u32, buffer: u32, len_at: u32) -> i32 {
    let (bytes, world) = memory(&mut host);
    let Some(rest) = world.sources.get_mut(&source) else {
        return NO_SUCH_BYTES as i32;
    };
    let room = read32(bytes, len_at) as usize;
    let len = rest.len().min(if room < SMALL_BYTES {
        PIECE_BYTES.min(room)
    } else {
        room
    });
    let piece: Vec<_> = rest.drain(..len).collect();
    put(bytes, buffer, &piece);
    put(bytes, len_at, &(len as u32).to_le_bytes());
    if rest.is_empty() {
        world.sources.remove(&source);
        return -1;
    }
    0
}

fn remaining(mut host: Host, source: u32, out: u32) -> i32 {
    let (bytes, world) = memory(&mut host);
    let Some(rest) = world.sources.get(&source) else {
        return NO_SUCH_BYTES as i32;
    };
    put(bytes, out, &(rest.len() as u32).to_le_bytes());
    0
}

fn sink_write(mut host: Host, sink: u32, from: u32, len_at: u32) -> u32 {
    let (bytes, world) = memory(&mut host);
    if sink != SINK {
        return NO_SUCH_BYTES;
    }
    world
        .sink
        .extend_from_slice(slice(bytes, from, read32(bytes, len_at)));
    0
}
