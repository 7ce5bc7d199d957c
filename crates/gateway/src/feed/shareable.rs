use rtdb_determinism::Module;
use rtdb_protocol::client::{Read, ReadKind};
use rtdb_protocol::sql::Query;

/// Whether clients can share a subscription: if it is to a list of queries, and what these show does not depend on who asks.
pub(crate) fn shareable(read: &Read, module: &Module) -> bool {
    read.kind == ReadKind::SubscribeMulti
        && read.refused.is_none()
        && !read.queries.is_empty()
        && all_shareable(&read.queries, module)
}

/// Whether what queries show is the same to everybody: rows of public tables, as long as there are no rules about rows. A
/// name that is not exactly a table's may be a view's, a private table's or nobody's.
pub(super) fn all_shareable(queries: &[Query], module: &Module) -> bool {
    let is_public = |name: &String| {
        let mut tables = module.tables().iter();
        tables.any(|table| table.name == *name && table.public)
    };
    let tables_are_public = |query: &Query| query.tables().is_some_and(|tables| tables.iter().all(is_public));
    !module.has_row_rules()
        && queries
            .iter()
            .all(|query| !query.names_sender() && query.count().is_some() && tables_are_public(query))
}
