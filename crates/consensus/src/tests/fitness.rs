//! Who may lead, and what a wrong clock, a full disk and a pause do.

use super::cluster::{call, connect};
use super::nodes::Nodes;
use super::run;
use crate::log::troubled::Trouble;
use crate::{ClockVerdict, NotProposed, Propose, SystemClock, WallClock};
use std::sync::atomic::Ordering;
use std::time::Duration;

#[test]
fn a_leader_whose_clock_jumps_gives_way_and_stamps_nothing() {
    run(async {
        let three = Nodes::start(3).await;
        let old = three.leader().await;
        three.clocks[old].0.store(3600, Ordering::SeqCst);
        let before = SystemClock.now_us() as i64;
        // It may take the call before it knows; its stamp is not of that clock.
        let at_once = three.nodes[old].manager.shard().submit(call("at once")).unwrap();
        let new = three.other_leader(old).await;
        let later = three.nodes[old].manager.shard().submit(call("later")).unwrap();
        for outcome in [at_once.await.unwrap(), later.await.unwrap()] {
            let ahead_s = (outcome.timestamp_us - before) / 1_000_000;
            assert!(ahead_s < 1800, "the log's time is {ahead_s} s ahead");
        }
        three.reaches(old, |status| status.troubles.len() == 1).await;
        let status = three.nodes[old].manager.status();
        assert!(matches!(status.clock, ClockVerdict::Off { .. }), "{status:?}");
        assert!(
            status.troubles[0].contains("ahead of the other nodes"),
            "{:?}",
            status.troubles
        );
        assert_eq!(three.nodes[new].manager.status().clock, ClockVerdict::Good);
        // It comes right, and may lead again.
        three.clocks[old].0.store(0, Ordering::SeqCst);
        three.reaches(old, |status| status.troubles.is_empty()).await;
        three.stop().await;
    });
}

#[test]
fn a_leader_whose_disk_is_nearly_full_gives_way_and_takes_no_calls() {
    run(async {
        let three = Nodes::start(3).await;
        let old = three.leader().await;
        let session = three.nodes[old]
            .manager
            .shard()
            .submit(connect())
            .unwrap()
            .await
            .unwrap();
        three.disks[old].0.store(1 << 20, Ordering::SeqCst);
        let new = three.other_leader(old).await;
        let shard = three.nodes[old].manager.shard();
        let refused = shard.submit(call("refused")).unwrap_err();
        assert!(matches!(refused, NotProposed::DiskLow { .. }), "{refused}");
        assert!(refused.to_string().contains("make room"), "{refused}");
        let keys = crate::command::Body::SetIssuer(crate::command::SetIssuer::default());
        let wanted = crate::command::Body::WantIssuer(crate::command::WantIssuer::default());
        for body in [keys, wanted] {
            let refused = shard.submit(body.into()).unwrap_err();
            assert!(matches!(refused, NotProposed::DiskLow { .. }), "{refused}");
        }
        let disconnect = crate::command::Body::Disconnect(crate::command::Disconnect {
            session: session.position.0,
            refused: false,
        });
        shard.submit(disconnect.into()).unwrap().await.unwrap();
        three.nodes[new]
            .manager
            .shard()
            .submit(call("elsewhere"))
            .unwrap()
            .await
            .unwrap();
        // With all of them low somebody still leads, and room makes all well again.
        for disk in &three.disks {
            disk.0.store(1 << 20, Ordering::SeqCst);
        }
        for place in 0..3 {
            three.reaches(place, |status| status.space.is_low).await;
        }
        three.leader().await;
        for disk in &three.disks {
            disk.0.store(1 << 40, Ordering::SeqCst);
        }
        for place in 0..3 {
            three.reaches(place, |status| !status.space.is_low).await;
        }
        three.nodes[old]
            .manager
            .shard()
            .submit(call("again"))
            .unwrap()
            .await
            .unwrap();
        three.stop().await;
    });
}

#[test]
fn a_leader_whose_disk_is_slow_gives_way_once() {
    run(async {
        let three = Nodes::start(3).await;
        let old = three.leader().await;
        three.files[old].set(Trouble::Slow(Duration::from_secs(1)));
        let elsewhere = three.nodes[(old + 1) % 3].manager.shard();
        let given = async {
            while three.leader_now().is_none_or(|leader| leader == old) {
                elsewhere.submit(call("goes on")).unwrap().await.unwrap();
            }
        };
        given.await;
        let new = three.leader().await;
        let status = three.nodes[old].manager.status();
        assert!(status.troubles[0].contains("takes long"), "{:?}", status.troubles);
        // It comes right, and nothing changes for that.
        three.files[old].set(Trouble::None);
        let term = three.nodes[new].manager.shard().status().term;
        for _ in 0..20 {
            elsewhere.submit(call("later")).unwrap().await.unwrap();
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(three.leader_now(), Some(new));
        assert_eq!(three.nodes[new].manager.shard().status().term, term);
        three.stop().await;
    });
}
