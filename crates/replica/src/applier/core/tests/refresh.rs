//! Refreshes behind commands.

use super::*;
use rtdb_determinism::{REFRESH, REFRESH_ALL, REFRESH_BRIEFLY};
use spacetimedb_lib::db::raw_def::v10::RawModuleDefV10Builder;

/// The module with `add` and a view.
fn viewing() -> (Core, Calls) {
    let (mut core, calls) = core(false);
    let mut def = RawModuleDefV10Builder::new();
    def.add_reducer("add", ProductType::from([("name", AlgebraicType::String)]));
    let rows = AlgebraicType::array(AlgebraicType::unit());
    def.add_view("board", 0, true, true, ProductType::unit(), rows);
    let def = bsatn::to_vec(&RawModuleDef::V10(def.finish())).unwrap();
    let active = core.active().unwrap();
    core.set_active(Some(Arc::new(ActiveDatabase {
        module: Arc::new(Module::from_def(&def).unwrap()),
        ..ActiveDatabase::clone(&active)
    })));
    (core, calls)
}

#[test]
fn a_refresh_follows_each_command_as_long_as_few_are_under_way() {
    let (mut core, mut calls) = viewing();
    core.refresh_up_to(1);
    core.take(&call(10, 7, "add", "x"), &mut calls);
    core.take(&call(11, 7, "add", "x"), &mut calls);
    let reducers: Vec<_> = sent(&mut calls)
        .into_iter()
        .map(|(reducer, ..)| reducer)
        .collect();
    assert_eq!(reducers, ["add", REFRESH, "add"]);
    for request_id in [510, 0, 511] {
        core.result(ok(request_id)).unwrap();
    }
    assert!(core.is_refresh_due(), "none follows the second one");
    assert!(!core.is_refresh_due());
}

#[test]
fn a_refresh_that_calls_wait_for_is_brief_if_the_module_knows_how() {
    for (refreshes_briefly, key) in [(true, REFRESH_BRIEFLY), (false, REFRESH_ALL)] {
        let (mut core, mut calls) = viewing();
        let active = ActiveDatabase::clone(&core.active().unwrap());
        core.set_active(Some(Arc::new(ActiveDatabase {
            refreshes_briefly,
            ..active
        })));
        core.refresh_up_to(1);
        core.take(&call(10, 7, "add", "x"), &mut calls);
        let sent = sent(&mut calls);
        let [_, (reducer, _, args, _)] = &sent[..] else {
            panic!("{sent:?}")
        };
        assert_eq!(
            (reducer.as_str(), args.as_slice()),
            (REFRESH, &key.to_le_bytes()[..])
        );
    }
}

/// A module built with 1.x has no views, and no reducer that would refresh them; its absence is told before the results of calls
/// that were sent before, and a client's arrival has no number of its own.
#[test]
fn no_refresh_follows_commands_of_a_module_without_views() {
    let (mut core, mut calls) = core(true);
    core.refresh_up_to(8);
    core.take(&connect(10), &mut calls);
    let sent = sent(&mut calls);
    let reducers: Vec<_> = sent.iter().map(|(reducer, ..)| reducer.as_str()).collect();
    assert_eq!(reducers, ["arrive"]);
}

/// A refresh that had been begun when the server was asked what it has is no refresh of what is sent again behind that.
#[test]
fn what_is_applied_again_is_to_be_refreshed_again() {
    let (mut core, mut calls) = viewing();
    // Refreshes rest.
    core.refresh_up_to(0);
    core.take(&call(10, 7, "add", "x"), &mut calls);
    core.take(&call(11, 7, "add", "x"), &mut calls);
    core.result(ok(510)).unwrap();
    assert!(core.is_refresh_due());
    core.lost();
    assert!(core.is_refresh_due());
    core.recovered(Some(&state(10)));
    // The log is read again first.
    assert!(core.is_refresh_due());
    assert!(!core.is_refresh_due());
    core.take(&call(11, 7, "add", "x"), &mut calls);
    core.result(ok(511)).unwrap();
    assert!(core.is_refresh_due(), "the call has outdated views");
    assert!(!core.is_refresh_due());
    // The server has lost what was refreshed.
    core.lost();
    core.recovered(Some(&state(9)));
    core.is_refresh_due();
    core.take(&call(10, 7, "add", "x"), &mut calls);
    core.result(ok(510)).unwrap();
    assert!(core.is_refresh_due(), "the call has outdated views");
}
