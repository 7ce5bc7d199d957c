//! What the gateway counts.

use http::StatusCode;
use prometheus::core::Collector;
use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts};
use rtdb_consensus::Outcome;
use std::time::Duration;

/// The gateway's metrics. Cloning shares them; [`GatewayMetrics::collectors`] registers them.
#[derive(Clone, Debug)]
pub struct GatewayMetrics {
    /// Clients connected by WebSocket.
    pub sessions: IntGauge,
    /// Sessions with a connection of their own to the local server.
    pub upstreams: IntGauge,
    /// Calls proposed, over WebSocket and HTTP.
    pub calls: IntCounter,
    /// Calls that had to wait for their turn, since their database is slowed.
    pub held_calls: IntCounter,
    /// Calls refused before they were proposed, by reason: `database_quota`, `identity_quota`, `slowed`.
    pub refused_calls: IntCounterVec,
    /// From a call's proposal to its outcome, in seconds.
    pub write_latency: Histogram,
    /// Calls that failed, or whose outcome is not known.
    pub failed_calls: IntCounter,
    /// Connections to the listening address.
    pub connections: IntGauge,
    /// Connections that were refused because there were too many.
    pub refused_connections: IntCounter,
    /// Bytes held for clients: on their way to them and from them, and rows kept for them.
    pub client_bytes: IntGauge,
    /// Answers to HTTP requests, by the class of their status.
    pub http_answers: IntCounterVec,
    /// Clients closed because they did not read, or had too much waiting for them.
    pub slow_clients: IntCounter,
    /// Bytes of the rows that clients are subscribed to, kept to tell them what they missed.
    pub row_bytes: IntGauge,
    /// Subscriptions of clients restored, after the local server was away or got another module.
    pub restorations: IntCounter,
}

impl GatewayMetrics {
    /// New metrics, all zero.
    ///
    /// # Errors
    /// If prometheus refuses a name, which it does not.
    pub fn new() -> prometheus::Result<Self> {
        Ok(Self {
            sessions: IntGauge::new("rtdb_sessions", "Clients connected by WebSocket")?,
            upstreams: IntGauge::new("rtdb_upstreams", "Client connections to the local SpacetimeDB")?,
            calls: IntCounter::new("rtdb_calls_total", "Reducer calls proposed by this node")?,
            held_calls: IntCounter::new(
                "rtdb_held_calls_total",
                "Calls that had to wait for their turn, since most replicas of their database are behind",
            )?,
            refused_calls: IntCounterVec::new(
                Opts::new(
                    "rtdb_refused_calls_total",
                    "Calls refused before they were proposed: a quota was spent, or their turn did not come in time",
                ),
                &["reason"],
            )?,
            write_latency: Histogram::with_opts(
                HistogramOpts::new(
                    "rtdb_write_latency_seconds",
                    "From a call's proposal to its outcome",
                )
                .buckets(prometheus::exponential_buckets(0.000_25, 2.0, 16)?),
            )?,
            failed_calls: IntCounter::new(
                "rtdb_failed_calls_total",
                "Calls of this node's clients that failed, or whose outcome is not known",
            )?,
            connections: IntGauge::new("rtdb_connections", "Connections of clients, HTTP and WebSocket")?,
            refused_connections: IntCounter::new(
                "rtdb_refused_connections_total",
                "Connections of clients that were refused because there were too many",
            )?,
            client_bytes: IntGauge::new(
                "rtdb_client_bytes",
                "Bytes held for clients: on their way to them and from them, and rows kept for them",
            )?,
            http_answers: IntCounterVec::new(
                Opts::new("rtdb_http_answers_total", "Answers to HTTP requests of clients"),
                &["status"],
            )?,
            slow_clients: IntCounter::new(
                "rtdb_slow_clients_total",
                "Clients closed because they did not read, or had too much waiting for them",
            )?,
            row_bytes: IntGauge::new(
                "rtdb_subscribed_row_bytes",
                "Bytes of the rows that clients are subscribed to, kept to tell them what they missed",
            )?,
            restorations: IntCounter::new(
                "rtdb_restorations_total",
                "Clients whose subscriptions were restored on a new connection to the local SpacetimeDB",
            )?,
        })
    }

    /// All of them, for a registry.
    pub fn collectors(&self) -> Vec<Box<dyn Collector>> {
        vec![
            Box::new(self.sessions.clone()),
            Box::new(self.upstreams.clone()),
            Box::new(self.calls.clone()),
            Box::new(self.held_calls.clone()),
            Box::new(self.refused_calls.clone()),
            Box::new(self.write_latency.clone()),
            Box::new(self.failed_calls.clone()),
            Box::new(self.connections.clone()),
            Box::new(self.refused_connections.clone()),
            Box::new(self.client_bytes.clone()),
            Box::new(self.http_answers.clone()),
            Box::new(self.slow_clients.clone()),
            Box::new(self.row_bytes.clone()),
            Box::new(self.restorations.clone()),
        ]
    }

    pub(crate) fn refused(&self, reason: &str) {
        self.refused_calls.with_label_values(&[reason]).inc();
    }

    pub(crate) fn call_done(&self, took: Duration, outcome: &Outcome) {
        self.write_latency.observe(took.as_secs_f64());
        if outcome.is_err() {
            self.failed_calls.inc();
        }
    }

    pub(crate) fn answered(&self, status: StatusCode) {
        let class = ["1xx", "2xx", "3xx", "4xx", "5xx"];
        let class = class.get(usize::from(status.as_u16() / 100) - 1);
        self.http_answers
            .with_label_values(&[*class.unwrap_or(&"5xx")])
            .inc();
    }
}

/// Counts itself in a gauge as long as it lives.
pub(crate) struct Present(IntGauge);

impl Present {
    pub(crate) fn new(gauge: &IntGauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Present {
    fn drop(&mut self) {
        self.0.dec();
    }
}
