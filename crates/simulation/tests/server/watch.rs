//! Those who watch: connections on which queries are subscribed to, of each subprotocol that there is.

use super::{DATABASE, TIME_MAX};
use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use rtdb_gateway::{Reach, Visit, Wire};
use rtdb_protocol::client::{self, ReadKind};
use rtdb_protocol::server::{self, Changes, ServerMessage};
use rtdb_protocol::{RECEIPT_QUERY_SET, Subprotocol};
use rtdb_replica::LocalServer;
use rtdb_runtime::sim::Rng;
use rtdb_runtime::timeout;
use rtdb_simulation::spacetime::SpacetimeDb;
use spacetimedb_lib::Identity;
use std::collections::BTreeMap;
use std::future::poll_fn;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::{WebSocketStream, client_async};

/// How many there are.
const WATCHERS: usize = 4;
/// Query sets of each.
const SETS: u64 = 3;
/// The query set that tells how far the updates are.
const FENCE: u32 = RECEIPT_QUERY_SET - 1;

const QUERIES: [&str; 5] = [
    "SELECT * FROM counter",
    "SELECT * FROM counter WHERE id < 30",
    "SELECT * FROM counter WHERE value = 1",
    "SELECT * FROM rtdb_session",
    "SELECT * FROM nothing",
];

/// A query set begins, or ends if it has no queries.
#[derive(Clone, Debug)]
pub(crate) struct Watch {
    who: usize,
    set: u32,
    query: Option<&'static str>,
}

/// What is watched, while a script is made.
#[derive(Default)]
pub(crate) struct Watched(BTreeMap<(usize, u32), &'static str>);

impl Watched {
    pub(crate) fn draw(&mut self, rng: &mut Rng, newest: Subprotocol) -> Vec<Watch> {
        let count = rng.below(4);
        (0..count).filter_map(|_| self.draw_one(rng, newest)).collect()
    }

    fn draw_one(&mut self, rng: &mut Rng, newest: Subprotocol) -> Option<Watch> {
        let (who, set) = (rng.below(WATCHERS as u64) as usize, 1 + rng.below(SETS) as u32);
        let query = QUERIES[rng.below(QUERIES.len() as u64) as usize];
        if self.0.remove(&(who, set)).is_some() {
            let query = None;
            return Some(Watch { who, set, query });
        }
        // v1 does not tell query sets apart: none of its clients has a query twice.
        let mut others = self.0.iter().filter(|((of, _), _)| *of == who);
        let is_v1 = who < 2 || newest == Subprotocol::V1;
        if is_v1 && others.any(|(_, other)| *other == query) {
            return None;
        }
        if query != QUERIES[4] {
            self.0.insert((who, set), query);
        }
        let query = Some(query);
        Some(Watch { who, set, query })
    }
}

/// How servers are connected to.
pub(crate) enum Door {
    Real { local: LocalServer, token: String },
    Model(SpacetimeDb, Subprotocol),
}

enum Ear {
    Real(Box<WebSocketStream<TcpStream>>),
    Model(Box<dyn Wire>),
}

impl Door {
    fn newest(&self) -> Subprotocol {
        match self {
            Self::Real { local, .. } => local.newest_subprotocol(),
            Self::Model(_, newest) => *newest,
        }
    }

    async fn connect(&self, subprotocol: Subprotocol, light: bool) -> Ear {
        let database = Identity::from_byte_array(DATABASE);
        match self {
            Self::Real { local, token } => {
                let address = local.authority();
                let url = format!(
                    "ws://{address}/v1/database/{}/subscribe?compression=None&confirmed=false&light={light}",
                    database.to_hex()
                );
                let mut request = url.into_client_request().expect("a request");
                let headers = request.headers_mut();
                let name = subprotocol.name().parse().expect("a header");
                headers.insert("sec-websocket-protocol", name);
                let bearer = format!("Bearer {token}").parse().expect("a header");
                headers.insert("authorization", bearer);
                let stream = TcpStream::connect(address).await.expect("a connection");
                let (socket, _) = client_async(request, stream).await.expect("a WebSocket");
                Ear::Real(Box::new(socket))
            }
            Self::Model(server, _) => {
                let visit = Visit {
                    database: &database,
                    subprotocol,
                    light,
                    token: "",
                };
                Ear::Model(server.connect(visit).await.expect("a connection"))
            }
        }
    }
}

impl Ear {
    async fn send(&mut self, message: Bytes) {
        match self {
            Self::Real(socket) => socket.send(Message::Binary(message)).await,
            Self::Model(wire) => wire.send(Message::Binary(message)),
        }
        .expect("it is sent");
    }

    async fn receive(&mut self) -> Bytes {
        let receiving = async {
            loop {
                let message = match self {
                    Self::Real(socket) => socket.next().await,
                    Self::Model(wire) => poll_fn(|cx| wire.poll_receive(cx)).await,
                };
                if let Message::Binary(payload) = message.expect("no end").expect("a message") {
                    return payload;
                }
            }
        };
        timeout(TIME_MAX, receiving).await.expect("an answer in time")
    }
}

/// Rows that came and left, by query set and table, in no order.
type Rows = BTreeMap<(Option<u32>, String), (Vec<Bytes>, Vec<Bytes>)>;

/// What one of them has heard.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Heard {
    /// The answer to what was asked.
    Reply {
        set: Option<u32>,
        error: bool,
        rows: Rows,
    },
    /// An update, and the place of the call that it names.
    Update { call: Option<u64>, rows: Rows },
    /// Anything else.
    Other(String),
}

impl Heard {
    pub(crate) fn is_update(&self) -> bool {
        matches!(self, Self::Update { .. })
    }
}

fn rows(changes: &Changes) -> Rows {
    let mut rows = Rows::new();
    for change in changes.iter() {
        let (came, left) = rows
            .entry((change.query_set, change.table.to_string()))
            .or_default();
        came.extend(change.inserts.iter());
        left.extend(change.deletes.iter());
        came.sort();
        left.sort();
    }
    rows
}

/// All of them.
#[derive(Default)]
pub(crate) struct Watchers {
    ears: Vec<(Subprotocol, Ear)>,
    fences: u32,
}

impl Watchers {
    /// Begins and ends query sets.
    pub(crate) async fn ask(&mut self, door: &Door, watch: &[Watch]) {
        if self.ears.is_empty() {
            let newest = door.newest();
            let v2 = Subprotocol::V2.min(newest);
            let kinds = [
                (Subprotocol::V1, false),
                (Subprotocol::V1, true),
                (v2, false),
                (newest, false),
            ];
            for (subprotocol, light) in kinds {
                self.ears
                    .push((subprotocol, door.connect(subprotocol, light).await));
            }
        }
        for Watch { who, set, query } in watch {
            let (subprotocol, ear) = &mut self.ears[*who];
            let message = match query {
                Some(query) => client::subscribe(*subprotocol, &[query], *set, *set),
                None => client::unsubscribe(*subprotocol, ReadKind::SubscribeMulti, *set),
            };
            ear.send(message).await;
        }
    }

    /// What each of them has heard by now.
    pub(crate) async fn hear(&mut self) -> Vec<Vec<Heard>> {
        self.fences += 1;
        let mut all = Vec::new();
        for (subprotocol, ear) in &mut self.ears {
            ear.send(client::subscribe_nothing(*subprotocol, FENCE, self.fences))
                .await;
            ear.send(client::unsubscribe(*subprotocol, ReadKind::SubscribeMulti, FENCE))
                .await;
            let (mut heard, mut fenced) = (Vec::new(), 0);
            while fenced < 2 {
                for message in server::split(*subprotocol, ear.receive().await) {
                    match message.expect("a message") {
                        ServerMessage::Hello { .. } => {}
                        ServerMessage::SubscribeReply {
                            query_set: Some(FENCE),
                            error: false,
                            ..
                        } => fenced += 1,
                        ServerMessage::SubscribeReply {
                            query_set,
                            error,
                            changes,
                            ..
                        } => heard.push(Heard::Reply {
                            set: query_set.filter(|_| !error),
                            error,
                            rows: rows(&changes),
                        }),
                        ServerMessage::Update(update) => heard.push(Heard::Update {
                            rows: rows(update.changes()),
                            call: ServerMessage::Update(update)
                                .into_applied()
                                .and_then(|applied| applied.index),
                        }),
                        other => heard.push(Heard::Other(format!("{other:?}"))),
                    }
                }
            }
            all.push(heard);
        }
        all
    }
}
