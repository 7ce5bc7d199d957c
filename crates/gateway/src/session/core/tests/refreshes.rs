//! What a call changes in tables and in views is told in one.

use super::*;

/// The answer to the subscription to receipts and refreshes: an error.
fn refused() -> Bytes {
    let mut payload = BytesMut::from(&[0, 3, 0][..]);
    payload.put_u32_le(RECEIPT_QUERY_SET);
    payload.put_u32_le(RECEIPT_QUERY_SET);
    payload.put_u32_le(0);
    payload.freeze()
}

/// A refresh of the views of this key (0: all), which has changed `mine` if it has `rows`.
fn refresh(key: u64, rows: bool) -> Bytes {
    let mut payload = BytesMut::from(&[0, 4][..]);
    payload.put_u32_le(1 + u32::from(rows));
    put_set(&mut payload, RECEIPT_QUERY_SET, "rtdb_now", &key.to_le_bytes());
    if rows {
        put_set(&mut payload, 2, "mine", &[0xBB]);
    }
    payload.freeze()
}

/// A session that is subscribed to `counter` and to the view, as 1 and 2, and hears of refreshes.
fn viewing() -> Script {
    let mut script = Script::new().with_view();
    assert_eq!(script.client(subscribe(1)), ["open"]);
    assert_eq!(
        script.step(Core::upstream_opened),
        ["forward receipts", "forward subscribe 1"]
    );
    script.upstream(applied(u32::MAX));
    script.upstream(applied(1));
    script.client(views::look(2));
    script.prepared(Ok(()));
    assert_eq!(script.upstream(applied(2)), ["subscribed 2"]);
    script
}

/// What the client is sent for these messages: which tables are in each of them.
fn shown(script: &mut Script, payloads: &[Bytes]) -> Vec<Vec<&'static str>> {
    let mut actions = Vec::new();
    let context = Context {
        module: &script.module,
        now_us: NOW_US,
    };
    for payload in payloads {
        for message in rtdb_protocol::server::split(V2, payload.clone()) {
            script
                .core
                .upstream(message.expect("a message"), &context, &mut actions);
        }
    }
    let tables = |action: &Action| {
        let Action::Send(message) = action else {
            panic!("{action:?}")
        };
        let has = |table: &&str| message.windows(table.len()).any(|part| part == table.as_bytes());
        assert!(!has(&"rtdb_"), "hidden tables show");
        ["counter", "mine"].into_iter().filter(has).collect()
    };
    actions.iter().map(tables).collect()
}

#[test]
fn an_update_waits_for_what_it_changes_in_views() {
    let mut script = viewing();
    let before = script.core.bytes();
    assert_eq!(shown(&mut script, &[update(None)]), [[""; 0]; 0]);
    assert_eq!(script.core.kept_bytes(), update(None).len() - 1);
    assert_eq!(script.core.bytes(), before + script.core.kept_bytes());
    assert_eq!(shown(&mut script, &[refresh(0, true)]), [["counter", "mine"]]);
    // It has changed nothing in them.
    assert_eq!(
        shown(&mut script, &[update(None), refresh(0, false)]),
        [["counter"]]
    );
    // Another view is looked at for the first time meanwhile.
    let payloads = [update(None), refresh(8, true), refresh(0, false)];
    assert_eq!(shown(&mut script, &payloads), [["counter", "mine"]]);
    assert_eq!(shown(&mut script, &[refresh(0, true)]), [["mine"]]);
    assert_eq!(script.core.waits_for_refresh(), None);
}

#[test]
fn updates_that_no_refresh_follows_are_told_as_they_come() {
    let mut script = viewing();
    let payloads = [update(None), update(None), refresh(0, true)];
    assert_eq!(
        shown(&mut script, &payloads),
        [vec!["counter"], vec!["counter", "mine"]]
    );
    assert_eq!(script.upstream(update(None)), [""; 0]);
    assert_eq!(script.step(Core::refresh_is_late), ["update"]);
    // Not before refreshes come again.
    assert_eq!(script.upstream(update(None)), ["update"]);
    assert_eq!(shown(&mut script, &[refresh(0, true)]), [["mine"]]);
    assert_eq!(script.upstream(update(None)), [""; 0]);
    // Nothing that follows overtakes it.
    assert_eq!(script.upstream(applied(7)), ["update", "subscribed 7"]);
}

#[test]
fn a_calls_result_has_what_it_changes_in_views() {
    let mut script = viewing();
    // One that has reducers.
    script.module = module(&[]);
    script.client(call(1));
    script.propose();
    assert_eq!(script.upstream(update(Some(1))), [""; 0]);
    assert_eq!(script.ok(), [""; 0]);
    let result = shown(&mut script, &[refresh(0, true)]);
    assert_eq!(result, [["counter", "mine"]]);
    // The refresh may come first.
    script.client(call(2));
    script.propose();
    assert_eq!(script.upstream(update(Some(2))), [""; 0]);
    assert_eq!(script.upstream(refresh(0, true)), [""; 0]);
    assert_eq!(script.ok(), ["result 2 ok with rows"]);
}

#[test]
fn an_update_that_waits_is_told_again_by_the_next_upstream() {
    let mut script = viewing();
    script.upstream(update(None));
    assert_eq!(script.lost(), ["reopen"]);
    assert_eq!(script.core.waits_for_refresh(), None);
}

#[test]
fn a_module_that_can_not_tell_of_refreshes_is_not_waited_for() {
    let mut script = Script::new().with_view();
    script.client(views::look(2));
    assert_eq!(
        script.step(Core::upstream_opened),
        ["forward receipts", "prepare mine"]
    );
    assert_eq!(script.upstream(refused()), ["forward receipts"]);
    script.upstream(applied(u32::MAX));
    script.prepared(Ok(()));
    script.upstream(applied(2));
    assert_eq!(script.upstream(update(None)), ["update"]);
    assert_eq!(script.upstream(refused()), ["close 1011"]);
}

/// What moves to an upstream of its own asks for refreshes there, too.
#[test]
fn who_leaves_a_feed_does_not_need_refreshes() {
    let mut script = Script::member().with_view();
    assert_eq!(script.client(views::look(2)), ["move out"]);
    let shown = vec![(sharing::SET, sharing::rows())];
    let moved = script.feed(crate::feed::Item::Moved { shown });
    assert_eq!(moved, ["numbers []", "reopen"]);
    assert_eq!(
        script.step(Core::upstream_opened),
        ["forward receipts", "forward subscribe 1"]
    );
    // The module was prepared by an earlier version of this program.
    assert_eq!(script.upstream(refused()), ["forward receipts"]);
    assert_eq!(script.upstream(applied(1)), [""; 0]);
    assert_eq!(script.upstream(applied(u32::MAX)), ["update", "prepare mine"]);
}

#[test]
fn a_client_is_restored_by_a_module_that_can_not_tell_of_refreshes_and_by_one_that_can() {
    let mut script = viewing();
    let restored = |script: &mut Script| {
        script.upstream(applied(u32::MAX));
        script.upstream(applied(1));
        script.upstream(applied(2));
        assert!(!script.core.is_restoring());
    };
    script.upstream(update(None));
    assert_eq!(script.lost(), ["reopen"]);
    script.step(Core::upstream_opened);
    assert_eq!(script.upstream(refused()), ["forward receipts"]);
    restored(&mut script);
    assert_eq!(script.upstream(update(None)), ["update"]);
    // And back.
    assert_eq!(script.lost(), ["reopen"]);
    script.step(Core::upstream_opened);
    restored(&mut script);
    assert_eq!(
        shown(&mut script, &[update(None), refresh(0, true)]),
        [["counter", "mine"]]
    );
}
