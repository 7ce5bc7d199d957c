//! Views: prepared before they are asked for, and given up when they fail.

use super::*;
use crate::freshness::{Consistency, NotFresh};
use crate::session::views::Unprepared;
use rtdb_determinism::view_key;
use rtdb_replica::ViewError;
use spacetimedb_lib::db::raw_def::v10::{
    ExplicitNames, RawModuleDefV10, RawModuleDefV10Section, RawViewDefV10,
};

impl Script {
    /// The same, to a module with the view `mine`, which is `own` in the source.
    pub(super) fn with_view(self) -> Self {
        let view = RawViewDefV10 {
            source_name: "own".into(),
            index: 0,
            is_public: true,
            is_anonymous: false,
            params: ProductType::unit(),
            return_type: AlgebraicType::array(AlgebraicType::unit()),
        };
        let mut def = RawModuleDefV10::default();
        let mut names = ExplicitNames::default();
        names.insert_function("own", "mine");
        def.sections = vec![
            RawModuleDefV10Section::Views(vec![view]),
            RawModuleDefV10Section::ExplicitNames(names),
        ];
        let def = bsatn::to_vec(&RawModuleDef::V10(def)).expect("a definition");
        let module = Module::from_def(&def).expect("a module");
        Self { module, ..self }
    }

    pub(super) fn prepared(&mut self, prepared: Result<(), Unprepared>) -> Vec<String> {
        self.step(|core, context, actions| core.views_prepared(prepared, context, actions))
    }

    fn view_failed(&mut self) -> Vec<String> {
        self.step(|core, context, actions| core.view_failed("mine".into(), "boom".into(), context, actions))
    }

    /// A session that is subscribed to `counter` and to the view, as 1 and 2.
    fn viewing() -> Self {
        let mut script = Self::subscribed().with_view();
        assert_eq!(script.client(look(2)), ["prepare mine"]);
        assert_eq!(script.prepared(Ok(())), ["forward subscribe 2"]);
        assert_eq!(script.upstream(applied(2)), ["subscribed 2"]);
        script
    }
}

pub(super) fn look(query_set: u32) -> Bytes {
    client::subscribe(V2, &["SELECT * FROM mine"], query_set, query_set)
}

fn failed() -> Unprepared {
    let (view, reason) = ("mine".into(), "boom".into());
    ViewError::Failed { view, reason }.into()
}

/// `UnsubscribeApplied` without rows, for an unsubscribe of the gateway's own.
fn ended(query_set: u32) -> Bytes {
    let mut payload = BytesMut::from(&[0, 2][..]);
    payload.put_u32_le(u32::MAX);
    payload.put_u32_le(query_set);
    payload.put_u8(1);
    payload.freeze()
}

#[test]
fn a_query_waits_for_the_callers_own_instance_of_a_view() {
    let mut script = Script::subscribed().with_view();
    let mut actions = Vec::new();
    let context = Context {
        module: &script.module,
        now_us: NOW_US,
    };
    script.core.client(look(2), &context, &mut actions);
    let [Action::Prepare(_, wanted)] = &actions[..] else {
        panic!("{actions:?}")
    };
    assert_eq!(wanted[0].key, view_key(0, Some([2; 32])));
    assert!(!script.core.wants_client());
    assert_eq!(script.upstream(update(None)), ["update"]);
    assert_eq!(script.prepared(Ok(())), ["forward subscribe 2"]);
    // The next one is prepared for itself.
    assert_eq!(script.client(look(3)), ["prepare mine"]);
}

#[test]
fn a_query_on_a_view_that_fails_is_refused_with_the_reason() {
    let mut script = Script::subscribed().with_view();
    assert_eq!(script.client(look(2)), ["prepare mine"]);
    assert_eq!(script.prepared(Err(failed())), ["subscription error 2"]);
    assert_eq!(script.client(subscribe(3)), ["forward subscribe 3"]);
}

#[test]
fn a_view_that_fails_ends_the_subscriptions_that_read_it() {
    let mut script = Script::viewing();
    assert_eq!(script.view_failed(), ["forward unsubscribe 2"]);
    assert_eq!(script.view_failed(), [""; 0]);
    assert_eq!(script.upstream(update(None)), ["update"]);
    assert_eq!(script.upstream(ended(2)), ["subscription lost 2"]);
    assert_eq!(script.view_failed(), [""; 0]);
    assert_eq!(script.lost(), ["reopen"]);
    let reopened = script.step(Core::upstream_opened);
    assert_eq!(reopened, ["forward receipts", "forward subscribe 1"]);
}

#[test]
fn a_view_is_meant_by_its_name_in_the_source_too() {
    let mut script = Script::subscribed().with_view();
    let look = client::subscribe(V2, &["SELECT * FROM Own"], 2, 2);
    assert_eq!(script.client(look), ["prepare mine"]);
    assert_eq!(script.prepared(Ok(())), ["forward subscribe 2"]);
    assert_eq!(script.upstream(applied(2)), ["subscribed 2"]);
    assert_eq!(script.view_failed(), ["forward unsubscribe 2"]);
    assert_eq!(script.upstream(ended(2)), ["subscription lost 2"]);
}

#[test]
fn a_failure_before_the_subscription_is_there_ends_it_as_soon_as_it_is() {
    let mut script = Script::subscribed().with_view();
    script.client(look(2));
    script.prepared(Ok(()));
    assert_eq!(script.view_failed(), [""; 0]);
    assert_eq!(
        script.upstream(applied(2)),
        ["subscribed 2", "forward unsubscribe 2"]
    );
}

#[test]
fn what_was_being_ended_has_ended_with_the_upstream() {
    let mut script = Script::viewing();
    script.view_failed();
    assert_eq!(script.lost(), ["subscription lost 2", "reopen"]);
}

#[test]
fn a_view_that_fails_after_a_restart_is_not_asked_for_again() {
    let mut script = Script::viewing();
    assert_eq!(script.lost(), ["reopen"]);
    assert_eq!(script.view_failed(), ["subscription lost 2"]);
    let reopened = script.step(Core::upstream_opened);
    assert_eq!(reopened, ["forward receipts", "forward subscribe 1"]);
}

#[test]
fn what_was_prepared_for_a_server_that_is_gone_is_prepared_again() {
    let mut script = Script::subscribed().with_view();
    assert_eq!(script.client(look(2)), ["prepare mine"]);
    assert_eq!(script.lost(), ["reopen"]);
    assert_eq!(script.prepared(Ok(())), [""; 0]);
    script.step(Core::upstream_opened);
    script.upstream(applied(u32::MAX));
    assert_eq!(script.upstream(applied(1)), ["prepare mine"]);
}

#[test]
fn linearizable_reads_wait_for_what_is_committed() {
    let mut script = Script::new();
    script.core.caller.freshness = Freshness::of(Consistency::Linearizable);
    assert_eq!(script.client(subscribe(1)), ["open"]);
    script.step(Core::upstream_opened);
    script.upstream(applied(u32::MAX));
    assert_eq!(script.prepared(Ok(())), ["forward subscribe 1"]);
    assert_eq!(script.upstream(applied(1)), ["subscribed 1"]);
    assert_eq!(script.client(subscribe(2)), ["wait"]);
    assert_eq!(
        script.prepared(Err(NotFresh::Behind.into())),
        ["subscription error 2"]
    );
    assert_eq!(script.client(subscribe(3)), ["wait"]);
    assert_eq!(script.prepared(Ok(())), ["forward subscribe 3"]);
    assert_eq!(script.upstream(applied(3)), ["subscribed 3"]);
    // What ends shows nothing.
    let unsubscribe = client::unsubscribe(V2, rtdb_protocol::client::ReadKind::SubscribeMulti, 3);
    assert!(script.client(unsubscribe).iter().all(|it| it != "wait"));
}

#[test]
fn linearizable_reads_are_not_shared() {
    let mut script = Script::new();
    script.core.caller.freshness = Freshness::of(Consistency::Linearizable);
    let caller = script.core.caller.clone();
    let gauge = IntGauge::new("rows", "bytes").expect("a gauge");
    script.core = Core::new(V2, caller, gauge, true);
    // Others share the same.
    script.module = super::module(&["counter"]);
    assert_eq!(script.client(subscribe(1)), ["open"]);
    script.step(Core::upstream_opened);
    assert_eq!(script.upstream(applied(u32::MAX)), [""; 0]);
    assert_eq!(script.prepared(Ok(())), ["forward subscribe 1"]);
}
