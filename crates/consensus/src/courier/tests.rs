//! The courier on a clock that stands still unless everybody waits, and a leader that is only written down.

use super::*;
use crate::budget::ByteBudget;
use crate::command::{Body, Publish};
use crate::config::Limits;
use crate::member::Member;
use crate::transport::wire::{Append, Appended, Header, ProposeReply, Reply, Request};
use crate::transport::{PeerBudgets, PeerError, Peers, Replies, Transport};
use crate::types::{LeaderId, Membership, StoredMembership, TypeConfig, Vote};
use crate::{Origin, Pending};
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use openraft::ServerState;
use openraft::async_runtime::watch::WatchSender;
use openraft::metrics::RaftServerMetrics;
use openraft::type_config::TypeConfigExt;
use openraft::type_config::alias::WatchSenderOf;
use std::collections::{BTreeMap, BTreeSet};
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::Instant;

const ME: u64 = 1;
const EPOCH: u64 = 5;

/// Longer than any wait of a courier.
const LONG: Duration = Duration::from_secs(3_600);

/// A stream of proposals, as its leader sees it.
struct Stream {
    leader: String,
    batches: BoxStream<'static, EncodedBatch>,
    refuse: oneshot::Sender<()>,
}

impl Stream {
    /// The numbers of the next batch: its first one, and that after its last.
    async fn next(&mut self) -> (u64, u64) {
        let batch = self.batches.next().await.unwrap();
        (batch.first_seq, batch.first_seq + batch.commands.len() as u64)
    }
}

/// A network on which only streams of proposals are opened.
struct Wire(mpsc::Sender<Stream>);

impl Transport for Wire {
    fn call(&self, _: &str, _: Header, _: Request) -> BoxFuture<'static, Result<Reply, PeerError>> {
        std::future::pending().boxed()
    }

    fn append(
        &self,
        _: &str,
        _: Header,
        _: BoxStream<'static, Append>,
    ) -> BoxFuture<'static, Result<Replies<Appended>, PeerError>> {
        std::future::pending().boxed()
    }

    fn propose(
        &self,
        addr: &str,
        _: Header,
        batches: BoxStream<'static, EncodedBatch>,
    ) -> BoxFuture<'static, Result<Replies<ProposeReply>, PeerError>> {
        let (refuse, refused) = oneshot::channel();
        let stream = Stream {
            leader: addr.to_owned(),
            batches,
            refuse,
        };
        self.0.try_send(stream).ok().unwrap();
        let replies = futures::stream::once(refused.map(|_| Ok(ProposeReply {})));
        std::future::ready(Ok(replies.boxed())).boxed()
    }
}

/// A courier at work for node [`ME`]. Node 2 leads, in term 1.
struct Fixture {
    proposer: Arc<Proposer>,
    leaders: WatchSenderOf<TypeConfig, RaftServerMetrics<TypeConfig>>,
    streams: mpsc::Receiver<Stream>,
    courier: JoinHandle<()>,
    _dir: TempDir,
}

fn leads(leader: u64, term: u64) -> RaftServerMetrics<TypeConfig> {
    let nodes: BTreeMap<u64, Member> = (1..=3)
        .map(|id| {
            let addr = format!("n{id}");
            (id, Member::at(addr))
        })
        .collect();
    let voters: BTreeSet<u64> = nodes.keys().copied().collect();
    let membership = Membership::new(vec![voters], nodes).unwrap();
    let membership = Arc::new(StoredMembership::new(None, membership));
    RaftServerMetrics {
        id: ME,
        vote: Vote {
            leader_id: LeaderId {
                term,
                node_id: leader,
            },
            committed: true,
        },
        state: ServerState::Follower,
        current_leader: Some(leader),
        membership_config: membership.clone(),
        committed_membership_config: membership,
    }
}

impl Fixture {
    fn start() -> Self {
        let fixture = Self::start_unknown();
        fixture.resolve(0);
        fixture
    }

    /// As [`start`](Self::start), but the log does not know the epoch yet.
    fn start_unknown() -> Self {
        const STREAMS_MAX: usize = 4096;
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), ME).unwrap();
        let (opened, streams) = mpsc::channel(STREAMS_MAX);
        let vitals = crate::vitals::Vitals::new(1, Arc::new(crate::SystemClock), 0);
        let peers = Arc::new(Peers {
            node: ME,
            instance: 1,
            store: store.clone(),
            transport: Arc::new(Wire(opened)),
            answer_timeout: Duration::from_secs(1),
            vitals: vitals.clone(),
            appends: PeerBudgets::new(Limits::default().peer_bytes_max),
            vouched: parking_lot::Mutex::default(),
        });
        let proposer = Arc::new(Proposer::new(ME, EPOCH, Limits::default()));
        let (leaders, watched) = TypeConfig::watch_channel(leads(2, 1));
        let courier = Courier {
            vitals,
            group: GroupId::SHARD,
            proposer: proposer.clone(),
            store,
            leaders: watched as Leaders,
            batcher: Inbox::new(ByteBudget::new(1).share()).0,
            peers,
            timing: Timing::default(),
        };
        Self {
            proposer,
            leaders,
            streams,
            courier: tokio::spawn(courier.run()),
            _dir: dir,
        }
    }

    /// Proposes a command of about so many bytes.
    fn propose(&self, bytes: usize) -> Pending {
        let module = Bytes::from(vec![0; bytes]);
        let publish = Publish {
            module,
            ..Publish::default()
        };
        self.proposer.submit(&Body::Publish(publish).into()).unwrap()
    }

    /// The log has this node's stream up to `seq`.
    fn resolve(&self, seq: u64) {
        self.proposer.progress(Some((origin(), seq)), |_| false);
    }

    /// The next stream that is opened, and how long that takes; `None` if none is.
    async fn opened(&mut self) -> Option<(Stream, Duration)> {
        let begin = Instant::now();
        let stream = tokio::time::timeout(LONG, self.streams.recv()).await.ok()?;
        Some((stream.unwrap(), begin.elapsed()))
    }

    async fn stop(self) {
        self.courier.abort();
        drop(self.courier.await);
    }
}

fn origin() -> Origin {
    Origin {
        node: ME,
        epoch: EPOCH,
    }
}

#[tokio::test(start_paused = true)]
async fn the_patience_begins_with_the_proposal() {
    let mut fixture = Fixture::start();
    let (mut stream, _) = fixture.opened().await.unwrap();
    assert_eq!(stream.leader, "n2");
    let _first = fixture.propose(1);
    assert_eq!(stream.next().await, (1, 2));
    fixture.resolve(1);
    // Nobody has proposed anything for long.
    assert!(fixture.opened().await.is_none());
    let _second = fixture.propose(1);
    assert_eq!(stream.next().await, (2, 3));
    let (_, patience) = fixture.opened().await.unwrap();
    assert_eq!(patience, Timing::default().progress());
    fixture.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_epoch_that_the_log_knows_is_not_waited_for() {
    let mut fixture = Fixture::start_unknown();
    let (mut stream, _) = fixture.opened().await.unwrap();
    assert_eq!(stream.next().await, (1, 1), "an announcement");
    fixture.resolve(0);
    assert!(fixture.opened().await.is_none());
    fixture.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_refuses_is_asked_more_and_more_slowly() {
    let mut fixture = Fixture::start();
    let (mut stream, _) = fixture.opened().await.unwrap();
    let _pending = (fixture.propose(1), fixture.propose(1));
    let refused = async |fixture: &mut Fixture, stream: &mut Stream| {
        let refuse = std::mem::replace(&mut stream.refuse, oneshot::channel().0);
        refuse.send(()).unwrap();
        let (next, wait) = fixture.opened().await.unwrap();
        *stream = next;
        wait.as_millis()
    };
    let mut waits = Vec::new();
    for _ in 0..6 {
        assert_eq!(stream.next().await.0, 1);
        waits.push(refused(&mut fixture, &mut stream).await);
    }
    assert_eq!(waits, [50, 100, 200, 400, 800, 1_000]);
    fixture.resolve(1);
    assert_eq!(stream.next().await, (1, 3), "what was sent before");
    assert_eq!(
        refused(&mut fixture, &mut stream).await,
        50,
        "the log had made progress"
    );
    assert_eq!(stream.next().await, (2, 3));
    assert_eq!(refused(&mut fixture, &mut stream).await, 100);
    fixture.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_new_leader_is_used_at_once() {
    let mut fixture = Fixture::start();
    let (mut stream, _) = fixture.opened().await.unwrap();
    let _pending = fixture.propose(1);
    for _ in 0..6 {
        stream.refuse.send(()).unwrap();
        stream = fixture.opened().await.unwrap().0;
    }
    stream.refuse.send(()).unwrap();
    // While the courier waits, raft has news that change nothing, and then one that does.
    let change = Duration::from_millis(300);
    tokio::time::sleep(change).await;
    fixture.leaders.send(leads(2, 1)).unwrap();
    tokio::time::sleep(change).await;
    fixture.leaders.send(leads(3, 2)).unwrap();
    let (mut stream, wait) = fixture.opened().await.unwrap();
    assert_eq!((stream.leader.as_str(), wait), ("n3", Duration::ZERO));
    assert_eq!(stream.next().await, (1, 2));
    stream.refuse.send(()).unwrap();
    let (_, wait) = fixture.opened().await.unwrap();
    assert_eq!(wait, Timing::default().retry());
    fixture.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_large_command_is_not_sent_twice_while_it_is_on_its_way() {
    const SIZE: usize = 30 << 20;
    let mut fixture = Fixture::start();
    let (mut stream, _) = fixture.opened().await.unwrap();
    let _pending = fixture.propose(SIZE);
    assert_eq!(stream.next().await, (1, 2));
    // At 1 MiB a second, there and back.
    let transfer = Duration::from_secs(2 * (SIZE >> 20) as u64);
    assert!(
        tokio::time::timeout(transfer, fixture.streams.recv())
            .await
            .is_err()
    );
    fixture.resolve(1);
    assert!(fixture.opened().await.is_none());
    fixture.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_leader_of_which_nothing_is_seen_again_gets_more_and_more_time() {
    let mut fixture = Fixture::start();
    let (mut stream, _) = fixture.opened().await.unwrap();
    let _pending = fixture.propose(1);
    let mut waits = Vec::new();
    for _ in 0..5 {
        assert_eq!(stream.next().await, (1, 2));
        let (next, wait) = fixture.opened().await.unwrap();
        stream = next;
        waits.push(wait.as_secs());
    }
    assert_eq!(waits, [2, 4, 8, 16, 16]);
    fixture.stop().await;
}
