//! `/metrics`: what Prometheus reads. The names are part of the product; a unit ends each name that has one.

use crate::status::NodeStatus;
use prometheus::{
    Counter, Gauge, Histogram, HistogramOpts, IntCounter, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};
use rtdb_consensus::WriteStats;
use rtdb_gateway::GatewayMetrics;

/// The largest number that a double, and so every reader, holds exactly: digests and positions are shown modulo 2^53.
const EXACT_MASK: u64 = (1 << 53) - 1;

/// The buckets of delays, in seconds.
const DELAY_BUCKETS: [f64; 12] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0,
];

/// Gauges set from the node's status at each scrape, beside what the other crates have registered.
pub(crate) struct Metrics {
    registry: Registry,
    sessions: IntGauge,
    syncs: IntCounter,
    sync_seconds: Counter,
    apply_lag_seconds: Gauge,
    /// How late scheduled reducers are called that this node has proposed.
    pub(crate) timer_delay: Histogram,
    ready: IntGaugeVec,
    spacetimedb_up: IntGaugeVec,
    term: IntGaugeVec,
    leader_id: IntGaugeVec,
    is_leader: IntGaugeVec,
    last_log_index: IntGaugeVec,
    committed_index: IntGaugeVec,
    applied_index: IntGaugeVec,
    apply_lag: IntGaugeVec,
    database_index: IntGaugeVec,
    database_digest: IntGaugeVec,
    apply_window: IntGaugeVec,
    lag_commands: IntGaugeVec,
    lag_ms: IntGaugeVec,
    slowed: IntGaugeVec,
    diverged: IntGaugeVec,
    split: IntGaugeVec,
    set_aside: IntGaugeVec,
    overlong_calls: IntGaugeVec,
    stuck: IntGaugeVec,
    fit: IntGaugeVec,
    clock_off: IntGaugeVec,
    disk_free: IntGaugeVec,
    waiting_bytes: IntGaugeVec,
    append_bytes: IntGaugeVec,
}

impl Metrics {
    /// The node's own metrics, and the gateway's.
    pub(crate) fn new(gateway: &GatewayMetrics) -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        for collector in gateway.collectors() {
            registry.register(collector)?;
        }
        let counter = |name: &str, help: &str| {
            let counter = IntCounter::new(format!("rtdb_{name}"), help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };
        let gauge = |name: &str, help: &str, labels: &[&str]| {
            let gauge = IntGaugeVec::new(Opts::new(format!("rtdb_{name}"), help), labels)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok::<_, prometheus::Error>(gauge)
        };
        let sync_seconds = Counter::new("rtdb_log_sync_seconds_total", "The time those fsyncs took")?;
        registry.register(Box::new(sync_seconds.clone()))?;
        let apply_lag_seconds = Gauge::new(
            "rtdb_apply_lag_seconds",
            "For how long a command of the shard waits on this node until it is applied",
        )?;
        registry.register(Box::new(apply_lag_seconds.clone()))?;
        let timer_delay = HistogramOpts::new(
            "rtdb_timer_delay_seconds",
            "How long after they were due this node has called scheduled reducers, as the leader",
        );
        let timer_delay = Histogram::with_opts(timer_delay.buckets(DELAY_BUCKETS.to_vec()))?;
        registry.register(Box::new(timer_delay.clone()))?;
        let (group, database) = (&["group"], &["database"]);
        Ok(Self {
            sessions: gateway.sessions.clone(),
            syncs: counter(
                "log_syncs_total",
                "Writes to the log that were brought to disk with one fsync each",
            )?,
            sync_seconds,
            apply_lag_seconds,
            timer_delay,
            ready: gauge("ready", "1 while this node serves clients", &[])?,
            spacetimedb_up: gauge("spacetimedb_up", "1 while this node's SpacetimeDB answers", &[])?,
            term: gauge("raft_term", "The group's current term", group)?,
            leader_id: gauge(
                "raft_leader_id",
                "The id of the group's leader, 0 while none is known",
                group,
            )?,
            is_leader: gauge("raft_is_leader", "1 while this node leads the group", group)?,
            last_log_index: gauge("raft_last_log_index", "The last entry of this node's log", group)?,
            committed_index: gauge(
                "raft_committed_index",
                "The last entry known to be committed",
                group,
            )?,
            applied_index: gauge(
                "raft_applied_index",
                "The last entry applied to this node's SpacetimeDB",
                group,
            )?,
            apply_lag: gauge(
                "raft_apply_lag_entries",
                "Committed entries that are not applied yet",
                group,
            )?,
            database_index: gauge(
                "database_index",
                "The last command that changed the database: its position modulo 2^53",
                database,
            )?,
            database_digest: gauge(
                "database_digest",
                "The digest of the database's writes modulo 2^53: at the same index the same on every node",
                database,
            )?,
            fit: gauge(
                "fit_to_lead",
                "1 unless this node's clock is wrong, its disk nearly full or slow, or its SpacetimeDB behind the others'",
                &[],
            )?,
            clock_off: gauge(
                "clock_off_milliseconds",
                "How far a quorum's clocks are ahead of this node's, if that is too much; else 0",
                &[],
            )?,
            disk_free: gauge(
                "disk_free_bytes",
                "Free bytes of the disk that holds the log",
                &[],
            )?,
            waiting_bytes: gauge(
                "raft_waiting_bytes",
                "Bytes of commands that wait at this node, as a leader, for their entries",
                &[],
            )?,
            append_bytes: gauge(
                "raft_append_bytes",
                "Bytes of entries on their way to other nodes",
                &[],
            )?,
            diverged: gauge(
                "database_diverged_replicas",
                "Replicas of the database, of all nodes, that hold something else than the majority",
                database,
            )?,
            split: gauge(
                "database_split",
                "1 while the database's replicas contradict each other without a majority",
                database,
            )?,
            set_aside: gauge(
                "database_set_aside",
                "1 while this node neither applies nor serves the database",
                database,
            )?,
            apply_window: gauge(
                "apply_window_calls",
                "Calls sent to SpacetimeDB and not answered yet",
                database,
            )?,
            lag_commands: gauge(
                "database_lag_commands",
                "Commands that are in the log and not in this node's SpacetimeDB yet",
                database,
            )?,
            lag_ms: gauge(
                "database_lag_milliseconds",
                "How long ago the oldest of them came into the log",
                database,
            )?,
            slowed: gauge(
                "database_slowed",
                "1 while this node slows the database's calls, since most of its replicas are far behind",
                database,
            )?,
            overlong_calls: gauge(
                "overlong_calls",
                "Calls given up since the node started, because they ran for longer than --call-time-max-s",
                database,
            )?,
            stuck: gauge(
                "database_stuck",
                "How often the next command has stopped SpacetimeDB, once it is given up for now; else 0",
                database,
            )?,
            registry,
        })
    }

    /// Clients connected to this node.
    pub(crate) fn sessions(&self) -> usize {
        usize::try_from(self.sessions.get()).unwrap_or(0)
    }

    /// The metrics in Prometheus's text format.
    pub(crate) fn render(
        &self,
        status: &NodeStatus,
        writes: WriteStats,
    ) -> Result<String, prometheus::Error> {
        self.syncs.inc_by(writes.syncs.saturating_sub(self.syncs.get()));
        let sync_seconds = writes.sync_us as f64 / 1e6;
        self.sync_seconds
            .inc_by((sync_seconds - self.sync_seconds.get()).max(0.0));
        self.apply_lag_seconds.set(status.lag_ms as f64 / 1e3);
        let set = |gauge: &IntGaugeVec, labels: &[&str], value: u64| {
            gauge
                .with_label_values(labels)
                .set(i64::try_from(value).unwrap_or(i64::MAX));
        };
        set(&self.ready, &[], status.ready.into());
        set(
            &self.spacetimedb_up,
            &[],
            (status.spacetimedb.state == "up").into(),
        );
        set(&self.fit, &[], status.troubles.is_empty().into());
        self.clock_off
            .with_label_values::<&str>(&[])
            .set(status.clock_off_ms);
        set(&self.disk_free, &[], status.disk_free_bytes.unwrap_or(0));
        set(&self.waiting_bytes, &[], status.waiting_bytes as u64);
        set(&self.append_bytes, &[], status.append_bytes as u64);
        for group in &status.groups {
            let label = &[group.group.as_str()];
            set(&self.term, label, group.term);
            set(
                &self.leader_id,
                label,
                group.leader.as_ref().map_or(0, |leader| leader.id),
            );
            set(&self.is_leader, label, (group.state == "leader").into());
            set(&self.last_log_index, label, group.last_log_index);
            set(&self.committed_index, label, group.committed_index);
            set(&self.applied_index, label, group.applied_index);
            set(
                &self.apply_lag,
                label,
                group.committed_index.saturating_sub(group.applied_index),
            );
        }
        for gauge in [
            &self.database_index,
            &self.database_digest,
            &self.apply_window,
            &self.lag_commands,
            &self.lag_ms,
            &self.slowed,
            &self.diverged,
            &self.split,
            &self.set_aside,
            &self.overlong_calls,
            &self.stuck,
        ] {
            gauge.reset();
        }
        for database in &status.databases {
            let label = &[database.identity.as_str()];
            set(&self.database_index, label, database.index & EXACT_MASK);
            let digest = database
                .digest
                .as_ref()
                .and_then(|digest| u64::from_str_radix(digest, 16).ok());
            set(&self.database_digest, label, digest.unwrap_or(0) & EXACT_MASK);
            set(&self.apply_window, label, database.in_flight as u64);
            set(&self.lag_commands, label, database.lag_commands);
            set(&self.lag_ms, label, database.lag_ms);
            set(&self.slowed, label, database.slowed.into());
            set(&self.diverged, label, database.diverged.len() as u64);
            set(&self.split, label, database.split.is_some().into());
            set(&self.set_aside, label, database.set_aside.is_some().into());
            set(&self.overlong_calls, label, database.overlong_calls);
            let attempts = database.stuck.as_ref().map_or(0, |stuck| stuck.attempts);
            set(&self.stuck, label, attempts.into());
        }
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }
}
