//! What requests bring: counted as it comes, so that many that are large, or never end, take no more memory than there is.
//! And what is answered to who does not take it.

use super::HttpError;
use crate::budget::{Budget, Share};
use crate::limits::{CLIENT_BYTES_FREE, LOCAL_JSON_BYTES_MAX};
use crate::local_client::Forwarded;
use crate::node::Node;
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures::{Stream, StreamExt};
use http::StatusCode;
use serde::de::DeserializeOwned;
use std::sync::{Arc, Mutex, PoisonError};

/// What a piece of a body takes besides its bytes, until all have come: many small ones take more than a large one.
const PIECE_BYTES: usize = 64;

/// A request's share of the memory, and why its body was broken off.
struct Reading {
    share: Share,
    broken_off: Option<HttpError>,
}

/// Counts a request's body in the node's memory for clients until it is answered. One that stops arriving is broken off.
pub(super) async fn counted(State(node): State<Arc<Node>>, request: Request, next: Next) -> Response {
    if request.body().is_end_stream() {
        return next.run(request).await;
    }
    let reading = Arc::new(Mutex::new(Reading {
        share: Share::new(&node.budget),
        broken_off: None,
    }));
    let request = request.map(|body| Body::from_stream(read(node, body, reading.clone())));
    let response = next.run(request).await;
    let broken_off = reading
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .broken_off
        .take();
    broken_off.map_or(response, IntoResponse::into_response)
}

fn read(
    node: Arc<Node>,
    body: Body,
    reading: Arc<Mutex<Reading>>,
) -> impl Stream<Item = Result<Bytes, axum::Error>> {
    let chunks = body.into_data_stream();
    futures::stream::try_unfold((chunks, node, reading), async |(mut chunks, node, reading)| {
        let broken_off = match rtdb_runtime::timeout(node.limits.idle_timeout, chunks.next()).await {
            Ok(None) => return Ok(None),
            Ok(Some(Err(error))) => return Err(error),
            Ok(Some(Ok(chunk))) => {
                let mut locked = reading.lock().unwrap_or_else(PoisonError::into_inner);
                match locked.share.add(chunk.len() + PIECE_BYTES) {
                    Ok(()) => {
                        drop(locked);
                        return Ok(Some((chunk, (chunks, node, reading))));
                    }
                    Err(exceeded) => HttpError::unavailable(exceeded.to_string()),
                }
            }
            Err(_) => HttpError::new(
                StatusCode::REQUEST_TIMEOUT,
                "the rest of the request did not come in time",
            ),
        };
        let error = axum::Error::new(std::io::Error::other(broken_off.body.clone()));
        reading.lock().unwrap_or_else(PoisonError::into_inner).broken_off = Some(broken_off);
        Err(error)
    })
}

/// Reads what the local server has answered.
pub(super) async fn json<T: DeserializeOwned>(answer: Response) -> Result<T, HttpError> {
    let unreadable = |error: &dyn std::fmt::Display| {
        HttpError::new(
            StatusCode::BAD_GATEWAY,
            format!("SpacetimeDB's answer can't be read: {error}"),
        )
    };
    let body = axum::body::to_bytes(answer.into_body(), LOCAL_JSON_BYTES_MAX).await;
    let body = body.map_err(|error| unreadable(&error))?;
    serde_json::from_slice(&body).map_err(|error| unreadable(&error))
}

/// An answer, counted until it is sent.
struct Held {
    bytes: Bytes,
    _share: Share,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Counts a large answer in the node's memory for clients until it is sent, if it is there as a whole.
pub(super) async fn held(response: Response, budget: &Budget) -> Response {
    let is_large = |bytes| bytes > CLIENT_BYTES_FREE as u64;
    let is_whole = response.extensions().get::<Forwarded>().is_none();
    if !is_whole || !response.body().size_hint().exact().is_some_and(is_large) {
        return response;
    }
    let (parts, body) = response.into_parts();
    let Ok(bytes) = axum::body::to_bytes(body, usize::MAX).await else {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    let mut share = Share::new(budget);
    match share.set(bytes.len()) {
        Ok(()) => {
            let held = Held { bytes, _share: share };
            Response::from_parts(parts, Bytes::from_owner(held).into())
        }
        Err(exceeded) => HttpError::unavailable(exceeded.to_string()).into_response(),
    }
}
