//! What a real server sent.

use bytes::Bytes;
use rtdb_protocol::Subprotocol::V1;
use rtdb_protocol::reply::Outcome;
use rtdb_protocol::server::{self, ServerMessage};

#[test]
fn the_answers_of_1_2_0_are_told_apart() {
    let lines = include_str!("recorded_1_2_0.hex")
        .lines()
        .filter(|line| !line.starts_with('#'));
    let mut count = 0;
    for line in lines {
        let (kind, hex) = line.split_once(' ').unwrap();
        let byte = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
        let payload: Bytes = (0..hex.len()).step_by(2).map(byte).collect();
        let messages = server::split(V1, payload.clone())
            .collect::<Result<Vec<_>, _>>()
            .unwrap();
        let [message] = &messages[..] else {
            panic!("{kind}: {messages:?}")
        };
        match (kind, message) {
            (
                "subscribed",
                ServerMessage::SubscribeReply {
                    error: false,
                    query_set: Some(8),
                    raw,
                    ..
                },
            )
            | (
                "refused",
                ServerMessage::SubscribeReply {
                    error: true,
                    request_id: None,
                    raw,
                    ..
                },
            ) => {
                assert_eq!(*raw, payload.slice(1..));
            }
            ("rejected" | "failed", ServerMessage::Update(_)) => {
                let call = message.clone().into_applied().unwrap();
                assert_eq!(call.request_id, 0);
                assert_eq!(
                    kind == "rejected",
                    matches!(call.outcome, Outcome::Rejected(_)),
                    "{call:?}"
                );
            }
            ("full" | "light", ServerMessage::Update(update)) => {
                assert_eq!(
                    update
                        .changes()
                        .iter()
                        .map(|change| change.inserts.len())
                        .sum::<usize>(),
                    1
                );
                assert_eq!(message.clone().into_applied().is_some(), kind == "full");
                assert_eq!(update.clone().into_other().unwrap(), payload.slice(1..));
            }
            (kind, message) => panic!("{kind}: {message:?}"),
        }
        count += 1;
    }
    assert_eq!(count, 18);
}
