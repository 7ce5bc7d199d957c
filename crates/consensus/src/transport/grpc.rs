//! gRPC, by hand: three methods and messages that are written as Rust, so that nobody needs `protoc`. The client's side.

use super::line::Lines;
use super::peers::{Replies, Transport};
use super::wire::{Append, Appended, Header, ProposeReply, Reply, Request};
use super::{MESSAGE_BYTES_MAX, PeerError};
use crate::entry::EncodedBatch;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use http::uri::PathAndQuery;
use parking_lot::Mutex;
use prost::Message;
use std::collections::BTreeMap;
use std::time::Duration;
use tonic::metadata::BinaryMetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use tonic_prost::ProstCodec;

pub(crate) const CALL: &str = "/rafttimedb.v1.Peer/Call";
pub(crate) const APPEND: &str = "/rafttimedb.v1.Peer/Append";
pub(crate) const PROPOSE: &str = "/rafttimedb.v1.Peer/Propose";

/// The header's name in the metadata.
pub(crate) const HEADER: &str = "rtdb-header-bin";

const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// A connection that is silent for these two together is given up.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(1);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(2);
const STREAM_WINDOW_BYTES: u32 = 8 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 32 << 20;

/// The transport between real nodes.
#[derive(Default)]
pub struct Grpc {
    /// They reconnect by themselves.
    channels: Mutex<BTreeMap<(String, Line), Channel>>,
    /// The connections that they make.
    lines: Mutex<BTreeMap<String, Lines>>,
}

/// Which of the connections to an address. What a leader has no room for is not read, and stands in the connection's
/// window, in the way of everything else: proposals of a group so have a connection of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Line {
    Raft,
    Proposals { group: u64 },
}

impl Grpc {
    fn client(&self, addr: &str, line: Line) -> Result<tonic::client::Grpc<Channel>, PeerError> {
        let mut channels = self.channels.lock();
        let key = (addr.to_owned(), line);
        let channel = match channels.get(&key) {
            Some(channel) => channel.clone(),
            None => {
                let channel = Endpoint::from_shared(format!("http://{addr}"))
                    .map_err(|error| PeerError::unreachable(format!("`{addr}` is not an address: {error}")))?
                    .connect_timeout(CONNECT_TIMEOUT)
                    .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
                    .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
                    .keep_alive_while_idle(true)
                    .initial_stream_window_size(STREAM_WINDOW_BYTES)
                    .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
                    .connect_with_connector_lazy(self.lines(addr));
                channels.insert(key, channel.clone());
                channel
            }
        };
        Ok(tonic::client::Grpc::new(channel)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX))
    }

    fn lines(&self, addr: &str) -> Lines {
        let mut lines = self.lines.lock();
        let known = lines.entry(addr.to_owned());
        known.or_insert_with(|| Lines::new(CONNECT_TIMEOUT)).clone()
    }

    fn stream<M, R>(
        &self,
        path: &'static str,
        addr: &str,
        line: Line,
        header: Header,
        messages: BoxStream<'static, M>,
    ) -> BoxFuture<'static, Result<Replies<R>, PeerError>>
    where
        M: Message + 'static,
        R: Message + Default + 'static,
    {
        let client = self.client(addr, line);
        Box::pin(async move {
            let mut client = client?;
            client.ready().await.map_err(unreachable)?;
            let path = PathAndQuery::from_static(path);
            let codec = ProstCodec::<M, R>::new();
            let replies = client
                .streaming(request(&header, messages), path, codec)
                .await
                .map_err(from_status)?;
            let replies: Replies<R> = replies
                .into_inner()
                .map(|reply| reply.map_err(from_status))
                .boxed();
            Ok(replies)
        })
    }
}

impl Transport for Grpc {
    fn call(&self, addr: &str, header: Header, ask: Request) -> BoxFuture<'static, Result<Reply, PeerError>> {
        let client = self.client(addr, Line::Raft);
        Box::pin(async move {
            let mut client = client?;
            client.ready().await.map_err(unreachable)?;
            let path = PathAndQuery::from_static(CALL);
            let codec = ProstCodec::<Request, Reply>::new();
            let reply = client
                .unary(request(&header, ask), path, codec)
                .await
                .map_err(from_status)?;
            Ok(reply.into_inner())
        })
    }

    fn append(
        &self,
        addr: &str,
        header: Header,
        entries: BoxStream<'static, Append>,
    ) -> BoxFuture<'static, Result<Replies<Appended>, PeerError>> {
        self.stream(APPEND, addr, Line::Raft, header, entries)
    }

    fn propose(
        &self,
        addr: &str,
        header: Header,
        batches: BoxStream<'static, EncodedBatch>,
    ) -> BoxFuture<'static, Result<Replies<ProposeReply>, PeerError>> {
        let line = Line::Proposals { group: header.group };
        self.stream(PROPOSE, addr, line, header, batches)
    }

    fn gone(&self, addr: &str, _header: Header) -> BoxFuture<'static, ()> {
        Box::pin(self.lines(addr).gone())
    }
}

fn request<M>(header: &Header, message: M) -> tonic::Request<M> {
    let mut request = tonic::Request::new(message);
    let value = BinaryMetadataValue::from_bytes(&header.encode_to_vec());
    request.metadata_mut().insert_bin(HEADER, value);
    request
}

fn unreachable(error: tonic::transport::Error) -> PeerError {
    let mut reason = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        reason = format!("{reason}: {cause}");
        source = cause.source();
    }
    PeerError::unreachable(reason)
}

fn from_status(status: Status) -> PeerError {
    let known = PeerError::decode(status.details()).filter(|_| status.code() == Code::FailedPrecondition);
    known.unwrap_or_else(|| PeerError::unreachable(format!("{}: {}", status.code(), status.message())))
}
