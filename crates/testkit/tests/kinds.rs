//! Keys of every kind, on real servers that are killed and started again at different times: what a module reads is the
//! same on both, through every index and every table.

#![allow(clippy::unwrap_used, reason = "a test's failure is a panic")]

use std::time::Duration;

use rtdb_determinism::header::CallHeader;
use rtdb_testkit::client::{Args, Client, Connect, Wire};
use rtdb_testkit::server::{PlainServer, binary, major};
use rtdb_testkit::sql;
use spacetimedb_lib::db::raw_def::v9::{
    RawConstraintDataV9, RawConstraintDefV9, RawIndexAlgorithm, RawIndexDefV9, RawModuleDefV9,
    RawReducerDefV9, RawScopedTypeNameV9, RawTableDefV9, RawTypeDefV9, RawUniqueConstraintDataV9,
    TableAccess, TableType,
};
use spacetimedb_lib::{RawModuleDef, bsatn};
use spacetimedb_primitives::ColList;
use spacetimedb_sats::raw_identifier::RawIdentifier;
use spacetimedb_sats::{AlgebraicType, AlgebraicTypeRef, AlgebraicValue, ProductType, ProductTypeElement};
use tempfile::TempDir;
use tokio::time::timeout;

const DATABASE: &str = "kinds";

/// How many calls are made.
const CALLS: u64 = 200;

/// How often a server is killed: once in so many calls.
const KILLED_EVERY: u64 = 25;

/// How long a test may take.
const TEST_MAX: Duration = Duration::from_secs(300);

/// Random, but the same again.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(0x5851_f42d_4c95_7f2d)
            .wrapping_add(0x1405_7b7e_f767_814f);
        (self.0 >> 33) % end
    }

    fn one_of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len() as u64) as usize]
    }
}

/// A type of keys, and some of its values in BSATN: the smallest and the largest, and what is equal to another.
struct Kind {
    ty: AlgebraicType,
    values: Vec<Vec<u8>>,
}

fn kinds() -> Vec<Kind> {
    use AlgebraicType as T;
    let mut kinds = Vec::new();
    let integers = [
        (T::U8, 1),
        (T::I8, 1),
        (T::U16, 2),
        (T::I16, 2),
        (T::U32, 4),
        (T::I32, 4),
        (T::U64, 8),
        (T::I64, 8),
        (T::U128, 16),
        (T::I128, 16),
        (T::U256, 32),
        (T::I256, 32),
    ];
    for (ty, bytes) in integers {
        let with = |low: u8, middle: u8, high: u8| {
            let mut value = vec![middle; bytes];
            value[0] = low;
            *value.last_mut().unwrap() = high;
            value
        };
        let mut values = vec![
            with(0, 0, 0),
            with(255, 255, 255),
            with(254, 255, 255),
            with(0, 0, 128),
            with(1, 0, 128),
            with(255, 255, 127),
            with(0, 1, 1),
            with(7, 0, 0),
        ];
        values.extend((1..9_u8).map(|n| {
            let mut value = vec![0; bytes];
            value[0] = n;
            value
        }));
        values.sort();
        values.dedup();
        kinds.push(Kind { ty, values });
    }
    let scalar = |value: AlgebraicValue| bsatn::to_vec(&value).unwrap();
    let f32s = [
        0.0,
        -0.0,
        1.5,
        -1.5,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::MAX,
        f32::MIN_POSITIVE,
        f32::NAN,
        -f32::NAN,
        f32::from_bits(0x7fc0_0001),
        f32::from_bits(1),
    ];
    let f32s = f32s.map(|it| it.to_le_bytes().to_vec()).to_vec();
    let f64s = [
        0.0,
        -0.0,
        2.5,
        -2.5,
        f64::INFINITY,
        f64::NEG_INFINITY,
        f64::NAN,
        -f64::NAN,
        f64::from_bits(0x7ff8_0000_0000_0001),
        5e-324,
    ];
    let f64s = f64s.map(|it: f64| it.to_le_bytes().to_vec()).to_vec();
    let strings = [
        "",
        "a",
        "aa",
        "ab",
        "b",
        "B",
        "ä",
        "\u{10ffff}",
        "\0",
        "zzzzzzzzzzzzzzzzzzzzzzzzzzzz",
    ];
    let strings = strings
        .map(|it| scalar(AlgebraicValue::String(it.into())))
        .to_vec();
    let bytes = |it: &[u8]| [&(it.len() as u32).to_le_bytes()[..], it].concat();
    let blobs: Vec<_> = [&[][..], &[0], &[255], &[0, 0], &[1, 2, 3]].map(bytes).to_vec();
    let tagged = |tag: u8, values: &[Vec<u8>]| -> Vec<Vec<u8>> {
        values.iter().map(|it| [&[tag], it.as_slice()].concat()).collect()
    };
    let option = |values: &[Vec<u8>]| [tagged(0, values), vec![vec![1]]].concat();
    let pairs = |a: &[Vec<u8>], b: &[Vec<u8>]| -> Vec<Vec<u8>> {
        let pairs = a
            .iter()
            .flat_map(|a| b.iter().map(move |b| [a.as_slice(), b].concat()));
        pairs.take(30).collect()
    };
    let ints: Vec<_> = [-1_i32, 0, 1].map(|it| it.to_le_bytes().to_vec()).to_vec();
    let float_arrays = f32s.iter().map(|it| [&1_u32.to_le_bytes()[..], it].concat());
    let float_arrays = float_arrays.chain([vec![0; 4]]).collect();
    let plain = |names: &[&'static str]| T::simple_enum(names.iter().copied());
    let others = [
        (T::Bool, vec![vec![0], vec![1]]),
        (T::F32, f32s.clone()),
        (T::F64, f64s),
        (T::String, strings.clone()),
        (T::bytes(), blobs),
        (plain(&["A", "B", "C"]), vec![vec![0], vec![1], vec![2]]),
        (T::option(T::I32), option(&ints)),
        (T::option(T::String), option(&strings)),
        (T::option(T::F32), option(&f32s)),
        (row([T::F32, T::I32]), pairs(&f32s, &ints)),
        (row([T::String, T::I32]), pairs(&strings, &ints)),
        (T::array(T::F32), float_arrays),
        (
            T::sum([("Number", T::I32), ("Text", T::String), ("Nothing", T::unit())]),
            [tagged(0, &ints), tagged(1, &strings), vec![vec![2]]].concat(),
        ),
    ];
    kinds.extend(others.into_iter().map(|(ty, values)| Kind { ty, values }));
    kinds
}

fn row(types: impl IntoIterator<Item = AlgebraicType>) -> AlgebraicType {
    let columns = types.into_iter().zip(0..);
    let columns = columns.map(|(ty, at)| ProductTypeElement::new(ty, Some(format!("c{at}").into())));
    AlgebraicType::Product(columns.collect())
}

/// A table: its columns are the kinds of these numbers, or a `u64`.
struct Table {
    columns: Vec<Option<usize>>,
    indexes: Vec<RawIndexAlgorithm>,
    unique: Option<Vec<u16>>,
}

/// SpacetimeDB 1.x has no hash indexes, and dies of a large number in a direct one.
fn tables(kinds: &[Kind], since_2: bool) -> Vec<Table> {
    let btree = |columns: &[u16]| RawIndexAlgorithm::BTree {
        columns: columns.iter().copied().collect(),
    };
    let mut tables = Vec::new();
    for (kind, it) in kinds.iter().enumerate() {
        tables.push(Table {
            columns: vec![Some(kind), None],
            indexes: vec![btree(&[0])],
            unique: Some(vec![0]),
        });
        tables.push(Table {
            columns: vec![None, Some(kind)],
            indexes: vec![btree(&[1])],
            unique: None,
        });
        if since_2 {
            tables.push(Table {
                columns: vec![Some(kind), None],
                indexes: vec![btree(&[0, 1]), RawIndexAlgorithm::Hash { columns: 0.into() }],
                unique: (kind % 2 == 0).then(|| vec![0]),
            });
        }
        use AlgebraicType as T;
        if since_2 && matches!(it.ty, T::U8 | T::U16 | T::U32 | T::U64) {
            tables.push(Table {
                columns: vec![None, Some(kind)],
                indexes: vec![RawIndexAlgorithm::Direct { column: 1.into() }],
                unique: Some(vec![1]),
            });
        }
    }
    // Of several columns: integers, a float, a string.
    for columns in [[5, 15, 13], [13, 15, 0], [15, 13, 5]] {
        tables.push(Table {
            columns: columns.map(Some).to_vec(),
            indexes: vec![btree(&[2, 0]), btree(&[1, 2])],
            unique: Some(vec![0, 2]),
        });
        tables.push(Table {
            columns: [columns.map(Some).as_slice(), &[None]].concat(),
            indexes: vec![btree(&[2, 0]), btree(&[1, 0, 2])],
            unique: None,
        });
    }
    tables
}

/// How many of a table's indexes are walked: those that can be.
fn walked(table: &Table) -> usize {
    let walked = |it: &&RawIndexAlgorithm| !matches!(it, RawIndexAlgorithm::Hash { .. });
    table.indexes.iter().filter(walked).count()
}

fn module(kinds: &[Kind], tables: &[Table]) -> Vec<u8> {
    let mut def = RawModuleDefV9::default();
    let types: Vec<_> = kinds
        .iter()
        .zip(0..)
        .map(|(kind, at)| named(&mut def, &kind.ty, at))
        .collect();
    for (table, at) in tables.iter().zip(0..) {
        let columns = table.columns.iter().map(|kind| match kind {
            Some(kind) => types[*kind].clone(),
            None => AlgebraicType::U64,
        });
        let indexes = table.indexes.iter().zip('a'..);
        let indexes = indexes.map(|(algorithm, which)| RawIndexDefV9 {
            name: Some(RawIdentifier::new(format!("i{at:02}{which}"))),
            accessor_name: None,
            algorithm: algorithm.clone(),
        });
        let unique = table.unique.iter().map(|columns| RawConstraintDefV9 {
            name: None,
            data: RawConstraintDataV9::Unique(RawUniqueConstraintDataV9 {
                columns: columns.iter().copied().collect(),
            }),
        });
        let (indexes, unique) = (indexes.collect(), unique.collect());
        add_table(&mut def, format!("t{at:02}"), row(columns), indexes, unique);
    }
    let seen = row([AlgebraicType::U64, AlgebraicType::bytes()]);
    add_table(&mut def, "seen".into(), seen, Vec::new(), Vec::new());
    let argument = ProductTypeElement::new(AlgebraicType::bytes(), Some("all".into()));
    def.reducers.push(RawReducerDefV9 {
        name: RawIdentifier::new("act"),
        params: ProductType::from_iter([argument]),
        lifecycle: None,
    });
    let def = bsatn::to_vec(&RawModuleDef::V9(def)).unwrap();
    let escape = |bytes: &[u8]| {
        bytes
            .iter()
            .map(|byte| format!("\\{byte:02x}"))
            .collect::<String>()
    };
    let walked: Vec<_> = tables.iter().map(|table| walked(table) as u8).collect();
    let text = include_str!("kinds.wat")
        .replace("{DEF}", &escape(&def))
        .replace("{LEN}", &def.len().to_string())
        .replace("{WALKED}", &escape(&walked))
        .replace("{TABLES}", &tables.len().to_string());
    let module = wat::parse_str(text).unwrap();
    rtdb_determinism::prepare(&module).unwrap().wasm
}

/// A type as a column has it: products and sums go by a name.
fn named(def: &mut RawModuleDefV9, ty: &AlgebraicType, at: usize) -> AlgebraicType {
    if !matches!(ty, AlgebraicType::Product(_) | AlgebraicType::Sum(_)) || ty.as_option().is_some() {
        return ty.clone();
    }
    AlgebraicType::Ref(add_type(def, format!("Kind{at}"), ty.clone()))
}

fn add_type(def: &mut RawModuleDefV9, name: String, ty: AlgebraicType) -> AlgebraicTypeRef {
    let reference = def.typespace.add(ty);
    def.types.push(RawTypeDefV9 {
        name: RawScopedTypeNameV9 {
            scope: Box::new([]),
            name: RawIdentifier::new(name),
        },
        ty: reference,
        custom_ordering: true,
    });
    reference
}

fn add_table(
    def: &mut RawModuleDefV9,
    name: String,
    row: AlgebraicType,
    indexes: Vec<RawIndexDefV9>,
    constraints: Vec<RawConstraintDefV9>,
) {
    let product_type_ref = add_type(def, name.clone(), row);
    def.tables.push(RawTableDefV9 {
        name: RawIdentifier::new(name),
        product_type_ref,
        primary_key: ColList::empty(),
        indexes,
        constraints,
        sequences: Vec::new(),
        schedule: None,
        table_type: TableType::User,
        table_access: TableAccess::Public,
    });
}

/// What a call does, and what each of the hashes that come of it stands for.
struct Call {
    arguments: Vec<u8>,
    hashes: Vec<String>,
}

fn call(dice: &mut Dice, kinds: &[Kind], tables: &[Table]) -> Call {
    let mut acts = Vec::new();
    let mut hashes = Vec::new();
    let count = dice.below(tables.len() as u64 * 8);
    for _ in 0..count {
        let at = dice.below(tables.len() as u64) as usize;
        let table = &tables[at];
        let row = |dice: &mut Dice| -> Vec<u8> {
            let columns = table.columns.iter().map(|kind| match kind {
                Some(kind) => dice.one_of(&kinds[*kind].values).clone(),
                None => dice.below(6).to_le_bytes().to_vec(),
            });
            columns.collect::<Vec<_>>().concat()
        };
        let what = *dice.one_of(&[0_u8, 0, 0, 1, 1, 2, 3, 4]);
        // An update wants a unique index, a bound is of the first column of one.
        let first = match &table.indexes[0] {
            RawIndexAlgorithm::BTree { columns } => columns.iter().next().unwrap().0,
            RawIndexAlgorithm::Direct { column } => column.0,
            other => panic!("{other:?}"),
        };
        let exact = |columns: &Vec<u16>| *columns == [first];
        let what = match what {
            2 if !table.unique.as_ref().is_some_and(exact) || table.indexes.len() > 1 => 0,
            // SpacetimeDB 2.x takes a key that is a product for several columns.
            3 | 4 if table.columns[usize::from(first)].is_some_and(|kind| kinds[kind].ty.is_product()) => 0,
            what => what,
        };
        let bytes = match what {
            0 | 2 => row(dice),
            1 => {
                let rows: Vec<_> = (0..4).map(|_| row(dice)).collect();
                [&4_u32.to_le_bytes()[..], &rows.concat()].concat()
            }
            _ => {
                let key = match table.columns[usize::from(first)] {
                    Some(kind) => dice.one_of(&kinds[kind].values).clone(),
                    None => dice.below(6).to_le_bytes().to_vec(),
                };
                // A range may exclude its key; a single key is a bound that includes it.
                let tag = if what == 4 { dice.below(2) as u8 } else { 0 };
                [&[tag], key.as_slice()].concat()
            }
        };
        acts.extend([what, at as u8]);
        acts.extend((bytes.len() as u32).to_le_bytes());
        acts.extend(bytes);
        hashes.push(format!("act {what} of {:?}", describe(kinds, table)));
    }
    for table in tables {
        let table_text = describe(kinds, table);
        hashes.push(format!("the table, before, {table_text}"));
        hashes.push(format!("the table, {table_text}"));
        hashes.extend((0..walked(table)).map(|which| format!("index {which} of {table_text}")));
    }
    let buffer = *dice.one_of(&[0_u32, 10, 100, 1_000, 70_000]);
    let all = [&buffer.to_le_bytes()[..], &(count as u32).to_le_bytes(), &acts].concat();
    Call {
        arguments: [&(all.len() as u32).to_le_bytes()[..], &all].concat(),
        hashes,
    }
}

fn describe(kinds: &[Kind], table: &Table) -> String {
    let columns: Vec<_> = table
        .columns
        .iter()
        .map(|kind| kind.map(|kind| &kinds[kind].ty))
        .collect();
    format!("{columns:?} by {:?}, unique {:?}", table.indexes, table.unique)
}

/// A server that has been called so often.
struct Replica {
    folder: TempDir,
    server: PlainServer,
    token: String,
    client: Client,
    called: u64,
}

impl Replica {
    async fn start(wasm: &[u8]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let server = PlainServer::start(&binary().unwrap(), folder.path())
            .await
            .unwrap();
        let token = server.api().new_token().await.unwrap();
        let owner = server.api().with_token(&token);
        owner.publish(DATABASE, wasm.to_vec()).await.unwrap();
        let client = connect(&server, &token).await;
        Self {
            folder,
            server,
            token,
            client,
            called: 0,
        }
    }

    /// Kills the server, and starts it with what it had on disk.
    async fn restart(self) -> Self {
        self.server.kill().await.unwrap();
        let server = PlainServer::start(&binary().unwrap(), self.folder.path())
            .await
            .unwrap();
        let api = server.api().with_token(&self.token);
        let state = sql::select(&api, DATABASE, "SELECT index FROM rtdb_state")
            .await
            .unwrap();
        let index = state.column("index").unwrap().first().and_then(|it| it.as_u64());
        let client = connect(&server, &self.token).await;
        Self {
            server,
            client,
            called: index.unwrap_or(0),
            ..self
        }
    }

    /// Makes whatever calls it has not made yet.
    async fn catch_up(&mut self, calls: &[Call]) {
        while let Some(call) = calls.get(self.called as usize) {
            self.called += 1;
            let header = CallHeader {
                sender: self.client.hello().identity,
                connection: [7; 16],
                timestamp_us: self.called as i64,
                index: self.called,
                session: 1,
            };
            let args = Args::new().raw(&header.encode()).raw(&call.arguments);
            let reply = self.client.call_and_wait("act", &args).await.unwrap();
            assert!(reply.result.is_ok(), "{:?}", reply.result);
        }
    }

    /// What each call has seen.
    async fn seen(&self) -> Vec<(u64, Vec<u8>)> {
        let api = self.server.api().with_token(&self.token);
        let rows = sql::select(&api, DATABASE, "SELECT c0, c1 FROM seen")
            .await
            .unwrap();
        let (times, hashes) = (rows.column("c0").unwrap(), rows.column("c1").unwrap());
        let rows = times.into_iter().zip(hashes);
        let rows = rows.map(|(time, hashes)| {
            (
                time.as_u64().unwrap(),
                hex::decode(hashes.as_str().unwrap()).unwrap(),
            )
        });
        let mut rows: Vec<_> = rows.collect();
        rows.sort();
        rows
    }
}

async fn connect(server: &PlainServer, token: &str) -> Client {
    let to = Connect {
        wire: Wire::usual().unwrap(),
        ..Connect::new(server.addr(), DATABASE)
    };
    Client::connect(&to.with_token(token)).await.unwrap()
}

async fn two_servers_see_the_same(seed: u64) {
    let kinds = kinds();
    let tables = tables(&kinds, major().unwrap() > 1);
    let wasm = module(&kinds, &tables);
    let mut replicas = [Replica::start(&wasm).await, Replica::start(&wasm).await];
    let (mut dice, mut calls) = (Dice(seed), Vec::new());
    for done in 0..CALLS {
        calls.push(call(&mut dice, &kinds, &tables));
        for replica in &mut replicas {
            replica.catch_up(&calls).await;
        }
        let killed = dice.below(2 * KILLED_EVERY);
        if killed < 2 || done + 1 == CALLS {
            let [one, other] = replicas;
            let (seen, others) = (one.seen().await, other.seen().await);
            assert_eq!(seen.len(), calls.len());
            for (one, other) in seen.iter().zip(&others) {
                let call = &calls[one.0 as usize - 1];
                assert_eq!(one.1.len(), call.hashes.len() * 8);
                let hashes = one.1.chunks(8).zip(other.1.chunks(8)).zip(&call.hashes);
                let differ: Vec<_> = hashes
                    .filter(|((one, other), _)| one != other)
                    .map(|it| it.1)
                    .collect();
                assert!(differ.is_empty(), "in call {}: {differ:#?}", one.0);
            }
            replicas = match killed {
                0 => [one.restart().await, other],
                _ => [one, other.restart().await],
            };
        }
    }
}

#[tokio::test]
async fn keys_of_every_kind_come_in_the_same_order_on_servers_that_were_killed() {
    timeout(TEST_MAX, two_servers_see_the_same(1)).await.unwrap();
}
