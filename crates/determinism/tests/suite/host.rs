//! A fake SpacetimeDB: runs a prepared module in an interpreter over the tiny datastore, with the host's semantics of
//! sources, sinks, iterators, rollback and traps. Rows come in an order that no two hosts agree on, wherever two servers
//! may differ.

use std::collections::{BTreeSet, HashMap, VecDeque};

use rtdb_determinism::header::CallHeader;
use spacetimedb_lib::view_args::{empty_view_arg_hash_value, sender_view_arg_hash_value};
use spacetimedb_lib::{Identity, bsatn};
use spacetimedb_sats::ProductValue;
use wasmi::{Caller, Config, Engine, Error, Linker, Memory, Module, Store};

use crate::database::{Database, NO_SUCH_INDEX, NO_SUCH_TABLE};

const NO_SUCH_BYTES: u32 = 8;
const SINK: u32 = 1;
/// A source hands out at most so many bytes at a time to small reads, to show that it may. The bindings of 1.2.0, which
/// read in bulk, do not bear it.
const PIECE_BYTES: usize = 50;
const SMALL_BYTES: usize = 1_000;
/// A scan's rows come in chunks that are at least so long.
const CHUNK_BYTES: usize = 100;
/// How many instructions a start may take, if calls are limited at all: more than when the module is prepared.
const START_FUEL: u64 = 5_000_000_000;
const BUFFER_TOO_SMALL: i32 = 11;
const NO_SUCH_ITERATOR: i32 = 6;
const NO_SUCH_TIMER: u32 = 7;
const WOULD_BLOCK: u32 = 17;
const NOT_ANONYMOUS: u32 = 18;
/// A table of the server's own, with as many rows as it has clients.
const CLIENTS: (&str, u32) = ("st_client", 12);

/// A view, and for whom.
pub(crate) type Instance = (String, Option<[u8; 32]>);

/// What a view's rows depend on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Read {
    Table(usize),
    /// An index, and a key in it.
    Key(usize, Vec<u8>),
}

pub(crate) type ReadSet = Vec<Read>;

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
    /// The handle of the open sink: another one in each call.
    sink_handle: u32,
    handles: u32,
    touched: Vec<String>,
    /// While a view runs: what it has read.
    reads: Option<ReadSet>,
    /// While a procedure runs.
    procedure: Option<Procedure>,
}

/// What others do to the database while a procedure sleeps.
pub(crate) type Meanwhile = Box<dyn FnMut(Database) -> Database>;

/// A procedure under way.
struct Procedure {
    /// What is committed.
    committed: Database,
    now_us: i64,
    meanwhile: Meanwhile,
}

impl World {
    fn read(&mut self, read: Read) {
        if let Some(reads) = &mut self.reads {
            reads.push(read);
        }
    }

    /// A transaction begins.
    fn begin(&mut self, db: Database) {
        let tables = db.tables.iter();
        self.committed = tables.map(|table| table.rows.iter().cloned().collect()).collect();
        self.db = Some(db);
    }

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
    /// How many instructions a call may take.
    fuel: Option<u64>,
    instance: Option<(Store<World>, wasmi::Instance)>,
    pub(crate) db: Database,
    /// How many instances there have been.
    pub(crate) instances: u32,
    /// What views that somebody has asked for depend on.
    pub(crate) views: HashMap<Instance, ReadSet>,
    /// The views that the last successful call evaluated.
    pub(crate) evaluated: Vec<String>,
    /// The tables that the last successful call scanned or wrote to, in order.
    pub(crate) touched: Vec<String>,
    /// How many instructions the last call with views took, if calls are limited at all.
    pub(crate) fuel_used: u64,
}

impl FakeHost {
    pub(crate) fn new(wasm: &[u8], first_id: u32) -> Self {
        Self::with_fuel(wasm, first_id, None)
    }

    pub(crate) fn with_fuel(wasm: &[u8], first_id: u32, fuel: Option<u64>) -> Self {
        let engine = Engine::new(Config::default().consume_fuel(fuel.is_some()));
        let module = Module::new(&engine, wasm).expect("the prepared module is valid");
        let (store, instance, def) = instantiate(&engine, &module, first_id, fuel);
        let instance = Some((store, instance));
        Self {
            engine,
            module,
            first_id,
            fuel,
            instance,
            db: Database::new(&def),
            instances: 1,
            views: HashMap::new(),
            evaluated: Vec::new(),
            touched: Vec::new(),
            fuel_used: 0,
        }
    }

    /// The next call finds a new instance.
    pub(crate) fn restart(&mut self) {
        self.instance = None;
    }

    /// The same rows in a host that has no instance yet.
    pub(crate) fn twin(&self) -> Self {
        Self {
            engine: self.engine.clone(),
            module: self.module.clone(),
            first_id: self.first_id,
            fuel: self.fuel,
            instance: None,
            db: self.db.clone(),
            instances: self.instances,
            views: self.views.clone(),
            evaluated: self.evaluated.clone(),
            touched: self.touched.clone(),
            fuel_used: self.fuel_used,
        }
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
        self.call_by_id(id, header, args)
    }

    pub(crate) fn call_by_id(&mut self, id: u32, header: CallHeader, args: &[u8]) -> Result<(), Failure> {
        let (mut store, instance) = self.take_instance();
        refuel(&mut store, self.fuel);
        store.data_mut().begin(self.db.clone());
        let Ok(result) = enter(&mut store, &instance, "__call_reducer__", id, header, args) else {
            return Err(Failure::Trapped);
        };
        let world = store.data_mut();
        assert!(world.iterators.is_empty(), "iterators are left open");
        world.sources.clear();
        let message = String::from_utf8_lossy(&world.sink).into_owned();
        let touched = std::mem::take(&mut world.touched);
        if result != 0 {
            world.db = None;
            self.instance = Some((store, instance));
            return Err(Failure::Failed(message));
        }
        let dirty = self.dirty(store.data().db.as_ref().expect("a transaction"));
        let mut views = self.views.clone();
        for view in &dirty {
            // As the real host does: a view's failure takes the whole transaction back, and the instance with it.
            let reads = evaluate(&mut store, &instance, view);
            self.fuel_used = self
                .fuel
                .map_or(0, |fuel| fuel - store.get_fuel().expect("fuel is consumed"));
            views.insert(view.clone(), reads?);
        }
        let mut db = store
            .data_mut()
            .db
            .take()
            .expect("the transaction is still there");
        db.tables
            .iter_mut()
            .filter(|table| table.event)
            .for_each(|table| table.rows.clear());
        self.instance = Some((store, instance));
        self.evaluated = dirty.into_iter().map(|(name, _)| name).collect();
        (self.db, self.touched, self.views) = (db, touched, views);
        Ok(())
    }

    /// Runs a procedure, whose result this is; `meanwhile` is what others do whenever it sleeps.
    pub(crate) fn procedure(
        &mut self,
        procedure: &str,
        header: CallHeader,
        args: &[u8],
        meanwhile: Meanwhile,
    ) -> Result<Vec<u8>, Failure> {
        let mut procedures = self.db.procedures.iter();
        let id = procedures
            .position(|name| name == procedure)
            .expect("the procedure exists") as u32;
        let (mut store, instance) = self.take_instance();
        refuel(&mut store, self.fuel);
        store.data_mut().procedure = Some(Procedure {
            committed: self.db.clone(),
            now_us: 1_000_000,
            meanwhile,
        });
        let result = enter(&mut store, &instance, "__call_procedure__", id, header, args);
        let world = store.data_mut();
        // The host takes back what is left open.
        world.db = None;
        self.db = world.procedure.take().expect("a procedure ran").committed;
        assert_eq!(result.map_err(|()| Failure::Trapped)?, 0);
        assert!(world.iterators.is_empty(), "iterators are left open");
        world.sources.clear();
        let returned = std::mem::take(&mut world.sink);
        self.instance = Some((store, instance));
        Ok(returned)
    }

    /// Somebody asks for a view: it is evaluated, in a transaction of its own, if nobody has before.
    pub(crate) fn subscribe(&mut self, view: &str, sender: Option<[u8; 32]>) -> Result<(), Failure> {
        let view = (view.to_owned(), sender);
        if self.views.contains_key(&view) {
            return Ok(());
        }
        let (mut store, instance) = self.take_instance();
        store.data_mut().db = Some(self.db.clone());
        store.data_mut().committed.clear();
        store
            .data_mut()
            .committed
            .resize(self.db.tables.len(), BTreeSet::new());
        let reads = evaluate(&mut store, &instance, &view)?;
        self.db = store
            .data_mut()
            .db
            .take()
            .expect("the transaction is still there");
        self.instance = Some((store, instance));
        self.views.insert(view, reads);
        Ok(())
    }

    /// A view's rows for a sender, in BSATN, in order.
    pub(crate) fn view(&self, view: &str, sender: Option<[u8; 32]>) -> Vec<Vec<u8>> {
        let hash = arg_hash(sender);
        let rows = self.db.rows(view).into_iter();
        rows.filter_map(|row| Some(row.strip_prefix(hash.as_slice())?.to_vec()))
            .collect()
    }

    /// The instances of views whose read set meets what a transaction has written.
    fn dirty(&self, after: &Database) -> Vec<Instance> {
        let tables = self.db.tables.iter().zip(&after.tables).enumerate();
        let written: Vec<(usize, ProductValue)> = tables
            .flat_map(|(at, (before, after))| {
                let gone = before.rows.iter().filter(|row| !after.rows.contains(row));
                let new = after.rows.iter().filter(|row| !before.rows.contains(row));
                gone.chain(new)
                    .map(move |row| (at, row.clone()))
                    .collect::<Vec<_>>()
            })
            .collect();
        let meets = |read: &Read| {
            written.iter().any(|(table, row)| match read {
                Read::Table(read) => read == table,
                Read::Key(index, key) => {
                    after.indexes[*index].table == *table && after.encoded_key(*index, row) == *key
                }
            })
        };
        let dirty = self.views.iter().filter(|(_, reads)| reads.iter().any(meets));
        let mut dirty: Vec<_> = dirty.map(|(view, _)| view.clone()).collect();
        dirty.sort();
        dirty
    }

    fn take_instance(&mut self) -> (Store<World>, wasmi::Instance) {
        self.instance.take().unwrap_or_else(|| {
            self.instances += 1;
            let (store, instance, _) = instantiate(&self.engine, &self.module, self.first_id, self.fuel);
            (store, instance)
        })
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

/// Calls an entry point, and says what it returns unless it traps.
fn enter(
    store: &mut Store<World>,
    instance: &wasmi::Instance,
    entry: &str,
    id: u32,
    header: CallHeader,
    args: &[u8],
) -> Result<i32, ()> {
    let world = store.data_mut();
    world.sink.clear();
    world.touched.clear();
    let source = world.handle();
    let sink = world.handle();
    world.sink_handle = sink;
    world.sources.insert(source, [&header.encode(), args].concat());
    let call = instance.get_func(&*store, entry).expect("the export exists");
    // The host's own caller and clock, which must not matter.
    let junk = i64::from(store.data().handles);
    let mut params = vec![wasmi::Val::I32(id as i32)];
    params.extend([junk; 7].map(wasmi::Val::I64));
    params.extend([wasmi::Val::I32(source as i32), wasmi::Val::I32(sink as i32)]);
    let mut results = [wasmi::Val::I32(0)];
    call.call(store, &params, &mut results).map_err(drop)?;
    results[0].i32().ok_or(())
}

/// The hash by which the server finds the rows of a view's instance.
fn arg_hash(sender: Option<[u8; 32]>) -> Vec<u8> {
    let hash = sender.map_or_else(empty_view_arg_hash_value, |sender| {
        sender_view_arg_hash_value(Identity::from_byte_array(sender))
    });
    bsatn::to_vec(&hash).unwrap()
}

/// Runs a view in the transaction that is under way, and puts what it returns in the place of its rows.
fn evaluate(
    store: &mut Store<World>,
    instance: &wasmi::Instance,
    view: &Instance,
) -> Result<ReadSet, Failure> {
    let (name, sender) = view;
    let world = store.data_mut();
    world.reads = Some(Vec::new());
    world.sink.clear();
    let sink = world.handle();
    world.sink_handle = sink;
    let db = world.db.as_ref().expect("a transaction");
    let def = db
        .views
        .iter()
        .find(|it| it.name == *name)
        .expect("the view exists")
        .clone();
    let table = db
        .tables
        .iter()
        .position(|it| it.name == *name)
        .expect("its table exists");
    let mut params = vec![wasmi::Val::I32(def.id as i32)];
    let entry = match sender {
        Some(sender) => {
            let words = sender.as_chunks().0.iter();
            params.extend(words.map(|word| wasmi::Val::I64(i64::from_le_bytes(*word))));
            "__call_view__"
        }
        None => "__call_view_anon__",
    };
    assert_eq!(def.anonymous, sender.is_none());
    params.extend([wasmi::Val::I32(0), wasmi::Val::I32(sink as i32)]);
    let mut results = [wasmi::Val::I32(0)];
    let call = instance.get_func(&*store, entry).expect("the export exists");
    if call.call(&mut *store, &params, &mut results).is_err() {
        return Err(Failure::Trapped);
    }
    let world = store.data_mut();
    assert!(world.iterators.is_empty(), "iterators are left open");
    let reads = world.reads.take().expect("a view ran");
    let mut rows = match results[0].i32() {
        Some(0) => world.sink.as_slice(),
        Some(2) => world.sink.strip_prefix(&[0][..]).expect("rows follow"),
        _ => return Err(Failure::Failed(String::from_utf8_lossy(&world.sink).into_owned())),
    }
    .to_vec();
    let db = world.db.as_mut().expect("the transaction is still there");
    let hash = arg_hash(*sender);
    let old = db.tables[table].rows.iter();
    let old: Vec<_> = old
        .filter(|row| bsatn::to_vec(&row.elements[0]).unwrap() == hash)
        .cloned()
        .collect();
    db.delete(table, &old);
    let count = u32::from_le_bytes(rows[..4].try_into().unwrap());
    rows.drain(..4);
    for _ in 0..count {
        let with_hash = [hash.clone(), rows].concat();
        let (row, rest) = db.decode_first(table, &with_hash);
        rows = rest.to_vec();
        db.insert(table, row);
    }
    assert!(rows.is_empty(), "there are as many rows as it says");
    Ok(reads)
}

/// A new instance, described.
fn instantiate(
    engine: &Engine,
    module: &Module,
    first_id: u32,
    fuel: Option<u64>,
) -> (Store<World>, wasmi::Instance, Vec<u8>) {
    let world = World {
        db: None,
        first_id,
        sources: HashMap::new(),
        iterators: HashMap::new(),
        timers: Vec::new(),
        committed: Vec::new(),
        disorder: u64::from(first_id),
        sink: Vec::new(),
        sink_handle: SINK,
        handles: first_id,
        touched: Vec::new(),
        reads: None,
        procedure: None,
    };
    let mut store = Store::new(engine, world);
    refuel(&mut store, fuel.map(|_| START_FUEL));
    let instance = linker(engine)
        .instantiate_and_start(&mut store, module)
        .expect("the imports are there");
    if let Ok(initialize) = instance.get_typed_func::<(), ()>(&store, "_initialize") {
        initialize.call(&mut store, ()).unwrap();
    }
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

fn refuel(store: &mut Store<World>, fuel: Option<u64>) {
    if let Some(fuel) = fuel {
        store.set_fuel(fuel).expect("fuel is consumed");
    }
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
    linker.func_wrap(base, "datastore_delete_all_by_eq_bsatn", delete_equal).unwrap();
    linker.func_wrap(base, "bytes_source_read", source_read).unwrap();
    linker.func_wrap(base, "bytes_sink_write", sink_write).unwrap();
    linker.func_wrap(base, "identity", |_: Host, _: u32| {}).unwrap();
    linker.func_wrap("spacetime_10.1", "bytes_source_remaining_length", remaining).unwrap();
    linker.func_wrap("spacetime_10.2", "get_jwt", |_: Host, _: u32, _: u32| -> u32 { panic!("this must not reach the host") }).unwrap();
    let procedures = "spacetime_10.3";
    linker.func_wrap(procedures, "procedure_start_mut_tx", start_tx).unwrap();
    linker.func_wrap(procedures, "procedure_commit_mut_tx", commit_tx).unwrap();
    linker.func_wrap(procedures, "procedure_abort_mut_tx", |mut host: Host| -> u32 {
        match host.data_mut().db.take() { Some(_) => 0, None => NOT_ANONYMOUS }
    }).unwrap();
    linker.func_wrap(procedures, "procedure_sleep_until", sleep_until).unwrap();
    linker.func_wrap(procedures, "procedure_http_request", |_: Host, _: u32, _: u32, _: u32, _: u32, _: u32| -> u32 { panic!("nobody fetches anything") }).unwrap();
    linker.func_wrap("spacetime_10.4", "datastore_index_scan_point_bsatn", scan_point).unwrap();
    linker.func_wrap("spacetime_10.4", "datastore_delete_by_index_scan_point_bsatn", delete_point).unwrap();
    linker
}

fn start_tx(mut host: Host, out: u32) -> u32 {
    let (bytes, world) = memory(&mut host);
    if world.db.is_some() {
        return WOULD_BLOCK;
    }
    let procedure = world.procedure.as_ref().expect("a procedure runs");
    let (committed, now_us) = (procedure.committed.clone(), procedure.now_us);
    put(bytes, out, &now_us.to_le_bytes());
    world.begin(committed);
    0
}

fn commit_tx(mut host: Host) -> u32 {
    let world = host.data_mut();
    let Some(mut db) = world.db.take() else {
        return NOT_ANONYMOUS;
    };
    let tables = db.tables.iter_mut().filter(|table| table.event);
    tables.for_each(|table| table.rows.clear());
    world.procedure.as_mut().expect("a procedure runs").committed = db;
    0
}

fn sleep_until(mut host: Host, until_us: i64) -> i64 {
    let world = host.data_mut();
    assert!(world.db.is_none(), "the database waits for ever");
    let procedure = world.procedure.as_mut().expect("a procedure runs");
    if until_us <= procedure.now_us {
        return procedure.now_us;
    }
    procedure.committed = (procedure.meanwhile)(procedure.committed.clone());
    procedure.now_us = until_us;
    procedure.now_us
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
    world.read(Read::Table(at));
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
    let db = world.db()?;
    let read = match bounds {
        [[0, start @ ..], [0, end @ ..]]
            if start == end && columns as usize + 1 == db.indexes[at].columns.len() =>
        {
            Read::Key(at, [slice(bytes, prefix, prefix_len), start].concat())
        }
        _ => Read::Table(db.indexes[at].table),
    };
    let rows = db.select(at, slice(bytes, prefix, prefix_len), columns as usize, bounds);
    world.read(read);
    let rows = world.ordered(at, rows)?;
    open(world, bytes, rows, out);
    Ok(0)
}

fn scan_point(mut host: Host, index: u32, point: u32, len: u32, out: u32) -> Result<u32, Error> {
    let (bytes, world) = memory(&mut host);
    let at = (index - world.first_id) as usize;
    let rows = world.db()?.select_point(at, slice(bytes, point, len));
    world.read(Read::Key(at, slice(bytes, point, len).to_vec()));
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

fn delete_equal(mut host: Host, table: u32, rows: u32, len: u32, out: u32) -> Result<u32, Error> {
    let (bytes, world) = memory(&mut host);
    let at = world.touch(table)?;
    let (count, mut rest) = slice(bytes, rows, len).split_at(4);
    let db = world.db()?;
    let mut doomed = Vec::new();
    for _ in 0..read32(count, 0) {
        let (row, after) = db.decode_first(at, rest);
        doomed.push(row);
        rest = after;
    }
    assert!(rest.is_empty(), "there are as many rows as it says");
    let deleted = db.delete(at, &doomed);
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
    if sink != world.sink_handle {
        return NO_SUCH_BYTES;
    }
    world
        .sink
        .extend_from_slice(slice(bytes, from, read32(bytes, len_at)));
    0
}
