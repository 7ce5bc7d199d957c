//! The local server, asked in the names of databases' owners.

use super::line::connect;
use super::{Connecting, HttpError, LocalServer, Server, ServerState, Version};
use crate::tokens::{TokenError, Tokens};
use crate::{AdminError, DatabaseId};
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use http::{Method, StatusCode};
use rtdb_consensus::command::Owner;
use std::time::Duration;
use tokio::sync::watch;

/// How long an owner's token of our making is good.
const TOKEN_LIFETIME: Duration = Duration::from_secs(300);

/// The local server, and what makes the owners' tokens.
pub(super) struct Named {
    pub(super) server: LocalServer,
    pub(super) tokens: Tokens,
}

impl Named {
    /// A token for a database's owner, good for some minutes.
    fn token(&self, owner: &Owner) -> Result<String, TokenError> {
        let minted = self
            .tokens
            .mint(&owner.issuer, &owner.subject, Some(TOKEN_LIFETIME))?;
        Ok(minted.token)
    }
}

/// What an answer means.
pub(super) fn answered(answer: Result<Bytes, HttpError>) -> Result<Bytes, AdminError> {
    answer.map_err(|e| match e {
        HttpError::Status {
            status: StatusCode::NOT_FOUND,
            ..
        } => AdminError::NoSuchDatabase,
        HttpError::Status { status, text } => AdminError::Refused { status, text },
        e => AdminError::Http(e),
    })
}

impl Server for Named {
    fn ask<'a>(
        &'a self,
        owner: &'a Owner,
        method: Method,
        path: String,
        body: Bytes,
        timeout: Duration,
    ) -> BoxFuture<'a, Result<Bytes, AdminError>> {
        let asked = async move {
            let token = self.token(owner)?;
            let answer = self.server.http().send(method, &path, &token, body, timeout);
            answered(answer.await)
        };
        asked.boxed()
    }

    fn connect<'a>(&'a self, owner: &'a Owner, database: &'a DatabaseId, bytes_max: usize) -> Connecting<'a> {
        let connecting = async move {
            let token = self.token(owner)?;
            connect(&self.server.authority(), &token, database, bytes_max).await
        };
        connecting.boxed()
    }

    fn state(&self) -> watch::Receiver<ServerState> {
        self.server.state()
    }

    fn version(&self) -> Option<Version> {
        self.server.version()
    }

    fn life(&self) -> u64 {
        self.server.life()
    }

    fn end_life(&self, life: u64, why: String) -> bool {
        self.server.end_life(life, why)
    }
}
