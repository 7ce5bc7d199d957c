//! Everything that reads bytes from outside, done to any bytes. Shared with `fuzz/`.

use bytes::Bytes;
use rtdb_protocol::client::{self, ClientMessage};
use rtdb_protocol::reply::{CallReply, Outcome};
use rtdb_protocol::server::{self, ServerMessage};
use rtdb_protocol::{FrameError, MESSAGE_BYTES_MAX, Subprotocol};

/// A WebSocket close reason's length, in bytes (RFC 6455, 5.5: 125 with the code).
const CLOSE_REASON_BYTES_MAX: usize = 123;

/// Splits `data` in every way there is, and uses what comes out. Panics only if the crate is wrong.
pub(crate) fn exercise(data: &[u8]) {
    let data = Bytes::copy_from_slice(data);
    for subprotocol in Subprotocol::ALL {
        for message in client::split(subprotocol, data.clone()) {
            match message {
                Ok(message) => use_client_message(subprotocol, message),
                Err(error) => check_error(&error),
            }
        }
        for message in server::split(subprotocol, data.clone()) {
            match message {
                Ok(message) => use_server_message(subprotocol, message),
                Err(error) => check_error(&error),
            }
        }
    }
}

fn check_error(error: &FrameError) {
    assert!(error.to_string().len() <= CLOSE_REASON_BYTES_MAX, "{error}");
}

fn use_client_message(subprotocol: Subprotocol, message: ClientMessage) {
    match message {
        ClientMessage::Call(call) => {
            assert!(call.args.len() < MESSAGE_BYTES_MAX);
            let mut again = bytes::BytesMut::new();
            client::call_reducer(
                subprotocol,
                &mut again,
                &call.reducer,
                &[&call.args],
                call.request_id,
            );
            let expected = client::CallReducer {
                no_success_notify: false,
                ..call
            };
            let again: Vec<_> = client::split(subprotocol, again.freeze()).collect();
            assert_eq!(again, [Ok(ClientMessage::Call(expected))]);
        }
        ClientMessage::Read(read) => {
            let refusal = rtdb_protocol::reply::read_refused(subprotocol, &read, &[1; 32], &[2; 16], 3, "no");
            assert!(read_server_message(subprotocol, &refusal).answers_read());
            if read.refused.is_some() {
                return assert!(read.raw.is_empty());
            }
            let again: Vec<_> = client::split(subprotocol, read.raw.clone()).collect();
            assert_eq!(again, [Ok(ClientMessage::Read(read))]);
        }
        ClientMessage::Procedure(call) => {
            let again = client::call_procedure(subprotocol, &call.procedure, &[&call.args], call.request_id);
            let again: Vec<_> = client::split(subprotocol, again).collect();
            assert_eq!(again, [Ok(ClientMessage::Procedure(call.clone()))]);
            let refusal = rtdb_protocol::reply::procedure_refused(subprotocol, call.request_id, "no");
            assert!(matches!(
                read_server_message(subprotocol, &refusal),
                ServerMessage::Procedure(result) if result.request_id == call.request_id
            ));
        }
    }
}

fn use_server_message(subprotocol: Subprotocol, message: ServerMessage) {
    let outcome = Outcome::Ok {
        return_value: Bytes::from_static(b"value"),
        execution_us: 1,
        energy: 2,
    };
    let reply = CallReply {
        request_id: 1,
        timestamp_us: 2,
        sender: &[3; 32],
        connection: &[4; 16],
        reducer: "add",
        reducer_id: 5,
        args: b"args",
        no_success_notify: false,
        outcome: &outcome,
    };
    let _ = message.clone().into_applied();
    match message {
        ServerMessage::Update(update) => {
            let _ = update.receipt(7);
            let rows = update
                .changes()
                .iter()
                .map(|change| change.inserts.iter().count() + change.deletes.len());
            let _ = rows.sum::<usize>();
            if let Some(other) = update.clone().into_other() {
                let again = read_server_message(subprotocol, &other);
                assert!(
                    matches!(&again, ServerMessage::Update(again) if is_clean(again)),
                    "{again:?}"
                );
            }
            let result = update.into_result(&reply).expect("the caller wants its result");
            match read_server_message(subprotocol, &result) {
                ServerMessage::Update(again) => assert!(is_clean(&again)),
                ServerMessage::CallResult(again) => assert_eq!(
                    again.outcome,
                    Outcome::Ok {
                        return_value: Bytes::from_static(b"value"),
                        execution_us: 0,
                        energy: 0,
                    }
                ),
                other => panic!("{other:?}"),
            }
        }
        ServerMessage::SubscribeReply { raw, .. } | ServerMessage::SubscriptionLost { raw, .. } => {
            let again = read_server_message(subprotocol, &raw);
            assert!(matches!(
                again,
                ServerMessage::SubscribeReply { raw: again, .. } | ServerMessage::SubscriptionLost { raw: again, .. }
                    if again == raw
            ));
        }
        ServerMessage::QueryReply { raw, .. } => {
            let again = read_server_message(subprotocol, &raw);
            assert!(matches!(again, ServerMessage::QueryReply { raw: again, .. } if again == raw));
        }
        ServerMessage::Hello { .. } | ServerMessage::CallResult(_) | ServerMessage::Procedure(_) => {}
    }
}

/// Whether nothing of the cluster's own shows in an update.
fn is_clean(update: &server::Update) -> bool {
    let hidden = |change: server::Change| change.table.starts_with(rtdb_protocol::HIDDEN_PREFIX);
    !update.changes().iter().any(hidden)
}

/// Reads one message that we have written.
fn read_server_message(subprotocol: Subprotocol, message: &[u8]) -> ServerMessage {
    let payload = rtdb_protocol::compress::encode(rtdb_protocol::compress::Compression::None, message);
    let mut messages = server::split(subprotocol, payload);
    let message = messages.next().expect("a message").expect("a sound one");
    assert!(messages.next().is_none());
    message
}
