//! gRPC, the server's side.

use super::Service;
use crate::entry::EncodedBatch;
use crate::transport::grpc::{APPEND, CALL, HEADER, PROPOSE};
use crate::transport::wire::{Append, Appended, Header, ProposeReply, Reply, Request};
use crate::transport::{MESSAGE_BYTES_MAX, PeerError, Replies};
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use prost::Message;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tonic::codegen::Service as TowerService;
use tonic::metadata::MetadataMap;
use tonic::server::{NamedService, StreamingService, UnaryService};
use tonic::{Code, Response, Status, Streaming};
use tonic_prost::ProstCodec;

/// The service's name, with which the paths of its methods begin.
const NAME: &str = "rafttimedb.v1.Peer";

fn header(metadata: &MetadataMap) -> Result<Header, PeerError> {
    let value = metadata.get_bin(HEADER).ok_or(PeerError::Garbled)?;
    let bytes: Bytes = value.to_bytes().map_err(|_| PeerError::Garbled)?;
    Header::decode(bytes).map_err(|_| PeerError::Garbled)
}

fn into_status(error: PeerError) -> Status {
    Status::with_details(Code::FailedPrecondition, error.to_string(), error.encode().into())
}

/// The service, for the server that listens on the raft address.
pub(crate) fn router(service: Arc<Service>) -> axum::Router {
    tonic::service::Routes::new(Server(service))
        .prepare()
        .into_axum_router()
}

#[derive(Clone)]
struct Server(Arc<Service>);

impl NamedService for Server {
    const NAME: &'static str = NAME;
}

impl TowerService<http::Request<tonic::body::Body>> for Server {
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        let service = self.0.clone();
        Box::pin(async move {
            Ok(match request.uri().path() {
                CALL => {
                    server(ProstCodec::default())
                        .unary(CallMethod(service), request)
                        .await
                }
                APPEND => {
                    server(ProstCodec::default())
                        .streaming(AppendMethod(service), request)
                        .await
                }
                PROPOSE => {
                    server(ProstCodec::default())
                        .streaming(ProposeMethod(service), request)
                        .await
                }
                _ => Status::unimplemented("no such method: the caller is of another version").into_http(),
            })
        })
    }
}

fn server<C: tonic::codec::Codec>(codec: C) -> tonic::server::Grpc<C> {
    tonic::server::Grpc::new(codec)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX)
}

type ReplyStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn answer<T: 'static>(replies: Replies<T>) -> Response<ReplyStream<T>> {
    Response::new(Box::pin(replies.map(|reply| reply.map_err(into_status))))
}

/// The messages up to the stream's end, or to where it broke.
fn messages<M: Send + 'static>(stream: Streaming<M>) -> BoxStream<'static, M> {
    stream
        .map(Result::ok)
        .take_while(|message| std::future::ready(message.is_some()))
        .filter_map(std::future::ready)
        .boxed()
}

struct CallMethod(Arc<Service>);

impl UnaryService<Request> for CallMethod {
    type Response = Reply;
    type Future = BoxFuture<'static, Result<Response<Reply>, Status>>;

    fn call(&mut self, request: tonic::Request<Request>) -> Self::Future {
        let service = self.0.clone();
        Box::pin(async move {
            let header = header(request.metadata()).map_err(into_status)?;
            let reply = service.call(header, request.into_inner()).await;
            reply.map(Response::new).map_err(into_status)
        })
    }
}

struct AppendMethod(Arc<Service>);

impl StreamingService<Append> for AppendMethod {
    type Response = Appended;
    type ResponseStream = ReplyStream<Appended>;
    type Future = BoxFuture<'static, Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: tonic::Request<Streaming<Append>>) -> Self::Future {
        let replies = header(request.metadata())
            .and_then(|header| self.0.append(&header, messages(request.into_inner())));
        Box::pin(async move { replies.map(answer).map_err(into_status) })
    }
}

struct ProposeMethod(Arc<Service>);

impl StreamingService<EncodedBatch> for ProposeMethod {
    type Response = ProposeReply;
    type ResponseStream = ReplyStream<ProposeReply>;
    type Future = BoxFuture<'static, Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: tonic::Request<Streaming<EncodedBatch>>) -> Self::Future {
        let replies = header(request.metadata())
            .and_then(|header| self.0.propose(&header, messages(request.into_inner())));
        Box::pin(async move { replies.map(answer).map_err(into_status) })
    }
}
