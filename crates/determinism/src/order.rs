//! In which order a module sees a table's rows. The host's own order is where its rows happen to stand, unless an index
//! leaves no choice.

use spacetimedb_lib::db::raw_def::v9::{
    RawConstraintDataV9, RawIndexAlgorithm, RawTableDefV9, RawUniqueConstraintDataV9,
};
use spacetimedb_lib::db::raw_def::v10::RawTableDefV10;
use spacetimedb_primitives::{ColId, ColList};
use spacetimedb_sats::{AlgebraicType, ProductType, Typespace};

use crate::PrepareError;
use crate::shape::{Shape, scalar_bytes};

/// What gives a table's rows their order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Order {
    /// The place in `indexes` of the one whose order is that of the whole table. Without one, `scan` says how to sort.
    pub(crate) index: Option<usize>,
    /// How to sort the whole table.
    pub(crate) scan: Option<Sorting>,
    /// The table's indexes.
    pub(crate) indexes: Vec<IndexOrder>,
}

/// In which order an index gives rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct IndexOrder {
    /// The name by which the module finds it.
    pub(crate) name: String,
    /// How to sort what it gives; `None` if its keys are unique, so that its order is good as it is.
    pub(crate) sorting: Option<Sorting>,
    /// Whether it can be walked from its first key to its last.
    pub(crate) ordered: bool,
    /// Whether it is of one column, and a key of it is that of one row.
    pub(crate) one_row: bool,
}

/// How rows are sorted: the parts of a row, one behind the other. Rows whose keys differ stay in their order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sorting(pub(crate) Vec<Part>);

/// A part of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Part {
    /// Not of the key.
    Other(Shape),
    /// Keys are equal if their bytes are.
    Key(Shape),
    /// A float of so many bytes: 0 and -0 are equal keys, and so are all that are not numbers.
    Float(u32),
}

/// A table's indexes and unique constraints, as the definitions of both versions hold them.
#[derive(Debug)]
pub(crate) struct Indexes {
    indexes: Vec<Index>,
    /// The unique constraints, the primary key's first.
    unique: Vec<Unique>,
}

#[derive(Debug)]
struct Unique {
    columns: ColList,
    /// Whether two values that differ to one index do so to all. Floats may not: to a hash index, 0 and -0 can differ.
    plain: bool,
}

#[derive(Debug)]
struct Index {
    name: String,
    columns: ColList,
    /// Whether it can be walked from its first key to its last.
    ordered: bool,
    /// Whether it is an array with a place for each key.
    direct: bool,
}

impl Indexes {
    pub(crate) fn of_v9(table: &RawTableDefV9, types: &Typespace) -> Result<Self, PrepareError> {
        let row = types.get(table.product_type_ref).and_then(|ty| ty.as_product());
        let indexes = table.indexes.iter().map(|index| {
            let generated = || generated_name(&table.name, row, &index.algorithm);
            Index::new(
                index.name.as_ref().map_or_else(generated, ToString::to_string),
                &index.algorithm,
            )
        });
        Ok(Self {
            indexes: indexes.collect::<Result<_, _>>()?,
            unique: unique(
                &table.primary_key,
                table.constraints.iter().map(|constraint| &constraint.data),
                row,
                types,
            ),
        })
    }

    pub(crate) fn of_v10(table: &RawTableDefV10, types: &Typespace) -> Result<Self, PrepareError> {
        let row = types.get(table.product_type_ref).and_then(|ty| ty.as_product());
        let indexes = table.indexes.iter().map(|index| {
            let name = index.source_name.as_ref().ok_or_else(|| {
                PrepareError::Definition(format!(
                    "table `{}` has an index without a name",
                    table.source_name
                ))
            })?;
            Index::new(name.to_string(), &index.algorithm)
        });
        Ok(Self {
            indexes: indexes.collect::<Result<_, _>>()?,
            unique: unique(
                &table.primary_key,
                table.constraints.iter().map(|constraint| &constraint.data),
                row,
                types,
            ),
        })
    }

    /// The place of the index whose order is that of the whole table: of the primary key, else of another unique
    /// constraint, else one whose columns are unique together with others.
    pub(crate) fn first(&self) -> Option<usize> {
        let with = |wanted: &dyn Fn(&Index) -> bool| {
            self.indexes
                .iter()
                .position(|index| index.ordered && wanted(index))
        };
        let exact = self.unique.iter().find_map(|key| with(&|index| key.is_of(index)));
        exact.or_else(|| with(&|index| self.is_unique(index)))
    }

    /// The place of an index that knows which values of a unique column are taken.
    pub(crate) fn of_unique(&self, column: u16) -> Option<usize> {
        let column = ColList::new(ColId(column));
        let unique = self.unique.iter().any(|key| key.columns == column);
        let mut indexes = self.indexes.iter();
        indexes
            .position(|index| index.columns == column)
            .filter(|_| unique)
    }

    fn is_unique(&self, index: &Index) -> bool {
        let mut keys = self.unique.iter();
        keys.any(|key| key.is_of(index) || key.plain && contains(&index.columns, &key.columns))
    }

    /// How to order a table's rows, or why that can't be done.
    pub(crate) fn order(
        &self,
        table: &str,
        row: &ProductType,
        types: &Typespace,
    ) -> Result<Order, PrepareError> {
        let columns = self
            .indexes
            .iter()
            .map(|index| &index.columns)
            .chain(self.unique.iter().map(|key| &key.columns));
        if columns
            .flat_map(ColList::iter)
            .any(|column| column.idx() >= row.elements.len())
        {
            return Err(PrepareError::Definition(format!(
                "table `{table}` has an index or a constraint on a column it lacks"
            )));
        }
        // SpacetimeDB 1.2.0 takes such an index, and ends itself.
        if let Some(index) = self.indexes.iter().find(|it| it.direct && !self.is_unique(it)) {
            return Err(PrepareError::Definition(format!(
                "the direct index `{}` of table `{table}` is of a column that is not unique: make it unique, or the index \
                 a btree",
                index.name
            )));
        }
        let sorting = |key: &ColList| {
            Sorting::new(row, types, key).ok_or_else(|| PrepareError::Unsortable(table.to_owned()))
        };
        let index = self.first();
        let indexes = self.indexes.iter().map(|index| {
            let key = if index.ordered {
                index.columns.clone()
            } else {
                ColList::empty()
            };
            Ok(IndexOrder {
                name: index.name.clone(),
                sorting: match self.is_unique(index) {
                    true => None,
                    false => Some(sorting(&key)?),
                },
                ordered: index.ordered,
                one_row: index.columns.len() == 1 && self.is_unique(index),
            })
        });
        Ok(Order {
            index,
            indexes: indexes.collect::<Result<_, PrepareError>>()?,
            scan: match index {
                Some(_) => None,
                None => Some(sorting(&ColList::empty())?),
            },
        })
    }
}

impl Unique {
    /// Whether the index itself sees to it: its columns are those of the constraint.
    fn is_of(&self, index: &Index) -> bool {
        contains(&index.columns, &self.columns) && contains(&self.columns, &index.columns)
    }
}

impl Index {
    fn new(name: String, algorithm: &RawIndexAlgorithm) -> Result<Self, PrepareError> {
        let (_, columns) = parts(algorithm)
            .ok_or_else(|| PrepareError::Definition(format!("index `{name}` is of an unknown kind")))?;
        let ordered = !matches!(algorithm, RawIndexAlgorithm::Hash { .. });
        Ok(Self {
            name,
            columns,
            ordered,
            direct: matches!(algorithm, RawIndexAlgorithm::Direct { .. }),
        })
    }
}

impl Sorting {
    /// `None` if a row is too intricate to find its end.
    fn new(row: &ProductType, types: &Typespace, key: &ColList) -> Option<Self> {
        let mut parts = Vec::new();
        let mut others = Vec::new();
        for (column, at) in row.elements.iter().zip(0_u16..) {
            let part = match contains(key, &ColList::new(ColId(at))) {
                true => key_part(&column.algebraic_type, types)?,
                false => None,
            };
            match part {
                None => others.push(column.clone()),
                Some(part) => {
                    parts.push(Part::Other(shape(std::mem::take(&mut others), types)?));
                    parts.push(part);
                }
            }
        }
        parts.push(Part::Other(shape(others, types)?));
        parts.retain(|part| *part != Part::Other(Shape::Fixed(0)));
        Some(Self(parts))
    }
}

/// A column as part of a key. A float within another value would have to be found to be compared: no language has such
/// keys, and what is not compared makes rows equal, which sorts them too.
fn key_part(ty: &AlgebraicType, types: &Typespace) -> Option<Option<Part>> {
    let shape = Shape::of(ty, types)?;
    let mut ty = ty;
    while let AlgebraicType::Ref(reference) = ty {
        ty = types.get(*reference)?;
    }
    Some(match ty {
        AlgebraicType::F32 | AlgebraicType::F64 => scalar_bytes(ty).map(Part::Float),
        ty if has_float(ty, types) => None,
        _ => Some(Part::Key(shape)),
    })
}

/// Whether a value holds floats, of a type that has a shape.
fn has_float(ty: &AlgebraicType, types: &Typespace) -> bool {
    match ty {
        AlgebraicType::F32 | AlgebraicType::F64 => true,
        AlgebraicType::Ref(reference) => types.get(*reference).is_some_and(|ty| has_float(ty, types)),
        AlgebraicType::Product(product) => product
            .elements
            .iter()
            .any(|element| has_float(&element.algebraic_type, types)),
        AlgebraicType::Sum(sum) => sum
            .variants
            .iter()
            .any(|variant| has_float(&variant.algebraic_type, types)),
        AlgebraicType::Array(array) => has_float(&array.elem_ty, types),
        _ => false,
    }
}

fn shape(columns: Vec<spacetimedb_sats::ProductTypeElement>, types: &Typespace) -> Option<Shape> {
    Shape::of(&AlgebraicType::Product(columns.into_iter().collect()), types)
}

fn unique<'a>(
    primary: &ColList,
    constraints: impl Iterator<Item = &'a RawConstraintDataV9>,
    row: Option<&ProductType>,
    types: &Typespace,
) -> Vec<Unique> {
    let mut unique: Vec<_> = constraints
        .filter_map(|data| match data {
            RawConstraintDataV9::Unique(RawUniqueConstraintDataV9 { columns }) => Some(columns.clone()),
            _ => None,
        })
        .filter(|columns| !columns.is_empty())
        .collect();
    unique.sort_by_key(|columns| columns != primary);
    let plain = |column: ColId| {
        let ty = row.and_then(|row| row.elements.get(column.idx()));
        ty.is_some_and(|column| is_plain(&column.algebraic_type, types))
    };
    let unique = unique.into_iter().map(|columns| {
        let plain = columns.iter().all(plain);
        Unique { columns, plain }
    });
    unique.collect()
}

/// Whether a type is known to hold no floats.
fn is_plain(ty: &AlgebraicType, types: &Typespace) -> bool {
    Shape::of(ty, types).is_some() && !has_float(ty, types)
}

/// Whether all of `some` are among `columns`.
fn contains(columns: &ColList, some: &ColList) -> bool {
    some.iter().all(|one| columns.iter().any(|column| column == one))
}

/// The name that the server gives to an index that has none.
fn generated_name(table: &str, row: Option<&ProductType>, algorithm: &RawIndexAlgorithm) -> String {
    let Some((kind, columns)) = parts(algorithm) else {
        return String::new();
    };
    let name = |column: ColId| {
        let named = row.and_then(|row| row.elements.get(column.idx()));
        named
            .and_then(|column| column.name())
            .map_or_else(|| format!("col_{}", column.0), |name| name.to_string())
    };
    let columns: Vec<_> = columns.iter().map(name).collect();
    format!("{table}_{}_idx_{kind}", columns.join("_"))
}

fn parts(algorithm: &RawIndexAlgorithm) -> Option<(&'static str, ColList)> {
    Some(match algorithm {
        RawIndexAlgorithm::BTree { columns } => ("btree", columns.clone()),
        RawIndexAlgorithm::Hash { columns } => ("hash", columns.clone()),
        RawIndexAlgorithm::Direct { column } => ("direct", ColList::new(*column)),
        _ => return None,
    })
}
