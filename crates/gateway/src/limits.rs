//! Every limit of the gateway, with its unit.

use std::time::Duration;

/// What the operator sets.
#[derive(Clone, Copy, Debug)]
pub struct ClientLimits {
    /// Connections to the listening address at one time, HTTP and WebSocket together.
    pub connections_max: usize,
    /// How long the head of an HTTP request, the caller's token in it, may take to arrive.
    pub auth_timeout: Duration,
    /// How long a client may be silent, pongs included, before it counts as gone. SpacetimeDB 2.8: 30 s. It is pinged twice
    /// as often.
    pub idle_timeout: Duration,
    /// Bytes that all clients may take of the node's memory.
    pub bytes_max: usize,
    /// How the updates of feeds wait for each other.
    pub gather: Gather,
}

/// How the updates of a feed wait for those that are about to follow.
#[derive(Clone, Copy, Debug)]
pub struct Gather {
    /// From so many members on they do.
    pub members_min: usize,
    /// With so many, for half of those whose commands are at the server; with more, for more of them.
    pub members_half: usize,
    /// For at most about as long as it would take to tell them: so long for each member (timers add up to 1 ms), up to the next.
    pub a_member: Duration,
    /// How long that is at most.
    pub max: Duration,
}

impl Default for Gather {
    fn default() -> Self {
        Self {
            members_min: 16,
            members_half: 64,
            a_member: Duration::from_micros(20),
            max: Duration::from_millis(5),
        }
    }
}

impl Default for ClientLimits {
    fn default() -> Self {
        Self {
            connections_max: 10_000,
            auth_timeout: Duration::from_secs(15),
            idle_timeout: Duration::from_secs(30),
            bytes_max: CLIENTS_BYTES_MAX,
            gather: Gather::default(),
        }
    }
}

/// Connections beyond the limit that are told so at one time; those beyond that are closed without a word.
pub const REFUSALS_MAX: usize = 64;

/// How long one that is told so may take to read it.
pub const REFUSAL_MAX: Duration = Duration::from_secs(1);

/// Bytes that one client may take of the node's memory: what is on its way to it and from it, and the rows kept for it.
pub const CLIENT_BYTES_MAX: usize = 256 << 20;

/// Bytes that all clients of a node may take of its memory.
pub const CLIENTS_BYTES_MAX: usize = 2 << 30;

/// Bytes that a client may take even if all together take too much, however many they are.
pub const CLIENT_BYTES_FREE: usize = 64 << 10;

/// Bytes that are scanned, compared, compressed or parsed where they come in: about a millisecond's. What is larger is done
/// apart.
pub const APART_BYTES: usize = 128 << 10;

/// The same of what is put into JSON.
pub const JSON_APART_BYTES: usize = 16 << 10;

/// Bytes of one message in JSON to a client. Names of columns are repeated in each row, and have no limit of their own.
pub const JSON_BYTES_MAX: usize = 32 << 20;

/// Bytes of a row, or of what a procedure returns, that is put into JSON: meanwhile it may take fifty times as much.
pub const JSON_VALUE_BYTES_MAX: usize = 1 << 20;

/// Large things of sessions that are done at one time, and of requests.
pub const APART_MAX: usize = 2;

/// Bytes of a WebSocket message that are sent as one frame: between the frames of a large one there is room for pings.
pub const FRAGMENT_BYTES: usize = 64 << 10;

/// Bytes of messages that are kept of a client that sends before it is let in. Beyond, it is not read.
pub const EARLY_BYTES_MAX: usize = 64 << 10;

/// Clients of one database that were proposed and may not be let in yet. The others wait.
pub const ENTERING_MAX: usize = 256;

/// How long a request over HTTP waits until its caller may be proposed as a client.
pub const ENTERING_WAIT_MAX: Duration = Duration::from_secs(5);

/// How long what a request over HTTP is answered waits until its caller has left again: the log may have stopped meanwhile.
pub const LEAVING_WAIT_MAX: Duration = Duration::from_secs(5);

/// Calls of one client under way. Beyond it the client's socket is not read: TCP slows the client down.
pub const CALLS_MAX: usize = 1_024;

/// Procedures of one client under way. Beyond it the client's socket is not read.
pub const PROCEDURES_MAX: usize = 64;

/// Bytes of one client's calls under way.
pub const CALLS_BYTES_MAX: usize = 16 << 20;

/// How long a call over HTTP waits for its turn while its database is slowed. Callers over WebSocket wait as long as it
/// takes, and are not read meanwhile.
pub const TURN_WAIT_MAX: Duration = Duration::from_secs(5);

/// Calls that are let through at once when a slowed database may take more: what nobody has asked for is not saved up.
pub const TURNS_MAX: u64 = 4_096;

/// How long who sends a call again waits for what came of it the first time: longer than replicas wait for each other's word.
pub const FIRST_WAIT_MAX: Duration = Duration::from_secs(30);

/// After how long it is looked for the first time whether the log has that; each time later it takes twice as long, up to the next.
pub const FIRST_LOOK: Duration = Duration::from_millis(20);

/// How often a node looks at most once it has taken long, and asks all replicas for what its clients wait for.
pub const FIRST_ASK: Duration = Duration::from_millis(500);

/// Callers whose calls within the last second are remembered, for the quotas, before those that have a full second's calls
/// free are forgotten.
pub const SPENT_MIN: usize = 1_024;

/// Subscriptions and queries of one client that wait for their reply.
pub const READS_MAX: usize = 256;

/// Subscribe requests of one client that are kept, to be made again when the local server was away.
pub const SUBSCRIPTIONS_MAX: usize = 1_024;

/// Their bytes.
pub const SUBSCRIPTIONS_BYTES_MAX: usize = 256 << 10;

/// Bytes of the subscribed rows that are kept of one client, to tell it what it missed when the local server was away.
/// A client with more is closed then, and must connect again.
pub const ROWS_BYTES_MAX: usize = 16 << 20;

/// Bytes of all clients' subscribed rows: they leave room for what is on its way.
pub const ROWS_TOTAL_BYTES_MAX: usize = CLIENTS_BYTES_MAX / 2;

/// Rows of a query set that clients may share. Whoever asks for more gets them over a connection of its own, so that others
/// don't wait for them.
pub const SHARED_ROWS_MAX: u64 = 65_536;

/// Query sets of one feed.
pub const FEED_SETS_MAX: usize = 16_384;

/// Lists of queries that are remembered as too large to be shared, for each feed.
pub const FEED_LARGE_MAX: usize = 1_024;

/// Query sets whose rows are counted at one time, for each feed.
pub const FEED_COUNTS_MAX: usize = 8;

/// Rows of a feed's query sets whose first answers are due, before it subscribes to more.
pub const ASKED_ROWS_MAX: u64 = 4_096;

/// Bytes of a feed's rows that are gone through for those who join, before updates go on.
pub const ADMITTED_BYTES_MAX: usize = 1 << 20;

/// How long a count may take.
pub const COUNT_MAX: Duration = Duration::from_secs(2);

/// Bytes of the answer to a count.
pub const COUNT_BYTES_MAX: usize = 64 << 10;

/// Requests of sessions that wait for a feed. A session whose request finds no room ends.
pub const FEED_REQUESTS_MAX: usize = 65_536;

/// Batches of a feed that wait for one session. SpacetimeDB has as many messages waiting for a client.
pub const FEED_ITEMS_MAX: usize = 16_384;

/// Bytes of updates that are gathered for a batch while more is to come.
pub const BATCH_BYTES_MAX: usize = 256 << 10;

/// Bytes of frames that are written as they are. A ping waits for them.
pub const FRAMES_BYTES_MAX: usize = 256 << 10;

/// Bytes of the messages that share a v3 frame. SpacetimeDB's own bound is 512 KiB.
pub const V3_FRAME_BYTES_MAX: usize = 256 << 10;

/// Clients, by identity and database, that are remembered as not sharing subscriptions.
pub const ALONE_MAX: usize = 4_096;

/// Bytes that wait to be written to one client before SpacetimeDB's and the client's sockets are no longer read.
pub const OUTGOING_BYTES_MAX: usize = 1 << 20;

/// How long a client may leave its socket full before it is closed.
pub const WRITE_STALL_MAX: Duration = Duration::from_secs(30);

/// How fast a client may be at least, in bytes a second: it is given the time for what it was sent before it must answer.
pub const SLOWEST_BYTES_PER_S: u64 = 64 << 10;

/// Bytes that the systems between us and a client may hold of what was sent.
pub const SYSTEM_BYTES_MAX: u64 = 8 << 20;

/// How long a close frame waits for the client's own. SpacetimeDB 2.8: 250 ms.
pub const CLOSE_HANDSHAKE_MAX: Duration = Duration::from_millis(500);

/// How long an update of tables waits for what it changes in views, so that the client gets both in one. As long as natively a
/// view may well take that is evaluated in the call.
pub const REFRESH_WAIT_MAX: Duration = Duration::from_millis(100);

/// How long calls under way may hold up the closing of a session.
pub const DRAIN_MAX: Duration = Duration::from_secs(5);

/// How long the local SpacetimeDB may take to accept a client's connection.
pub const UPSTREAM_OPEN_MAX: Duration = Duration::from_secs(10);

/// How long a client with subscriptions waits for a local SpacetimeDB that is away: restart and recovery included.
pub const UPSTREAM_AWAY_MAX: Duration = Duration::from_secs(120);

/// How often a client's upstream may be lost before its subscriptions have been restored once. A request that brings
/// the server down is not repeated for ever.
pub const RESTORATIONS_MAX: u32 = 5;

/// How long a request waits for a database that the cluster knows to appear on this node.
pub const DATABASE_WAIT_MAX: Duration = Duration::from_secs(5);

/// How long a request waits for the local SpacetimeDB to answer with its headers.
pub const LOCAL_ANSWER_MAX: Duration = Duration::from_secs(60);

/// Bytes hyper buffers for the head of an HTTP request.
pub const HEAD_BYTES_MAX: usize = 32 << 10;

/// Bytes of a WebSocket's read buffer. It is small because it is allocated for each idle client too.
pub const READ_BUFFER_BYTES: usize = 8 << 10;

/// Bytes gathered for a WebSocket before they are written even though more is to come.
pub const WRITE_BUFFER_BYTES: usize = 16 << 10;

/// Bytes of a module to publish.
pub const MODULE_BYTES_MAX: usize = 64 << 20;

/// Bytes of what a token says, as modules see it: kept with each session in the log and in the database.
pub const CLAIMS_BYTES_MAX: usize = rtdb_determinism::CLAIMS_BYTES_MAX;

/// Modules prepared and published at one time: each takes a core, a multiple of its size in memory, and an entry of the log.
pub const PREPARATIONS_MAX: usize = 2;

/// How long a publication that has no outcome keeps others waiting.
pub const PUBLICATION_TURN_MAX: Duration = Duration::from_secs(5);

/// Bytes of the body of a request to a module's HTTP handler. SpacetimeDB itself takes messages of 32 MiB.
pub const ROUTE_BODY_BYTES_MAX: usize = 16 << 20;

/// Bytes of any other request's body.
pub const BODY_BYTES_MAX: usize = 2 << 20;

/// Bytes of the local server's answer to `/schema`, which must be rewritten as a whole.
pub const SCHEMA_BYTES_MAX: usize = 16 << 20;

/// Bytes of what a tool answers to a language model.
pub const TOOL_BYTES_MAX: usize = 16 << 20;

/// Bytes of what the local server says of a database, or of those that somebody owns: some 240,000.
pub const LOCAL_JSON_BYTES_MAX: usize = 16 << 20;

/// Bytes of the local server's plan of an update.
pub const PLAN_BYTES_MAX: usize = 16 << 20;

/// Seconds after which a client that was turned away for overload should try again.
pub const RETRY_AFTER_S: u32 = 1;
