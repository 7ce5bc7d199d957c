//! What runs beside the groups.

use super::{ChangeError, Manager};
use crate::command::{Body, FEATURE_LEVEL, NODE_TEXT_BYTES_MAX, SetNode};
use crate::config::Config;
use crate::group::Group;
use crate::log::Store;
use crate::service::Wish;
use crate::supervisor::Supervisor;
use crate::transport::wire::{ChangeAnswer, MemberChange};
use crate::{Follow, Propose, Unapplied};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// Announces this node in the meta group, once there is a cluster, and again whenever its SpacetimeDB's version changes.
pub(super) async fn announce(
    meta: Arc<Group>,
    config: Config,
    mut spacetimedb_version: watch::Receiver<Option<String>>,
) {
    if Follow::resolved(&*meta)
        .wait_for(|index| *index > 0)
        .await
        .is_err()
    {
        return;
    }
    loop {
        let met = spacetimedb_version.borrow_and_update().clone();
        loop {
            let me = {
                let state = meta.meta();
                let known = state.node(config.node);
                let me = announcement(&config, met.as_deref(), known);
                if known == Some(&me) {
                    break;
                }
                me
            };
            let Ok(pending) = meta.submit(Body::SetNode(me).into()) else {
                return;
            };
            match pending.await {
                Ok(_) => {}
                Err(Unapplied::Refused(refusal)) => {
                    tracing::error!(%refusal, "the cluster does not take what this node says of itself");
                    return;
                }
                Err(_) => rtdb_runtime::sleep(config.timing.progress()).await,
            }
        }
        if spacetimedb_version.changed().await.is_err() {
            return;
        }
    }
}

/// What this node says of itself. As long as it has not met its SpacetimeDB, that is still the one that is `known`: a
/// restart need not be announced twice.
fn announcement(config: &Config, spacetimedb_version: Option<&str>, known: Option<&SetNode>) -> SetNode {
    let short = |text: &str| text[..text.floor_char_boundary(NODE_TEXT_BYTES_MAX)].to_owned();
    let last = known.map(|known| known.spacetimedb_version.as_str());
    SetNode {
        node: config.node,
        raft_addr: config.raft_addr.clone(),
        client_addr: config.client_addr.clone(),
        version: short(&config.version),
        spacetimedb_version: short(spacetimedb_version.or(last).unwrap_or_default()),
        cpu: short(&config.cpu),
        feature_level: FEATURE_LEVEL,
    }
}

/// Has nodes taken in that ask for it, one after the other.
pub(super) async fn take_in_whoever_asks(manager: Weak<Manager>, mut wishes: mpsc::Receiver<Wish>) {
    while let Some(Wish { add, answer }) = wishes.recv().await {
        // Who has given up asks again.
        if answer.is_closed() {
            continue;
        }
        let Some(manager) = manager.upgrade() else { return };
        tracing::info!(node = add.node, addr = add.addr, "a node asks to be taken in");
        let (mut refused, mut waits) = (None, None);
        match manager.change_members(MemberChange::Add(add), None).await {
            Ok(()) => {}
            Err(error @ (ChangeError::Unfinished { .. } | ChangeError::Peer { .. })) => {
                waits = Some(error.to_string());
            }
            Err(error) => refused = Some(error.to_string()),
        }
        // It may be gone.
        let _ = answer.send(ChangeAnswer { refused, waits });
    }
}

/// Waits until the disk refuses a write, or does not finish one.
pub(super) async fn watch_store(store: Arc<Store>, patience: Duration, supervisor: Supervisor) {
    let mut stopped = store.fatal();
    rtdb_runtime::select! {
        _ = stopped.wait_for(Option::is_some) => {}
        () = store.watch(patience) => {}
    }
    let reason = store.fatal().borrow().clone();
    supervisor.fail(reason.unwrap_or_else(|| "the log store has ended, which it must not".into()));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Limits, Timing};

    fn config(cpu: String) -> Config {
        Config {
            node: 1,
            data_dir: "unused".into(),
            raft_addr: "n1".to_owned(),
            client_addr: "c1".to_owned(),
            version: "0.1.0".to_owned(),
            cpu,
            timing: Timing::default(),
            limits: Limits::default(),
            disk_reserve_bytes: crate::DISK_RESERVE_BYTES,
            wall_clock: Arc::new(crate::SystemClock),
            free_space: Arc::new(crate::SystemSpace),
        }
    }

    #[test]
    fn a_restart_does_not_take_back_what_is_known_of_the_server() {
        let config = config("cpu".to_owned());
        let first = announcement(&config, None, None);
        assert_eq!(first.spacetimedb_version, "");
        let met = announcement(&config, Some("1.2.0"), Some(&first));
        assert_eq!(met.spacetimedb_version, "1.2.0");
        assert_eq!(announcement(&config, None, Some(&met)), met);
        let other = announcement(&config, Some("2.8.3"), Some(&met));
        assert_eq!(other.spacetimedb_version, "2.8.3");
    }

    #[test]
    fn a_text_is_cut_to_what_the_rules_let_in() {
        for long in [
            "c".repeat(1000),
            "ö".repeat(1000),
            format!("x{}", "ö".repeat(1000)),
        ] {
            let me = announcement(&config(long.clone()), Some(&long), None);
            assert_eq!(me.too_long(), None);
            assert!(me.cpu.len() >= NODE_TEXT_BYTES_MAX - 1 && long.starts_with(&me.cpu));
            assert_eq!(me.cpu, me.spacetimedb_version);
        }
    }
}
