//! A SpacetimeDB that is none of the cluster's, asked by the token that its database's owner has shown.

use super::line::connect;
use super::named::answered;
use super::{Connecting, Http, Server, ServerState, Version};
use crate::{AdminError, DatabaseId};
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use http::Method;
use rtdb_consensus::command::Owner;
use std::time::Duration;
use tokio::sync::watch;

/// One, as long as it is asked.
pub(crate) struct Foreign {
    http: Http,
    token: String,
    state: watch::Sender<ServerState>,
}

impl Foreign {
    pub(crate) fn new(authority: String, token: String) -> Self {
        Self {
            http: Http::new(authority),
            token,
            state: watch::Sender::new(ServerState::Up),
        }
    }
}

impl Server for Foreign {
    fn ask<'a>(
        &'a self,
        _owner: &'a Owner,
        method: Method,
        path: String,
        body: Bytes,
        timeout: Duration,
    ) -> BoxFuture<'a, Result<Bytes, AdminError>> {
        let asked = async move {
            let answer = self.http.send(method, &path, &self.token, body, timeout).await;
            answered(answer)
        };
        asked.boxed()
    }

    fn connect<'a>(
        &'a self,
        _owner: &'a Owner,
        database: &'a DatabaseId,
        bytes_max: usize,
    ) -> Connecting<'a> {
        let authority = self.http.authority();
        async move { connect(&authority, &self.token, database, bytes_max).await }.boxed()
    }

    fn state(&self) -> watch::Receiver<ServerState> {
        self.state.subscribe()
    }

    fn version(&self) -> Option<Version> {
        None
    }

    fn life(&self) -> u64 {
        0
    }

    fn end_life(&self, _life: u64, _why: String) -> bool {
        false
    }
}
