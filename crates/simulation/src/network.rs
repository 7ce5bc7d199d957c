//! The network between nodes: delays, cut links, broken connections, messages that are lost, come late, or twice.

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use parking_lot::Mutex;
use rtdb_consensus::wire::{Answer, Append, Appended, Ask, Header, ProposeReply, Reply, Request};
use rtdb_consensus::{EncodedBatch, PeerError, Replies, Service, Transport};
use rtdb_runtime::{Instant, JoinHandle, sim, sleep, sleep_until};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_stream::wrappers::ReceiverStream;

/// After so long a silent connection is given up, as by HTTP/2's pings.
const KEEP_ALIVE: Duration = Duration::from_secs(3);

/// Messages that may be on their way on one stream.
const BUFFERED_MAX: usize = 256;

/// What is sent again after so long if it was lost, as TCP does.
const RESEND: Duration = Duration::from_millis(200);

/// How often messages meet with what.
#[derive(Clone, Copy, Debug, Default)]
pub struct Weather {
    /// The shortest and the longest time that a message takes.
    pub delay: (Duration, Duration),
    /// Of a thousand messages so many are lost.
    pub lost: u64,
    /// Of a thousand calls so many come twice.
    pub twice: u64,
    /// Of a thousand messages so many take up to fifty times as long.
    pub late: u64,
    /// Of a thousand votes that a node has granted so many cost it its life.
    pub vote_kills: u64,
}

#[derive(Default)]
struct State {
    services: BTreeMap<u64, Weak<Service>>,
    /// From, to: and how many reasons there are.
    cut: BTreeMap<(u64, u64), u32>,
    /// How often the connections between two were broken.
    broken: BTreeMap<(u64, u64), u64>,
    /// Messages take so many times as long.
    slow: BTreeMap<(u64, u64), u32>,
    /// How often each node's process has ended.
    deaths: BTreeMap<u64, u64>,
    sent: u64,
}

/// The network.
pub struct Network {
    state: Mutex<State>,
    weather: Weather,
    /// Some process has ended.
    died: watch::Sender<()>,
    /// Nodes that are to be killed now.
    victims: mpsc::Sender<u64>,
}

/// A node's address.
pub fn addr(node: u64) -> String {
    format!("n{node}")
}

fn node_of(addr: &str) -> u64 {
    addr.strip_prefix('n').and_then(|id| id.parse().ok()).unwrap_or(0)
}

fn unreachable(reason: &str) -> PeerError {
    PeerError::Unreachable {
        reason: reason.to_owned(),
    }
}

impl Network {
    /// A network on which everything is well but the weather, and where it says whom to kill.
    pub fn new(weather: Weather, victims: mpsc::Sender<u64>) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::default(),
            weather,
            died: watch::Sender::new(()),
            victims,
        })
    }

    /// A node answers from now on.
    pub fn connect(&self, node: u64, service: &Arc<Service>) {
        self.state.lock().services.insert(node, Arc::downgrade(service));
    }

    /// A node's process is gone: its connections break.
    pub fn disconnect(&self, node: u64) {
        let mut state = self.state.lock();
        if state.services.remove(&node).is_some() {
            *state.deaths.entry(node).or_default() += 1;
        }
        drop(state);
        self.died.send_replace(());
    }

    /// Nothing comes through from one node to another, until it is mended as often.
    pub fn cut(&self, from: u64, to: u64) {
        *self.state.lock().cut.entry((from, to)).or_default() += 1;
    }

    /// Mends a link that was cut.
    pub fn mend(&self, from: u64, to: u64) {
        let mut state = self.state.lock();
        if let Some(reasons) = state.cut.get_mut(&(from, to)) {
            *reasons = reasons.saturating_sub(1);
        }
    }

    /// Breaks the connections between two nodes.
    pub fn reset(&self, one: u64, other: u64) {
        let mut state = self.state.lock();
        *state.broken.entry((one, other)).or_default() += 1;
        *state.broken.entry((other, one)).or_default() += 1;
    }

    /// Lets messages take so many times as long.
    pub fn slow(&self, from: u64, to: u64, times: u32) {
        self.state.lock().slow.insert((from, to), times);
    }

    /// Messages so far.
    pub fn sent(&self) -> u64 {
        self.state.lock().sent
    }

    /// The links that are cut.
    pub fn cuts(&self) -> BTreeSet<(u64, u64)> {
        let state = self.state.lock();
        let cut = state.cut.iter().filter(|(_, reasons)| **reasons > 0);
        cut.map(|(link, _)| *link).collect()
    }

    fn is_cut(&self, from: u64, to: u64) -> bool {
        self.state
            .lock()
            .cut
            .get(&(from, to))
            .is_some_and(|reasons| *reasons > 0)
    }

    fn broken(&self, from: u64, to: u64) -> u64 {
        self.state.lock().broken.get(&(from, to)).copied().unwrap_or(0)
    }

    fn deaths(&self, node: u64) -> u64 {
        self.state.lock().deaths.get(&node).copied().unwrap_or(0)
    }

    /// Waits until a node sees that another's process has ended: that its connections are closed and others refused, if the
    /// news of both comes through.
    async fn gone(self: Arc<Self>, from: u64, to: u64) {
        let (mut died, mut known) = (self.died.subscribe(), self.deaths(to));
        while died.changed().await.is_ok() {
            if std::mem::replace(&mut known, self.deaths(to)) == self.deaths(to) {
                continue;
            }
            let is_lost = || self.is_cut(to, from) || self.is_cut(from, to) || self.is_lost();
            sleep(self.delay(to, from)).await;
            if is_lost() {
                continue;
            }
            sleep(self.delay(from, to) + self.delay(to, from)).await;
            if !is_lost() && self.service(to).is_none() {
                return;
            }
        }
        std::future::pending().await
    }

    fn service(&self, node: u64) -> Option<Arc<Service>> {
        self.state.lock().services.get(&node).and_then(Weak::upgrade)
    }

    fn delay(&self, from: u64, to: u64) -> Duration {
        let times = {
            let mut state = self.state.lock();
            state.sent += 1;
            state.slow.get(&(from, to)).copied().unwrap_or(1)
        };
        let (min, max) = self.weather.delay;
        let delay = (min + sim::up_to(max.saturating_sub(min))) * times;
        match sim::per_mille(self.weather.late) {
            true => delay * (2 + sim::draw(49) as u32),
            false => delay,
        }
    }

    fn is_lost(&self) -> bool {
        sim::per_mille(self.weather.lost)
    }

    /// Carries messages in their order, each some time after it was sent. Ends when the connection breaks.
    async fn carry<T>(
        self: Arc<Self>,
        from: u64,
        to: u64,
        mut sent: mpsc::Receiver<(Instant, T)>,
        arrived: mpsc::Sender<T>,
    ) {
        let broken = self.broken(from, to);
        while let Some((at, message)) = sent.recv().await {
            sleep_until(at).await;
            let patience = Instant::now() + KEEP_ALIVE / 6 + sim::up_to(KEEP_ALIVE);
            while self.is_cut(from, to) || self.is_lost() {
                if Instant::now() > patience {
                    return;
                }
                sleep(RESEND / 4 + sim::up_to(RESEND)).await;
            }
            if self.broken(from, to) != broken || arrived.send(message).await.is_err() {
                return;
            }
        }
    }

    fn open<M: Send + 'static, R: Send + 'static>(
        self: &Arc<Self>,
        from: u64,
        addr: &str,
        messages: BoxStream<'static, M>,
        serve: impl FnOnce(&Service, BoxStream<'static, M>) -> Result<Replies<R>, PeerError> + Send + 'static,
    ) -> BoxFuture<'static, Result<Replies<R>, PeerError>> {
        let (net, to) = (self.clone(), node_of(addr));
        Box::pin(async move {
            sleep(net.delay(from, to)).await;
            if net.is_cut(from, to) || net.is_cut(to, from) {
                sleep(KEEP_ALIVE / 3).await;
                return Err(unreachable("cut off"));
            }
            if net.service(to).is_none() {
                return Err(unreachable("refused"));
            }
            let (out, wire_out) = mpsc::channel(BUFFERED_MAX);
            let (wire_in, incoming) = mpsc::channel(BUFFERED_MAX);
            let (reply_out, wire_reply) = mpsc::channel(BUFFERED_MAX);
            let (wire_back, mut replies) = mpsc::channel(BUFFERED_MAX);
            let outward = Aborted(sim::spawn_on(
                id(from),
                pump(net.clone(), (from, to), messages, out),
            ));
            drop(sim::spawn_on(0, net.clone().carry(from, to, wire_out, wire_in)));
            let (opened, is_open) = oneshot::channel();
            // The receiver's own task: it dies with it.
            let server = net.clone();
            drop(sim::spawn_on(id(to), async move {
                let served = match server.service(to) {
                    Some(service) => serve(&service, ReceiverStream::new(incoming).boxed()),
                    None => Err(unreachable("refused")),
                };
                match served {
                    Ok(replies) => {
                        drop(opened.send(Ok(())));
                        let replies = replies.map(Some).chain(futures::stream::iter([None])).boxed();
                        pump(server, (to, from), replies, reply_out).await;
                    }
                    Err(error) => drop(opened.send(Err(error))),
                }
            }));
            drop(sim::spawn_on(
                0,
                net.clone().carry(to, from, wire_reply, wire_back),
            ));
            is_open
                .await
                .unwrap_or_else(|_| Err(unreachable("it went away")))?;
            sleep(net.delay(to, from)).await;
            let stream = futures::stream::poll_fn(move |cx| {
                let _ = &outward;
                replies.poll_recv(cx)
            });
            // The end of a stream that its server ended is a message; anything else is a broken connection.
            let mut is_over = false;
            let replies = stream
                .map(Some)
                .chain(futures::stream::iter([None]))
                .take_while(move |item| {
                    let goes_on = !is_over;
                    is_over |= !matches!(item, Some(Some(Ok(_))));
                    std::future::ready(goes_on)
                })
                .filter_map(|item| {
                    std::future::ready(match item {
                        Some(Some(reply)) => Some(reply),
                        Some(None) => None,
                        None => Some(Err(unreachable("broken off"))),
                    })
                });
            Ok(replies.boxed())
        })
    }

    /// One copy of a call, there and back.
    async fn deliver(
        self: Arc<Self>,
        (from, to): (u64, u64),
        header: Header,
        request: Request,
        done: Option<oneshot::Sender<Result<Reply, PeerError>>>,
    ) {
        let asks_vote = matches!(request.ask, Some(Ask::Vote(_)));
        sleep(self.delay(from, to)).await;
        if self.is_cut(from, to) || self.is_lost() {
            return sleep(KEEP_ALIVE).await;
        }
        let Some(service) = self.service(to) else { return };
        let (replied, reply) = oneshot::channel();
        drop(sim::spawn_on(id(to), async move {
            drop(replied.send(service.call(header, request).await));
        }));
        let Ok(reply) = reply.await else { return };
        let is_granted = matches!(
            &reply,
            Ok(Reply { answer: Some(Answer::Vote(answer)) }) if answer.is_granted()
        );
        if asks_vote && is_granted && sim::per_mille(self.weather.vote_kills) {
            // Enough are to die if there is no room for more.
            let _ = self.victims.try_send(to);
        }
        sleep(self.delay(to, from)).await;
        if self.is_cut(to, from) || self.is_lost() {
            return sleep(KEEP_ALIVE).await;
        }
        if let Some(done) = done {
            drop(done.send(reply));
        }
    }
}

/// A node, as the simulation numbers whose tasks they are.
pub(crate) fn id(node: u64) -> u32 {
    u32::try_from(node).unwrap_or(u32::MAX)
}

/// A task that ends with who waits for it.
struct Aborted(JoinHandle<()>);

impl Drop for Aborted {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Sends what comes: each message arrives some time later, and none before the one before it.
async fn pump<M>(
    net: Arc<Network>,
    (from, to): (u64, u64),
    mut messages: BoxStream<'static, M>,
    out: mpsc::Sender<(Instant, M)>,
) {
    let mut last = sim::true_now();
    while let Some(message) = messages.next().await {
        last = last.max(sim::true_now() + net.delay(from, to));
        if out.send((last, message)).await.is_err() {
            return;
        }
    }
}

/// A node's side of the network.
#[derive(Clone)]
pub struct Link(pub Arc<Network>);

impl Transport for Link {
    fn call(
        &self,
        addr: &str,
        header: Header,
        request: Request,
    ) -> BoxFuture<'static, Result<Reply, PeerError>> {
        let net = self.0.clone();
        let way = (header.from, node_of(addr));
        Box::pin(async move {
            let (done, answer) = oneshot::channel();
            if sim::per_mille(net.weather.twice) {
                let copy = net.clone().deliver(way, header.clone(), request.clone(), None);
                drop(sim::spawn_on(0, copy));
            }
            drop(sim::spawn_on(0, net.deliver(way, header, request, Some(done))));
            answer.await.unwrap_or_else(|_| Err(unreachable("no answer")))
        })
    }

    fn append(
        &self,
        addr: &str,
        header: Header,
        entries: BoxStream<'static, Append>,
    ) -> BoxFuture<'static, Result<Replies<Appended>, PeerError>> {
        self.0.open(header.from, addr, entries, move |service, entries| {
            service.append(&header, entries)
        })
    }

    fn propose(
        &self,
        addr: &str,
        header: Header,
        batches: BoxStream<'static, EncodedBatch>,
    ) -> BoxFuture<'static, Result<Replies<ProposeReply>, PeerError>> {
        self.0.open(header.from, addr, batches, move |service, batches| {
            service.propose(&header, batches)
        })
    }

    fn gone(&self, addr: &str, header: Header) -> BoxFuture<'static, ()> {
        Box::pin(self.0.clone().gone(header.from, node_of(addr)))
    }
}
