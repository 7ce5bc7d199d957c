//! Outside issuers of tokens, as the gateway asks for them, and what the meta group's log knows of them.

use futures::FutureExt;
use futures::future::BoxFuture;
use rtdb_consensus::command::{Body, ISSUERS_LEVEL, SetIssuer, WantIssuer};
use rtdb_consensus::{Follow, Group, Issuer, Propose};
use rtdb_gateway::NotVerified;
use rtdb_issuers::{Https, Issuers, Policy, Refused, Shared, SharedIssuer};
use std::sync::Arc;
use tokio::sync::watch;

/// The issuers whose tokens this node takes.
#[derive(Clone)]
pub(crate) struct OutsideIssuers(Issuers);

impl OutsideIssuers {
    pub(crate) fn new(policy: Policy, meta: Arc<Group>) -> Self {
        let fetch = Arc::new(Https::default());
        Self(Issuers::new(policy, fetch, Arc::new(LogIssuers(meta))))
    }

    /// Asks issuers that other nodes want and can't ask, for as long as it is polled.
    pub(crate) async fn serve_others(&self) {
        self.0.serve_others().await;
    }
}

impl rtdb_gateway::Issuers for OutsideIssuers {
    fn verify<'a>(&'a self, token: &'a str, issuer: &'a str) -> BoxFuture<'a, Result<(), NotVerified>> {
        let verified = self.0.verify(token, issuer);
        let verified = verified.map(|verified| {
            verified.map_err(|refused| match refused {
                Refused::Busy => NotVerified::Busy(refused.to_string()),
                refused => NotVerified::Refused(refused.to_string()),
            })
        });
        verified.boxed()
    }
}

/// What the meta group's log knows.
struct LogIssuers(Arc<Group>);

impl LogIssuers {
    /// Whether it is taken. What becomes of it is seen in the log.
    fn propose(&self, body: Body) -> bool {
        self.0.feature_level() >= ISSUERS_LEVEL && self.0.submit(body.into()).is_ok()
    }
}

impl Shared for LogIssuers {
    fn issuer(&self, name: &str) -> Option<SharedIssuer> {
        self.0.meta().issuer(name).map(shared)
    }

    fn wanted(&self) -> Vec<SharedIssuer> {
        let meta = self.0.meta();
        let wanted = meta.issuers().filter(|it| it.wanted_us > it.fetched_us);
        wanted.map(shared).collect()
    }

    fn tell(&self, issuer: &str, keys: Option<bytes::Bytes>) -> bool {
        self.propose(Body::SetIssuer(SetIssuer {
            issuer: issuer.to_owned(),
            keys: keys.unwrap_or_default(),
        }))
    }

    fn want(&self, issuer: &str) -> bool {
        self.0.status().voters.len() > 1
            && self.propose(Body::WantIssuer(WantIssuer {
                issuer: issuer.to_owned(),
            }))
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.0.resolved()
    }
}

fn shared(issuer: &Issuer) -> SharedIssuer {
    SharedIssuer {
        name: issuer.name.clone(),
        keys: issuer.keys.clone(),
        fetched_us: issuer.fetched_us.try_into().unwrap_or(0),
        wanted_us: issuer.wanted_us.try_into().unwrap_or(0),
    }
}
