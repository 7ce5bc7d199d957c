//! What nodes tell each other of replicas that lag.

use super::nodes::Nodes;
use super::run;
use crate::{LAG_POSITIONS_MAX, Lag};

const DATABASE: [u8; 32] = [7; 32];

#[test]
fn a_majority_that_lags_slows_all_nodes() {
    run(async {
        let three = Nodes::start(3).await;
        let say = |behind: [u64; 3]| {
            move |it: &Nodes| {
                for (node, commands) in it.nodes.iter().zip(behind) {
                    let lag = Lag {
                        commands,
                        ..Lag::default()
                    };
                    node.manager.set_lags([(DATABASE, lag)]);
                    node.manager.slowed();
                }
                it.nodes
                    .iter()
                    .filter(|node| node.manager.is_slowed(&DATABASE))
                    .count()
            }
        };
        let far = 2 * LAG_POSITIONS_MAX;
        let two = say([far, 0, far]);
        assert!(three.until(20, |it| two(it) == 3).await);
        let one = say([far, 0, LAG_POSITIONS_MAX / 2]);
        assert!(three.until(20, |it| one(it) == 0).await);
        three.stop().await;
    });
}
