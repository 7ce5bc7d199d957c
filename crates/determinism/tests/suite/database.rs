//! A tiny datastore: tables with unique indexes, as far as modules and the shim need them.

use std::ops::{Bound, RangeBounds};

use spacetimedb_lib::RawModuleDef;
use spacetimedb_lib::bsatn::{self, Deserializer};
use spacetimedb_lib::db::raw_def::v9::{RawConstraintDataV9, RawIndexAlgorithm};
use spacetimedb_lib::db::raw_def::v10::RawViewDefV10;
use spacetimedb_lib::db::view::extract_view_return_product_type_ref;
use spacetimedb_lib::de::DeserializeSeed;
use spacetimedb_primitives::ColList;
use spacetimedb_sats::{
    AlgebraicType, AlgebraicValue, ProductType, ProductTypeElement, ProductValue, Typespace, WithTypespace,
};

pub(crate) const NO_SUCH_TABLE: u32 = 4;
pub(crate) const NO_SUCH_INDEX: u32 = 5;
pub(crate) const UNIQUE_ALREADY_EXISTS: u32 = 12;
pub(crate) const NO_SUCH_ROW: u32 = 15;

#[derive(Clone)]
pub(crate) struct Table {
    pub(crate) name: String,
    pub(crate) row: ProductType,
    pub(crate) unique: Vec<Vec<usize>>,
    pub(crate) rows: Vec<ProductValue>,
    /// Whether its rows go with the transaction.
    pub(crate) event: bool,
}

/// A view; its rows are in the table of its name.
#[derive(Clone)]
pub(crate) struct View {
    pub(crate) name: String,
    pub(crate) id: u32,
    pub(crate) anonymous: bool,
}

#[derive(Clone)]
pub(crate) struct Index {
    pub(crate) name: String,
    pub(crate) table: usize,
    pub(crate) columns: Vec<usize>,
    pub(crate) hash: bool,
}

#[derive(Clone)]
pub(crate) struct Database {
    pub(crate) types: Typespace,
    pub(crate) tables: Vec<Table>,
    pub(crate) indexes: Vec<Index>,
    pub(crate) reducers: Vec<String>,
    pub(crate) procedures: Vec<String>,
    pub(crate) views: Vec<View>,
}

impl Database {
    /// A new database of a module with this definition.
    pub(crate) fn new(def: &[u8]) -> Self {
        match bsatn::from_slice::<RawModuleDef>(def).expect("the definition decodes") {
            RawModuleDef::V9(def) => {
                let mut new = Self::empty(
                    def.typespace,
                    def.reducers.iter().map(|it| it.name.to_string()).collect(),
                );
                for table in &def.tables {
                    assert!(
                        table.sequences.is_empty() && table.schedule.is_none(),
                        "the host must not act by itself"
                    );
                    let unique = table.constraints.iter().map(|it| unique_columns(&it.data));
                    let indexes = table
                        .indexes
                        .iter()
                        .map(|it| (it.name.as_ref().map(ToString::to_string), &it.algorithm));
                    new.add(
                        table.name.to_string(),
                        table.product_type_ref,
                        unique.collect(),
                        indexes.collect(),
                    );
                }
                assert!(def.reducers.iter().all(|reducer| reducer.lifecycle.is_none()));
                new
            }
            RawModuleDef::V10(def) => {
                let reducers = def
                    .reducers()
                    .expect("reducers")
                    .iter()
                    .map(|it| it.source_name.to_string());
                let mut new = Self::empty(def.typespace().expect("types").clone(), reducers.collect());
                for table in def.tables().expect("tables") {
                    assert!(table.sequences.is_empty(), "the host must not act by itself");
                    let unique = table.constraints.iter().map(|it| unique_columns(&it.data));
                    let indexes = table.indexes.iter();
                    let indexes =
                        indexes.map(|it| (it.source_name.as_ref().map(ToString::to_string), &it.algorithm));
                    new.add(
                        table.source_name.to_string(),
                        table.product_type_ref,
                        unique.collect(),
                        indexes.collect(),
                    );
                    new.tables.last_mut().unwrap().event = table.is_event;
                }
                for view in def.views().into_iter().flatten() {
                    new.add_view(view);
                }
                let procedures = def.procedures().into_iter().flatten();
                new.procedures = procedures.map(|it| it.source_name.to_string()).collect();
                assert!(def.schedules().is_none() && def.lifecycle_reducers().is_none());
                new
            }
            _ => panic!("an old definition"),
        }
    }

    fn empty(types: Typespace, reducers: Vec<String>) -> Self {
        Self {
            types,
            tables: Vec::new(),
            indexes: Vec::new(),
            reducers,
            procedures: Vec::new(),
            views: Vec::new(),
        }
    }

    fn add(
        &mut self,
        name: String,
        row: spacetimedb_sats::AlgebraicTypeRef,
        unique: Vec<Vec<usize>>,
        indexes: Vec<(Option<String>, &RawIndexAlgorithm)>,
    ) {
        let row = self.types[row].as_product().expect("a row is a product").clone();
        for (given, algorithm) in indexes {
            let indexes = |columns: &ColList| columns.iter().map(|it| it.idx()).collect();
            let (columns, kind): (Vec<usize>, _) = match algorithm {
                RawIndexAlgorithm::BTree { columns } => (indexes(columns), "btree"),
                RawIndexAlgorithm::Hash { columns } => (indexes(columns), "hash"),
                RawIndexAlgorithm::Direct { column } => (vec![column.idx()], "direct"),
                other => panic!("{other:?}"),
            };
            let column_names: Vec<_> = columns
                .iter()
                .map(|&it| row.elements[it].name().unwrap().to_string())
                .collect();
            let generated = format!("{name}_{}_idx_{kind}", column_names.join("_"));
            let name = given.unwrap_or(generated);
            self.indexes.push(Index {
                name,
                table: self.tables.len(),
                columns,
                hash: kind == "hash",
            });
        }
        self.tables.push(Table {
            name,
            row,
            unique,
            rows: Vec::new(),
            event: false,
        });
    }

    /// A view, with the table and the index that the server makes for it.
    fn add_view(&mut self, view: &RawViewDefV10) {
        let (row, _) = extract_view_return_product_type_ref(&view.return_type).expect("a view of rows");
        let row = self.types[row].as_product().expect("a row is a product");
        let hash = ProductTypeElement::new_named(AlgebraicType::U256, "arg_hash");
        let row: ProductType = std::iter::once(hash)
            .chain(row.elements.iter().cloned())
            .collect();
        let name = view.source_name.to_string();
        self.indexes.push(Index {
            name: format!("{name}_arg_hash_idx_btree"),
            table: self.tables.len(),
            columns: vec![0],
            hash: false,
        });
        self.tables.push(Table {
            name: name.clone(),
            row,
            unique: Vec::new(),
            rows: Vec::new(),
            event: false,
        });
        let (id, anonymous) = (view.index, view.is_anonymous);
        self.views.push(View { name, id, anonymous });
    }

    pub(crate) fn table(&self, name: &str) -> &Table {
        self.tables
            .iter()
            .find(|table| table.name == name)
            .expect("the table exists")
    }

    /// A table's rows in BSATN, in order.
    pub(crate) fn rows(&self, name: &str) -> Vec<Vec<u8>> {
        let mut rows: Vec<_> = self
            .table(name)
            .rows
            .iter()
            .map(|row| bsatn::to_vec(row).unwrap())
            .collect();
        rows.sort();
        rows
    }

    pub(crate) fn decode(&self, table: usize, row: &[u8]) -> ProductValue {
        let (row, rest) = self.decode_first(table, row);
        assert!(rest.is_empty(), "the row ends where it should");
        row
    }

    /// The first of several rows, and the others.
    pub(crate) fn decode_first<'a>(&self, table: usize, rows: &'a [u8]) -> (ProductValue, &'a [u8]) {
        let mut rest = rows;
        let ty = WithTypespace::new(&self.types, &self.tables[table].row);
        let row = ty
            .deserialize(Deserializer::new(&mut rest))
            .expect("the row decodes");
        (row, rest)
    }

    pub(crate) fn insert(&mut self, table: usize, row: ProductValue) -> u32 {
        let Some(it) = self.tables.get_mut(table) else {
            return NO_SUCH_TABLE;
        };
        if it.rows.contains(&row) {
            return 0;
        }
        let taken = |columns: &Vec<usize>| {
            it.rows
                .iter()
                .any(|other| key(other, columns) == key(&row, columns))
        };
        if it.unique.iter().any(taken) {
            return UNIQUE_ALREADY_EXISTS;
        }
        it.rows.push(row);
        0
    }

    pub(crate) fn update(&mut self, table: usize, index: usize, row: ProductValue) -> u32 {
        let Some(Index { columns, .. }) = self.indexes.get(index).cloned() else {
            return NO_SUCH_INDEX;
        };
        let rows = &mut self.tables[table].rows;
        let Some(at) = rows
            .iter()
            .position(|other| key(other, &columns) == key(&row, &columns))
        else {
            return NO_SUCH_ROW;
        };
        let old = rows.remove(at);
        let errno = self.insert(table, row);
        if errno != 0 {
            self.tables[table].rows.insert(at, old);
        }
        errno
    }

    /// The rows within the bounds of an index scan: `prefix`, then from `start` to `end`.
    pub(crate) fn select(
        &self,
        index: usize,
        prefix: &[u8],
        prefix_columns: usize,
        bounds: [&[u8]; 2],
    ) -> Vec<ProductValue> {
        let Index {
            table, columns, hash, ..
        } = &self.indexes[index];
        assert!(!hash, "the host traps here");
        let table = &self.tables[*table];
        let [start, end] = bounds;
        let column = columns[prefix_columns];
        let ty = &table.row.elements[column].algebraic_type;
        let bound = |bytes: &[u8]| match bytes.split_first() {
            Some((0, value)) => Bound::Included(self.value(ty, value)),
            Some((1, value)) => Bound::Excluded(self.value(ty, value)),
            Some((2, [])) => Bound::Unbounded,
            _ => panic!("not a bound: {bytes:?}"),
        };
        let range = (bound(start), bound(if end.is_empty() { start } else { end }));
        let rows = table.rows.iter();
        rows.filter(|row| encoded_key(row, &columns[..prefix_columns]) == prefix)
            .filter(|row| range.contains(&row.elements[column]))
            .cloned()
            .collect()
    }

    fn value(&self, ty: &AlgebraicType, bytes: &[u8]) -> AlgebraicValue {
        let mut rest = bytes;
        let ty = WithTypespace::new(&self.types, ty);
        ty.deserialize(Deserializer::new(&mut rest))
            .expect("the value decodes")
    }

    /// A row's key in an index.
    pub(crate) fn key<'a>(&self, index: usize, row: &'a ProductValue) -> Vec<&'a AlgebraicValue> {
        key(row, &self.indexes[index].columns)
    }

    /// The same, encoded.
    pub(crate) fn encoded_key(&self, index: usize, row: &ProductValue) -> Vec<u8> {
        encoded_key(row, &self.indexes[index].columns)
    }

    pub(crate) fn select_point(&self, index: usize, point: &[u8]) -> Vec<ProductValue> {
        let Index { table, columns, .. } = &self.indexes[index];
        let rows = self.tables[*table].rows.iter();
        rows.filter(|row| encoded_key(row, columns) == point)
            .cloned()
            .collect()
    }

    pub(crate) fn delete(&mut self, table: usize, doomed: &[ProductValue]) -> u32 {
        let rows = &mut self.tables[table].rows;
        let before = rows.len();
        rows.retain(|row| !doomed.contains(row));
        (before - rows.len()) as u32
    }
}

fn unique_columns(data: &RawConstraintDataV9) -> Vec<usize> {
    match data {
        RawConstraintDataV9::Unique(unique) => unique.columns.iter().map(|column| column.idx()).collect(),
        other => panic!("{other:?}"),
    }
}

fn key<'a>(row: &'a ProductValue, columns: &[usize]) -> Vec<&'a AlgebraicValue> {
    columns.iter().map(|&column| &row.elements[column]).collect()
}

fn encoded_key(row: &ProductValue, columns: &[usize]) -> Vec<u8> {
    key(row, columns)
        .into_iter()
        .flat_map(|value| bsatn::to_vec(value).unwrap())
        .collect()
}
