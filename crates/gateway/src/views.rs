//! What a client does about views.
//!
//! The local server evaluates a view when somebody first asks for it, but in a prepared module that evaluates nothing: see
//! `rtdb_determinism`. So before a query on a view goes to the server, the gateway *prepares* it: it has the server make
//! the client's instance of the view, by a query of its own in the client's name, and has it refreshed. What the server
//! answers then is what the view shows.

use crate::limits::LOCAL_ANSWER_MAX;
use crate::local::Local;
use crate::reach::Reach;
use rtdb_determinism::{Module, View, view_key};
use rtdb_protocol::sql::Query;
use rtdb_replica::{ViewError, ViewHold};
use spacetimedb_lib::Identity;
use std::collections::BTreeSet;

/// An instance of a view that a client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) view: String,
    pub(crate) key: u64,
}

/// The instances that a client's queries need.
pub(crate) fn wanted<'a>(
    module: &Module,
    queries: impl Iterator<Item = &'a Query> + Clone,
    identity: [u8; 32],
) -> Vec<Wanted> {
    let views = module.views().iter();
    let all = queries.clone().any(Query::reads_all);
    // A message may have thousands of queries, and a module thousands of views.
    let named: BTreeSet<_> = queries
        .filter_map(Query::tables)
        .flatten()
        .map(|name| name.to_ascii_lowercase())
        .collect();
    views
        .filter(|view| {
            all || view
                .names()
                .iter()
                .any(|name| named.contains(&name.to_ascii_lowercase()))
        })
        .map(|view| Wanted::of(view, identity))
        .collect()
}

/// The client's instance of the view of this name.
pub(crate) fn named(module: &Module, name: &str, identity: [u8; 32]) -> Vec<Wanted> {
    let views = module.views().iter().filter(|view| view.name == name);
    views.map(|view| Wanted::of(view, identity)).collect()
}

impl Wanted {
    fn of(view: &View, identity: [u8; 32]) -> Self {
        Self {
            view: view.name.clone(),
            key: view_key(view.id, (!view.anonymous).then_some(identity)),
        }
    }
}

/// Prepares instances, one after the other; they are refreshed for as long as they are held.
///
/// # Errors
/// The first one's that fails.
pub(crate) async fn prepare(
    (local, reach): (&dyn Local, &dyn Reach),
    database: &Identity,
    token: &str,
    wanted: &[Wanted],
) -> Result<Vec<ViewHold>, ViewError> {
    let Some(views) = local.views(database) else {
        return Ok(Vec::new());
    };
    let mut holds = Vec::with_capacity(wanted.len());
    for Wanted { view, key } in wanted {
        let hold = views.hold(view, *key)?;
        prepare_one(reach, database, token, &hold).await?;
        holds.push(hold);
    }
    Ok(holds)
}

/// Prepares an instance that is held.
async fn prepare_one(
    reach: &dyn Reach,
    database: &Identity,
    token: &str,
    hold: &ViewHold,
) -> Result<(), ViewError> {
    let query = format!("SELECT COUNT(*) AS n FROM \"{}\"", hold.view());
    let asked = reach.query(database, token, query).await;
    match asked.map(|(status, _)| status) {
        // If there is no such view, the server says so to the client's own query.
        Ok(status) if !status.is_server_error() => rtdb_runtime::timeout(LOCAL_ANSWER_MAX, hold.refresh())
            .await
            .unwrap_or_else(|_| Err(ViewError::Unavailable("it was not refreshed in time".into()))),
        Ok(status) => Err(ViewError::Unavailable(status.to_string())),
        Err(error) => Err(ViewError::Unavailable(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rtdb_protocol::sql::parse_query;
    use spacetimedb_lib::db::raw_def::v10::{
        ExplicitNames, RawModuleDefV10Builder, RawModuleDefV10Section, RawViewDefV10,
    };
    use spacetimedb_lib::{RawModuleDef, bsatn};
    use spacetimedb_sats::{AlgebraicType, ProductType};

    #[test]
    fn a_name_is_a_views_in_the_source_only_if_it_is_nothing_elses() {
        let mut def = RawModuleDefV10Builder::new();
        let row = ProductType::from([("id", AlgebraicType::U8)]);
        def.build_table_with_new_type("Owned", row, true).finish();
        let mut def = def.finish();
        let view = |source: &'static str, index| RawViewDefV10 {
            source_name: source.into(),
            index,
            is_public: true,
            is_anonymous: false,
            params: ProductType::unit(),
            return_type: AlgebraicType::array(AlgebraicType::unit()),
        };
        let views = vec![view("own", 0), view("other", 1), view("mine", 2)];
        let mut names = ExplicitNames::default();
        names.insert_table("Owned", "own");
        names.insert_function("own", "first");
        names.insert_function("other", "mine");
        names.insert_function("mine", "third");
        def.sections.push(RawModuleDefV10Section::Views(views));
        def.sections.push(RawModuleDefV10Section::ExplicitNames(names));
        let def = bsatn::to_vec(&RawModuleDef::V10(def)).expect("a definition");
        let module = Module::from_def(&def).expect("a module");
        let wanted = |name: &str| {
            let query = parse_query(&format!("SELECT * FROM {name}")).expect("a query");
            let wanted = wanted(&module, std::iter::once(&query), [0; 32]);
            wanted.into_iter().map(|wanted| wanted.view).collect::<Vec<_>>()
        };
        assert_eq!(wanted("own"), [""; 0]);
        assert_eq!(wanted("first"), ["first"]);
        assert_eq!(wanted("other"), ["mine"]);
        assert_eq!(wanted("mine"), ["mine"]);
        assert_eq!(wanted("third"), ["third"]);
    }
}
