//! `rtdb`: the operator's command line.
//!
//! Every command is one request to a node's admin API, which listens on the raft address.

mod admin;
mod backup;
mod init;
mod members;
mod resolve;
mod skip;
mod status;
mod verify;
mod wait;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use thiserror::Error;

use crate::admin::{Admin, AdminError};
use crate::backup::{BackupError, Import, Restore, Which};
use crate::init::{InitError, Member};
use crate::verify::VerifyError;
use crate::wait::Goal;

/// Bootstraps and watches a RaftTimeDB cluster.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Exit status: 0 done, 1 failed or not ready, 2 wrong usage."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make one cluster of nodes that have been started; done once in a cluster's life.
    ///
    /// Sent to the first node of the list. Doing it again with the same nodes changes nothing and says so.
    Init {
        /// Every node, as `id=host:port` with its raft address as the other nodes reach it.
        #[arg(long, required = true, num_args = 1.., value_name = "ID=HOST:PORT", value_delimiter = ',')]
        nodes: Vec<Member>,
    },
    /// Make a node a member of the cluster: one that has been started, with an empty data directory.
    ///
    /// It follows until it has caught up, and votes from then on. Of a node that is a member, this changes the address.
    AddNode {
        /// Its id: its --node-id.
        #[arg(long, value_name = "ID")]
        node_id: u64,
        /// Its raft address as the other nodes reach it.
        #[arg(long, value_name = "HOST:PORT")]
        addr: String,
        /// It never votes: for reads far away.
        #[arg(long)]
        learner: bool,
        #[command(flatten)]
        cluster: Cluster,
    },
    /// Take a node out of the cluster. It stops, and its clients connect to others.
    ///
    /// Refused if the other nodes could acknowledge nothing without it.
    RemoveNode {
        /// Its id.
        #[arg(long, value_name = "ID")]
        node_id: u64,
        /// Also if too few of the others answer.
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        cluster: Cluster,
    },
    /// Let a node vote that only follows, as soon as it has caught up.
    Promote {
        /// Its id.
        #[arg(long, value_name = "ID")]
        node_id: u64,
        #[command(flatten)]
        cluster: Cluster,
    },
    /// Let a node only follow from now on.
    Demote {
        /// Its id.
        #[arg(long, value_name = "ID")]
        node_id: u64,
        /// Also if too few of the others answer.
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        cluster: Cluster,
    },
    /// Let a node lead.
    TransferLeader {
        /// Its id.
        #[arg(long, value_name = "ID")]
        node_id: u64,
        /// Which group, `meta` or `shard-N`; all, if none is named.
        #[arg(long, value_name = "GROUP")]
        group: Option<String>,
        #[command(flatten)]
        cluster: Cluster,
    },
    /// Send a node's clients and leaderships to other nodes, for instance before work on its machine. It goes on voting and
    /// applying. Lasts until it is undone, or the node restarts.
    Drain {
        /// Its id.
        #[arg(long, value_name = "ID")]
        node_id: u64,
        /// Let clients and leaderships come again.
        #[arg(long)]
        undo: bool,
        #[command(flatten)]
        cluster: Cluster,
    },
    /// Show who belongs to the cluster.
    Members {
        /// Print the node's answer as it is.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        cluster: Cluster,
    },
    /// Wait until a node has come so far. Exits with 1 if it has not in time.
    Wait {
        /// A leader is known; clients are served well (as `/cluster/ready` has it); or all is applied that is committed now.
        #[arg(long = "for", value_name = "WHAT")]
        goal: Goal,
        /// For so many seconds.
        #[arg(long, value_name = "S", default_value_t = 60)]
        timeout: u64,
        #[command(flatten)]
        cluster: Cluster,
    },
    /// Say what a node is in each group: leader, follower, candidate or learner.
    State {
        #[command(flatten)]
        cluster: Cluster,
    },
    /// Copy databases, with their modules, out of the running cluster, each as it is at one position of its log. Calls go on
    /// meanwhile.
    ///
    /// What is written is checked on the way, and is a backup only once all of it is there.
    #[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
    Backup {
        #[command(subcommand)]
        command: Option<BackupCommand>,
        #[command(flatten)]
        which: Databases,
        /// A directory, or `s3://BUCKET/PREFIX`: each backup has a folder of its own there. For S3, region, keys and endpoint are
        /// taken from AWS_REGION, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_ENDPOINT.
        #[arg(long, required = true, value_name = "PLACE")]
        to: Option<String>,
        /// Do it again and again, every so many seconds.
        #[arg(long = "backup-every", value_name = "S", value_parser = clap::value_parser!(u64).range(1..))]
        every: Option<u64>,
        /// Remove all but the newest so many backups of each database, once there is a new one.
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
        keep: Option<u16>,
        #[command(flatten)]
        cluster: Cluster,
    },
    /// List backups, the oldest first.
    Backups {
        /// The directory, or `s3://BUCKET/PREFIX`, that they are kept in.
        #[arg(long, value_name = "PLACE")]
        from: String,
        /// Only those of this database: its name or identity.
        #[arg(long, value_name = "NAME")]
        database: Option<String>,
        /// Print what each backup says of itself.
        #[arg(long)]
        json: bool,
    },
    /// Make a database of its newest backup: the same one, with its identity, owner, names and rows.
    ///
    /// All of the backup is read and checked first. Nobody sees the database before all of it is there; if that fails, nothing is
    /// left of it. Clients that were connected when the backup was taken count as disconnected.
    Restore {
        /// The directory, or `s3://BUCKET/PREFIX`, that the backups are kept in.
        #[arg(long, value_name = "PLACE")]
        from: String,
        /// The name or identity that the database had.
        #[arg(long, value_name = "NAME")]
        database: String,
        /// As a database of its own, with a new identity and this name.
        #[arg(long = "as", value_name = "NEW")]
        name: Option<String>,
        /// The newest backup that was taken by then: 2026-11-24T18:30:00Z.
        #[arg(long, value_name = "TIME", value_parser = moment)]
        at: Option<String>,
        /// In the place of the database that is there: it is deleted first, and its clients are disconnected.
        #[arg(long)]
        replace: bool,
        #[command(flatten)]
        cluster: Cluster,
    },
    /// Take a database over from a plain SpacetimeDB, with all rows: its identity, owner and name stay.
    ///
    /// Stop its clients first: what they change there later does not come along. Those that are connected count as
    /// disconnected here. Tokens that the other server has issued itself are good here if the cluster has its key pair
    /// (--stdb-jwt-priv-key and --stdb-jwt-pub-key of each node).
    Import {
        /// The other server, as the node reaches it: http://old:3000.
        #[arg(long, value_name = "URL", value_parser = authority)]
        from: String,
        /// The database's name or identity there.
        #[arg(long, value_name = "NAME")]
        database: String,
        /// The module's file: the very one that was published last.
        #[arg(long, value_name = "FILE")]
        module: PathBuf,
        /// The token of the database's owner there: that of `spacetime login show --token`.
        #[arg(long, env = "RTDB_IMPORT_TOKEN", hide_env_values = true, value_name = "TOKEN")]
        token: String,
        /// As a database of its own, with a new identity and this name.
        #[arg(long = "as", value_name = "NEW")]
        name: Option<String>,
        /// In the place of the database that is there: it is deleted first, and its clients are disconnected.
        #[arg(long)]
        replace: bool,
        #[command(flatten)]
        cluster: Cluster,
    },
    /// Say which replica of a split database is right: it takes calls again, and the others are set aside.
    ///
    /// A database is split when its replicas contradict each other and no majority of them agrees; `rtdb status` shows it.
    /// What only the other replicas hold is lost.
    Resolve {
        /// The database's name or identity.
        #[arg(long, value_name = "NAME")]
        database: String,
        /// The node whose replica is right.
        #[arg(long, value_name = "ID")]
        node: u64,
        /// Any node's raft address.
        #[arg(
            long,
            env = "RTDB_ADDR",
            default_value = "http://localhost:4001",
            value_name = "URL"
        )]
        addr: String,
    },
    /// Compare all rows of a database on all nodes, at one position of the log. Exits with 1 if they differ,
    /// and with 3 if that is not known of all tables or nodes.
    ///
    /// The database takes calls meanwhile; they wait while a node reads its rows. Tables of more than 16 MiB are not compared.
    Verify {
        /// The database's name or identity.
        #[arg(long, value_name = "NAME")]
        database: String,
        /// Any node's raft address. The others are asked at the addresses that they have announced.
        #[arg(
            long,
            env = "RTDB_ADDR",
            default_value = "http://localhost:4001",
            value_name = "URL"
        )]
        addr: String,
    },
    /// Give up a command that stops SpacetimeDB: it counts as failed on every node.
    ///
    /// Where all voters are stuck at a command, the cluster does this by itself. It is for you if a node that should say
    /// so is gone. A node that has applied the command after all makes its database again, without it.
    Skip {
        /// The database's name or identity.
        #[arg(long, value_name = "NAME")]
        database: String,
        /// The command's position, as `rtdb status` shows it.
        #[arg(long, value_name = "ENTRY.COMMAND")]
        position: String,
        /// Don't ask.
        #[arg(long)]
        yes: bool,
        /// The raft address of a node that is stuck.
        #[arg(
            long,
            env = "RTDB_ADDR",
            default_value = "http://localhost:4001",
            value_name = "URL"
        )]
        addr: String,
    },
    /// Show a node's view of the cluster. Exits with 1 if that node is not ready to serve.
    Status {
        /// The node's raft address.
        #[arg(
            long,
            env = "RTDB_ADDR",
            default_value = "http://localhost:4001",
            value_name = "URL"
        )]
        addr: String,
        /// Print the node's answer as it is.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Subcommand)]
enum BackupCommand {
    /// Read backups, and check that each is as it was written. Exits with 1 if one is not.
    Verify {
        /// The directory, or `s3://BUCKET/PREFIX`, that they are kept in.
        #[arg(long, value_name = "PLACE")]
        from: String,
        /// Only those of this database: its name or identity.
        #[arg(long, value_name = "NAME")]
        database: Option<String>,
    },
}

/// Which databases.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Databases {
    /// The database's name or identity.
    #[arg(long, value_name = "NAME")]
    database: Option<String>,
    /// All databases.
    #[arg(long)]
    all: bool,
}

/// Checks a time; it is kept as it was written.
fn moment(text: &str) -> Result<String, String> {
    backup::parse_moment(text).map(|_| text.to_owned())
}

/// The `host:port` of a plain server's URL.
fn authority(url: &str) -> Result<String, String> {
    let host = url
        .strip_prefix("http://")
        .or_else(|| url.strip_prefix("ws://"))
        .unwrap_or(url);
    let host = host.trim_end_matches('/');
    match host.rsplit_once(':') {
        Some((name, port)) if !name.is_empty() && port.parse::<u16>().is_ok() => Ok(host.to_owned()),
        _ => Err("write http://HOST:PORT: without TLS, as the node reaches it".to_owned()),
    }
}

/// Whom to ask.
#[derive(Debug, Args)]
struct Cluster {
    /// Any node's raft address: it finds the leader.
    #[arg(
        long = "cluster",
        env = "RTDB_ADDR",
        default_value = "http://localhost:4001",
        value_name = "URL"
    )]
    url: String,
}

impl Cluster {
    fn admin(&self) -> Admin {
        Admin::new(&self.url)
    }
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(status) => status,
        Err(error) => {
            eprintln!("rtdb: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<ExitCode, Failure> {
    match command {
        Command::Init { nodes } => init::run(&nodes)?,
        Command::AddNode {
            node_id,
            addr,
            learner,
            cluster,
        } => members::add(&cluster.admin(), node_id, &addr, learner)?,
        Command::RemoveNode {
            node_id,
            force,
            cluster,
        } => members::remove(&cluster.admin(), node_id, force)?,
        Command::Promote { node_id, cluster } => members::promote(&cluster.admin(), node_id)?,
        Command::Demote {
            node_id,
            force,
            cluster,
        } => members::demote(&cluster.admin(), node_id, force)?,
        Command::TransferLeader {
            node_id,
            group,
            cluster,
        } => members::lead(&cluster.admin(), node_id, group.as_deref())?,
        Command::Wait {
            goal,
            timeout,
            cluster,
        } => return Ok(wait::run(&cluster.admin(), goal, Duration::from_secs(timeout))?),
        Command::State { cluster } => status::state(&cluster.admin())?,
        Command::Drain {
            node_id,
            undo,
            cluster,
        } => members::drain(&cluster.admin(), node_id, undo)?,
        Command::Members { json, cluster } => members::list(&cluster.admin(), json)?,
        Command::Backup {
            command: Some(BackupCommand::Verify { from, database }),
            ..
        } => return Ok(backup::verify(&from, database.as_deref())?),
        Command::Backup {
            command: None,
            which: Databases { database, .. },
            to,
            every,
            keep,
            cluster,
        } => {
            let which = database.map_or(Which::All, Which::Named);
            let every = every.map(Duration::from_secs);
            backup::make(
                &cluster.admin(),
                &which,
                &to.unwrap_or_default(),
                every,
                keep.map(usize::from),
            )?;
        }
        Command::Backups { from, database, json } => backup::list(&from, database.as_deref(), json)?,
        Command::Restore {
            from,
            database,
            name,
            at,
            replace,
            cluster,
        } => backup::restore(
            &cluster.admin(),
            &Restore {
                from: &from,
                database: &database,
                name: name.as_deref(),
                replace,
                at: at.as_deref(),
            },
        )?,
        Command::Import {
            from,
            database,
            module,
            token,
            name,
            replace,
            cluster,
        } => backup::import(
            &cluster.admin(),
            &Import {
                from: &from,
                database: &database,
                module: &module,
                token: &token,
                name: name.as_deref(),
                replace,
            },
        )?,
        Command::Resolve { database, node, addr } => resolve::run(&Admin::new(&addr), &database, node)?,
        Command::Verify { database, addr } => return Ok(verify::run(&Admin::new(&addr), &database)?),
        Command::Skip {
            database,
            position,
            yes,
            addr,
        } => return Ok(skip::run(&Admin::new(&addr), &database, &position, yes)?),
        Command::Status { addr, json } => return Ok(status::run(&Admin::new(&addr), json)?),
    }
    Ok(ExitCode::SUCCESS)
}

/// Why a command failed.
#[derive(Debug, Error)]
#[error(transparent)]
enum Failure {
    Init(#[from] InitError),
    Admin(#[from] AdminError),
    Verify(#[from] VerifyError),
    Backup(#[from] BackupError),
}
