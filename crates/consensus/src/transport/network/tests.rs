//! What openraft hands over, and a peer that only takes it.

use super::*;
use crate::Limits;
use crate::entry::{EncodedBatch, Proposal};
use crate::log::Store;
use crate::member::Member;
use crate::transport::wire::{Appended, Header, ProposeReply, Reply, Request};
use crate::transport::{PeerBudgets, Replies, Transport};
use crate::types::{LeaderId, LogId, Payload, RaftEntry};
use futures::{FutureExt, poll};
use std::time::Duration;
use tempfile::TempDir;
use tokio::sync::mpsc;

/// A stream of entries, as the follower sees it.
struct Opened {
    entries: BoxStream<'static, Append>,
    replies: mpsc::Sender<Appended>,
}

/// A network on which only streams of entries are opened.
struct Wire(mpsc::Sender<Opened>);

impl Transport for Wire {
    fn call(
        &self,
        _: &str,
        _: Header,
        _: Request,
    ) -> BoxFuture<'static, std::result::Result<Reply, PeerError>> {
        std::future::pending().boxed()
    }

    fn append(
        &self,
        _: &str,
        _: Header,
        entries: BoxStream<'static, Append>,
    ) -> BoxFuture<'static, std::result::Result<Replies<Appended>, PeerError>> {
        let (replies, replied) = mpsc::channel(64);
        self.0.try_send(Opened { entries, replies }).ok().unwrap();
        let replied = tokio_stream::wrappers::ReceiverStream::new(replied);
        std::future::ready(Ok(replied.map(Ok).boxed())).boxed()
    }

    fn propose(
        &self,
        _: &str,
        _: Header,
        _: BoxStream<'static, EncodedBatch>,
    ) -> BoxFuture<'static, std::result::Result<Replies<ProposeReply>, PeerError>> {
        std::future::pending().boxed()
    }
}

/// A node, and what it opens.
struct Fixture {
    network: Network,
    opened: mpsc::Receiver<Opened>,
    _dir: TempDir,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (sender, opened) = mpsc::channel(64);
        let peers = Arc::new(Peers {
            vitals: crate::vitals::Vitals::new(1, Arc::new(crate::SystemClock), 0),
            node: 1,
            instance: 1,
            store: Store::open(dir.path(), 1).unwrap(),
            transport: Arc::new(Wire(sender)),
            answer_timeout: Duration::from_secs(1),
            appends: PeerBudgets::new(Limits::default().peer_bytes_max),
            vouched: parking_lot::Mutex::default(),
        });
        let group = GroupId::SHARD;
        Self {
            network: Network {
                group,
                peers,
                addrs: tokio::sync::watch::channel(Default::default()).1,
            },
            opened,
            _dir: dir,
        }
    }

    async fn peer(&mut self) -> Peer {
        let addr = "n2".to_owned();
        self.network.new_client(2, &Member::at(addr)).await
    }
}

fn option() -> RPCOption {
    RPCOption::new(Duration::from_millis(150))
}

/// A request with one entry of so many bytes, or with none.
fn request(index: u64, bytes: usize) -> AppendEntriesRequest<TypeConfig> {
    let leader_id = LeaderId { term: 1, node_id: 1 };
    let log_id = |index| LogId { leader_id, index };
    let entry = RaftEntry {
        log_id: log_id(index),
        payload: Payload::Normal(Proposal(Bytes::from(vec![0; bytes]))),
    };
    AppendEntriesRequest {
        vote: Vote {
            leader_id,
            committed: true,
        },
        prev_log_id: Some(log_id(index - 1)),
        leader_commit: None,
        entries: if bytes == 0 { Vec::new() } else { vec![entry] },
    }
}

#[tokio::test]
async fn a_peer_is_called_when_there_is_something_to_send() {
    let mut fixture = Fixture::new();
    let mut peer = fixture.peer().await;
    let (requests, input) = mpsc::channel(1);
    let input = tokio_stream::wrappers::ReceiverStream::new(input);
    let mut open = RaftNetworkV2::stream_append(&mut peer, input, option());
    assert!(poll!(&mut open).is_pending());
    assert!(
        fixture.opened.try_recv().is_err(),
        "raft may be waiting before it tries again"
    );
    requests.send(request(1, 8)).await.unwrap();
    let mut replies = open.await.unwrap();
    let mut opened = fixture.opened.try_recv().unwrap();
    assert_eq!(opened.entries.next().await.unwrap().entries.len(), 1);
    answer(&opened, &mut replies).await;
    requests.send(request(2, 0)).await.unwrap();
    assert_eq!(opened.entries.next().await.unwrap().entries.len(), 0);
    drop(requests);
    assert!(opened.entries.next().await.is_none());
    drop(replies);

    let nothing = futures::stream::empty();
    let mut replies = RaftNetworkV2::stream_append(&mut peer, nothing, option())
        .await
        .unwrap();
    assert!(replies.next().await.is_none());
    assert!(fixture.opened.try_recv().is_err());
}

/// Entries as large as the leader forms them.
const ENTRY: usize = 1 << 20;

/// Takes whatever is sent without an answer; how many requests that is.
async fn take_all(opened: &mut Opened) -> usize {
    let (mut count, mut turns) = (0, 0);
    while turns <= TURNS {
        match opened.entries.next().now_or_never() {
            Some(Some(_)) => (count, turns) = (count + 1, 0),
            Some(None) => break,
            None => {
                turns += 1;
                tokio::task::yield_now().await;
            }
        }
    }
    count
}

/// Answers the first request that was not answered yet.
async fn answer(opened: &Opened, replies: &mut BoxStream<'_, Result<StreamAppendResult<TypeConfig>>>) {
    opened.replies.send(Appended::default()).await.unwrap();
    assert!(replies.next().await.unwrap().unwrap().is_ok());
}

#[tokio::test]
async fn what_a_follower_does_not_answer_is_bounded_for_all_groups_together() {
    let mut fixture = Fixture::new();
    let budget = fixture.network.peers.appends.of(2);
    let (mut peer, mut other, mut heart) = (fixture.peer().await, fixture.peer().await, fixture.peer().await);
    let endless = || futures::stream::iter((1..).map(|index| request(index, ENTRY)));
    let mut replies = RaftNetworkV2::stream_append(&mut peer, endless(), option())
        .await
        .unwrap();
    let mut opened = fixture.opened.try_recv().unwrap();
    let window = take_all(&mut opened).await;
    assert!(
        (8..=12).contains(&window),
        "a healthy follower has {window} entries to work on"
    );
    // Another group has nothing on its way, and is let through; but not without end.
    let _others = RaftNetworkV2::stream_append(&mut other, endless(), option())
        .await
        .unwrap();
    let mut other_opened = fixture.opened.try_recv().unwrap();
    assert_eq!(take_all(&mut other_opened).await, 1);
    let beat = futures::stream::iter([request(1, 0)]);
    let _beats = RaftNetworkV2::stream_append(&mut heart, beat, option())
        .await
        .unwrap();
    assert_eq!(
        take_all(&mut fixture.opened.try_recv().unwrap()).await,
        1,
        "a heartbeat never waits"
    );

    for _ in 0..3 {
        answer(&opened, &mut replies).await;
    }
    let taken = take_all(&mut opened).await + take_all(&mut other_opened).await;
    assert!((2..=3).contains(&taken), "three answers made room for {taken}");
    assert!(budget.held_max() <= Limits::default().peer_bytes_max);

    drop(replies);
    assert!(
        opened.entries.next().await.is_none(),
        "nobody waits for the answers any more"
    );
    assert!(take_all(&mut other_opened).await > 8);
}

#[tokio::test]
async fn a_stream_has_a_limit_of_unanswered_requests_however_small() {
    let mut fixture = Fixture::new();
    let budget = fixture.network.peers.appends.of(2);
    let mut peer = fixture.peer().await;
    let endless = futures::stream::iter((1..).map(|index| request(index, (index % 2) as usize)));
    let mut replies = RaftNetworkV2::stream_append(&mut peer, endless, option())
        .await
        .unwrap();
    let mut opened = fixture.opened.try_recv().unwrap();
    assert_eq!(take_all(&mut opened).await, 64);
    answer(&opened, &mut replies).await;
    assert_eq!(take_all(&mut opened).await, 1);
    drop((replies, opened));
    assert_eq!(budget.held(), 0);
}

#[tokio::test]
async fn an_entry_larger_than_the_budget_is_sent() {
    let mut fixture = Fixture::new();
    let budget = fixture.network.peers.appends.of(2);
    let mut peer = fixture.peer().await;
    let sizes = [ENTRY, 40 * ENTRY, ENTRY];
    let input = futures::stream::iter(sizes)
        .enumerate()
        .map(|(index, bytes)| request(index as u64 + 1, bytes));
    let mut replies = RaftNetworkV2::stream_append(&mut peer, input, option())
        .await
        .unwrap();
    let mut opened = fixture.opened.try_recv().unwrap();
    for _ in sizes {
        assert_eq!(take_all(&mut opened).await, 1, "each alone");
        answer(&opened, &mut replies).await;
    }
    assert!(opened.entries.next().await.is_none());
    assert_eq!(budget.held(), 0);
}
