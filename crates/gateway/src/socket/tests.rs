use super::*;
use futures::StreamExt;
use tokio::io::AsyncWriteExt;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::Role;

#[tokio::test]
async fn frames_stay_behind_a_pong_that_is_half_written() {
    let (near, mut far) = tokio::io::duplex(64);
    let config = config(1 << 20);
    let ws = WebSocketStream::from_raw_socket(Counted::new(near), Role::Server, Some(config)).await;
    let mut socket = Socket::new(ws);
    let ping = [&[0x89, 0x80 | 100, 0, 0, 0, 0][..], &[7; 100]].concat();
    let (sent, received) = tokio::join!(far.write_all(&ping), poll_fn(|cx| socket.poll_read(cx)));
    sent.expect("room");
    assert!(matches!(received, Some(Ok(Message::Ping(_)))));
    socket.push_frames(Bytes::from_static(&[0x82, 1, 9]));
    poll_fn(|cx| {
        assert!(socket.poll_read(cx).is_pending());
        assert!(socket.poll_flush(cx).is_pending());
        Poll::Ready(())
    })
    .await;
    let mut client = WebSocketStream::from_raw_socket(far, Role::Client, None).await;
    let serving = poll_fn(|cx| {
        let _ = socket.poll_read(cx);
        let _ = socket.poll_flush(cx);
        Poll::<()>::Pending
    });
    let reading = async {
        let pong = client.next().await.expect("a message").expect("well-formed");
        assert_eq!(pong, Message::Pong(vec![7; 100].into()));
        let message = client.next().await.expect("a message").expect("well-formed");
        assert_eq!(message, Message::Binary(vec![9].into()));
    };
    tokio::select! {
        () = serving => {}
        () = reading => {}
    }
}

/// Frames as they are, messages in fragments, pings of both sides and a close, to a client that takes a little at a time.
#[tokio::test]
async fn a_client_reads_what_was_sent_in_order() {
    for seed in 0..4_u64 {
        let mut state = seed;
        let mut dice = move |sides: u64| {
            state = state
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            (state >> 33) % sides
        };
        let (near, far) = tokio::io::duplex(1 + dice(200) as usize);
        let config = config(1 << 20);
        let ws = WebSocketStream::from_raw_socket(Counted::new(near), Role::Server, Some(config)).await;
        let mut socket = Socket::new(ws);
        let mut client = WebSocketStream::from_raw_socket(far, Role::Client, None).await;
        let mut sent = Vec::new();
        let mut received = Vec::new();
        let mut pongs = (0, 0);
        for number in 0..300_u32 {
            let body =
                |length: u64| [&number.to_le_bytes()[..], &vec![number as u8; length as usize]].concat();
            match dice(6) {
                0 | 1 => {
                    let payload = body(dice(100));
                    socket.push_frames([&[0x82, payload.len() as u8][..], &payload].concat().into());
                    sent.push(payload);
                }
                2 => {
                    let payload = body(dice(3) * 70_000);
                    socket.push_parts(payload[..3].to_vec().into(), payload[3..].to_vec().into(), true);
                    sent.push(payload);
                }
                3 => socket.ping(),
                _ => {
                    use futures::SinkExt;
                    pongs.0 += 1;
                    let ping = Message::Ping(vec![1; dice(126) as usize].into());
                    let _ = futures::FutureExt::now_or_never(client.feed(ping));
                }
            }
            for _ in 0..dice(4) {
                poll_fn(|cx| {
                    let _ = socket.poll_read(cx);
                    let _ = socket.poll_flush(cx);
                    Poll::Ready(())
                })
                .await;
                let mut take = |message| match message {
                    Message::Binary(payload) => received.push(payload.to_vec()),
                    Message::Pong(_) => pongs.1 += 1,
                    _ => {}
                };
                if dice(3) == 0
                    && let Some(message) = futures::FutureExt::now_or_never(client.next())
                {
                    take(message.expect("a message").expect("well-formed"));
                }
            }
        }
        socket.close(CloseFrame {
            code: 1012.into(),
            reason: "over".into(),
        });
        let closed = async {
            loop {
                match client.next().await.expect("a close frame").expect("well-formed") {
                    Message::Binary(payload) => received.push(payload.to_vec()),
                    Message::Close(_) => return,
                    _ => {}
                }
            }
        };
        let serving = poll_fn(|cx| {
            let _ = socket.poll_read(cx);
            let _ = socket.poll_flush(cx);
            Poll::<()>::Pending
        });
        let both = async {
            tokio::select! {
                () = serving => {}
                () = closed => {}
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(20), both)
            .await
            .expect("it ends");
        assert_eq!(received.len(), sent.len(), "seed {seed}");
        assert!(received == sent, "seed {seed}");
    }
}
