//! Bytes that are no message, or not quite.

use crate::exercise::exercise;
use crate::model::header;
use bytes::{Bytes, BytesMut};
use proptest::prelude::*;
use rtdb_protocol::client::{self, ClientMessage, Refused};
use rtdb_protocol::server;
use rtdb_protocol::{CALL_HEADER_BYTES, FrameError, MESSAGE_BYTES_MAX, Subprotocol};

/// Sound frames and payloads of many kinds: what damage starts from.
fn seeds() -> Vec<Bytes> {
    [crate::v1_old::seeds(), crate::v2::seeds()].concat()
}

#[test]
fn every_seed_is_sound_somewhere() {
    for seed in seeds() {
        let sound = Subprotocol::ALL.into_iter().any(|subprotocol| {
            client::split(subprotocol, seed.clone()).all(|message| message.is_ok())
                || server::split(subprotocol, seed.clone()).all(|message| message.is_ok())
        });
        assert!(sound, "{seed:?}");
    }
}

fn call(subprotocol: Subprotocol, args: &[u8]) -> BytesMut {
    let mut frame = BytesMut::new();
    client::call_reducer(subprotocol, &mut frame, "add", &[args], 1);
    frame
}

fn only_error(subprotocol: Subprotocol, frame: impl Into<Bytes>) -> FrameError {
    let mut messages = client::split(subprotocol, frame.into());
    let error = messages.next().unwrap().unwrap_err();
    assert!(messages.next().is_none(), "the iterator ends after an error");
    error
}

#[test]
fn a_frame_cut_off_anywhere_is_an_error() {
    for subprotocol in Subprotocol::ALL {
        let frame = call(subprotocol, &[7; 100]).freeze();
        for length in 1..frame.len() {
            let error = only_error(subprotocol, frame.slice(..length));
            assert!(matches!(error, FrameError::Truncated { .. }), "{error}");
        }
        assert_eq!(only_error(subprotocol, Bytes::new()), FrameError::Empty);
    }
}

/// Each takes more than the four bytes that the frame has of it.
#[test]
fn queries_without_number_are_not_taken() {
    let refused = |subprotocol, frame: Bytes| match client::split(subprotocol, frame).next() {
        Some(Ok(ClientMessage::Read(read))) => read.refused,
        other => panic!("{other:?}"),
    };
    let queries = vec![""; 1 << 20];
    for subprotocol in Subprotocol::ALL {
        let frame = client::subscribe(subprotocol, &queries, 1, 1);
        assert_eq!(refused(subprotocol, frame), Some(Refused::Queries));
    }
    // v2's batch, of as many sets without queries.
    let sets = 1_u32 << 20;
    let batch = [
        &[5, 0, 0, 0, 0][..],
        &sets.to_le_bytes(),
        &vec![0; 8 * sets as usize],
    ];
    let refusal = refused(Subprotocol::V2, batch.concat().into());
    assert_eq!(refusal, Some(Refused::Queries));
}

#[test]
fn what_follows_the_one_message_is_an_error() {
    for subprotocol in [Subprotocol::V1, Subprotocol::V2] {
        let mut frame = call(subprotocol, b"args");
        client::call_reducer(subprotocol, &mut frame, "add", &[], 2);
        assert!(matches!(
            only_error(subprotocol, frame),
            FrameError::Trailing { .. }
        ));
    }
}

#[test]
fn a_v3_frame_is_good_up_to_its_first_bad_message() {
    let mut frame = call(Subprotocol::V3, b"args");
    frame.extend_from_slice(&[9, 0, 0]);
    let messages: Vec<_> = client::split(Subprotocol::V3, frame.freeze()).collect();
    assert!(matches!(messages[0], Ok(ClientMessage::Call(_))));
    let unknown = FrameError::Unknown {
        what: "v2 client message",
        value: 9,
        at: 21,
    };
    assert_eq!(messages[1..], [Err(unknown)]);
}

#[test]
fn the_size_limit_leaves_room_for_the_header() {
    for subprotocol in Subprotocol::ALL {
        let overhead = call(subprotocol, &[]).len();
        let largest = MESSAGE_BYTES_MAX - CALL_HEADER_BYTES - overhead;
        let fits = call(subprotocol, &vec![0; largest]).freeze();
        assert!(client::split(subprotocol, fits).all(|message| message.is_ok()));
        let error = only_error(subprotocol, call(subprotocol, &vec![0; largest + 1]));
        assert!(matches!(error, FrameError::TooLarge { .. }), "{error}");
        let error = only_error(subprotocol, vec![0; 40 << 20]);
        assert_eq!(
            error,
            FrameError::TooLarge {
                bytes: 40 << 20,
                limit: MESSAGE_BYTES_MAX
            }
        );
    }
}

#[test]
fn a_server_payload_must_say_that_it_is_not_compressed() {
    let mut messages = server::split(Subprotocol::V2, Bytes::from_static(&[1, 2, 3]));
    assert_eq!(
        messages.next().unwrap().unwrap_err(),
        FrameError::Compressed { scheme: 1 }
    );
    assert!(messages.next().is_none());
    for payload in [&[][..], &[0]] {
        let mut messages = server::split(Subprotocol::V2, Bytes::copy_from_slice(payload));
        assert_eq!(messages.next().unwrap().unwrap_err(), FrameError::Empty);
    }
}

#[test]
fn every_error_fits_a_close_reason() {
    let errors = [
        FrameError::Empty,
        FrameError::Truncated {
            at: usize::MAX,
            needed: usize::MAX,
        },
        FrameError::Trailing { count: usize::MAX },
        FrameError::Unknown {
            what: "v2 client message",
            value: 255,
            at: usize::MAX,
        },
        FrameError::NotUtf8 { at: usize::MAX },
        FrameError::TooLarge {
            bytes: usize::MAX,
            limit: usize::MAX,
        },
        FrameError::Compressed { scheme: 255 },
    ];
    errors
        .iter()
        .for_each(|error| assert!(error.to_string().len() <= 123, "{error}"));
}

#[test]
fn a_huge_count_in_a_small_frame_is_refused() {
    // v1 Subscribe with 4,294,967,295 queries; v2 SubscribeBatch with as many sets.
    assert!(matches!(
        only_error(Subprotocol::V1, vec![1, 255, 255, 255, 255]),
        FrameError::Truncated { .. }
    ));
    let frame = vec![5, 0, 0, 0, 0, 255, 255, 255, 255];
    assert!(matches!(
        only_error(Subprotocol::V2, frame),
        FrameError::Truncated { .. }
    ));
}

#[test]
fn the_header_is_as_long_as_it_is_said_to_be() {
    assert_eq!(header([0; 32], [0; 16], 0, 0, 0).len(), CALL_HEADER_BYTES);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2048))]

    #[test]
    fn arbitrary_bytes_never_panic(data in prop::collection::vec(any::<u8>(), 0..300)) {
        exercise(&data);
    }

    /// Small tags and lengths get further than evenly random bytes.
    #[test]
    fn small_bytes_never_panic(data in prop::collection::vec(0u8..12, 0..200)) {
        exercise(&data);
    }

    #[test]
    fn damaged_messages_never_panic(
        seed: prop::sample::Index,
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut: Option<prop::sample::Index>,
    ) {
        let mut data = seed.get(&seeds()).to_vec();
        for (at, byte) in damage {
            let at = at.index(data.len());
            data[at] = byte;
        }
        if let Some(cut) = cut {
            data.truncate(cut.index(data.len()));
        }
        exercise(&data);
    }
}
