//! What was written once: of version 2, which stays readable whatever comes later, and of version 1, which is refused.

use super::cluster::{DATABASE, Node, call_in, config, connect, publish, settings};
use super::hub::{Hub, addr};
use super::replica::name;
use super::run;
use crate::command::{
    Assignment, Body, Call, CallKey, Connect, Delete, DeleteRows, Departed, EndDatabase, Ended, Failed,
    IMMEDIATE_SCHEDULE, InsertRows, Judgement, Known, Load, Names, Outcomes, Owner, Poison, PoisonStep,
    Publish, RegisterDatabase, Report, Reports, Resolve, SetIssuer, SetLock, SetNames, SetNode, Skipped,
    Stuck, Succeeded, TableRows, TableSum, Timer, TimerAt, Transaction, Trapped, Turn, UpdateRows, Verify,
    WantIssuer, Write, WriteKind,
};
use crate::entry::{Batch, EncodedBatch, Entry, Proposal};
use crate::record::{
    FoundersRecord, LogIdRecord, LogRecord, MemberRecord, MembershipRecord, VoteRecord, VoterSet,
};
use crate::resolver::Resolution;
use crate::transport::wire::{
    AddMember, Answer, Append, Appended, Ask, ChangeAnswer, ChangeAsk, Header, Hello, Join, Lagging,
    MemberChange, Pong, RemoveMember, Reply, Request, VoteAsk,
};
use crate::version::{RecordError, decode};
use crate::{
    Command, Database, Disk, ENTRY_VERSION, Issuer, KeyedCall, Manager, Origin, Propose, Session, StartError,
};
use bytes::Bytes;
use prost::Message;
use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::sync::Arc;

fn samples(version: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("testdata")
        .join(version)
}

fn entry() -> Entry {
    let commands = vec![publish(), connect(), call_in(65_536, "add")];
    Entry {
        version: 2,
        timestamp_us: 1_700_000_000_000_000,
        batches: vec![Batch {
            node: 1,
            epoch: 2,
            first_seq: 3,
            commands,
        }],
    }
}

/// Copies a data directory. The journal is allocated ahead: the copy ends where its contents end.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for item in std::fs::read_dir(from).unwrap() {
        let item = item.unwrap();
        let target = to.join(item.file_name());
        if item.file_type().unwrap().is_dir() {
            copy(&item.path(), &target);
        } else {
            // A segment's space is taken ahead: a sample ends where its contents end.
            let mut bytes = std::fs::read(item.path()).unwrap();
            let used = bytes
                .iter()
                .rposition(|byte| *byte != 0)
                .map_or(0, |last| last + 1);
            if item
                .path()
                .extension()
                .is_some_and(|extension| extension == "log")
            {
                bytes.truncate(used);
            }
            std::fs::write(target, bytes).unwrap();
        }
    }
}

/// A message as it is meant, as it is written, and how it is read.
struct Sample {
    name: &'static str,
    shown: String,
    bytes: Vec<u8>,
    read: fn(Bytes) -> String,
}

impl Sample {
    fn of<M: Message + Default + Debug>(name: &'static str, message: M) -> Self {
        Self {
            name,
            shown: format!("{message:?}"),
            bytes: message.encode_to_vec(),
            read: |bytes| format!("{:?}", decode::<M>(bytes).unwrap()),
        }
    }

    /// What was written before is read as it was meant.
    fn check(&self) {
        let written = std::fs::read(samples("v2").join(self.name)).unwrap();
        assert_eq!((self.read)(written.into()), self.shown, "{}", self.name);
    }
}

/// One of each kind of message: what goes before all, what nodes say, and what is kept beside the log.
fn messages() -> Vec<Sample> {
    let id = |index| LogIdRecord {
        term: 5,
        node: 1,
        index,
    };
    let vote = Some(VoteRecord {
        term: 5,
        node: 1,
        committed: true,
    });
    let header = Header {
        protocol: 2,
        protocol_min: 2,
        cluster: settings().cluster_id,
        from: 1,
        instance: 0xdead_beef,
        to: 2,
        group: u64::MAX,
    };
    let record = |index| LogRecord {
        log_id: Some(id(index)),
        ..LogRecord::default()
    };
    let member = |addr: &str| MemberRecord {
        addr: addr.to_owned(),
        never_votes: false,
    };
    let reader = MemberRecord {
        addr: "n4:4001".to_owned(),
        never_votes: true,
    };
    let membership = MembershipRecord {
        configs: vec![VoterSet { voters: vec![1, 2] }, VoterSet { voters: vec![1, 3] }],
        members: [
            (1, member("n1:4001")),
            (2, member("n2:4001")),
            (3, member("n3:4001")),
        ]
        .into(),
        ..MembershipRecord::default()
    };
    let append = Append {
        vote,
        prev: Some(id(6)),
        entries: vec![
            record(7),
            LogRecord {
                membership: Some(membership),
                ..record(8)
            },
            LogRecord {
                entry: Some(entry().encode_to_vec().into()),
                ..record(9)
            },
        ],
        commit: Some(id(7)),
    };
    let appended = Appended {
        conflict: Some(id(4)),
        ..Appended::default()
    };
    let ask = Ask::Vote(VoteAsk {
        vote,
        last: Some(id(9)),
        transfer: true,
    });
    let answer = Answer::Hello(Hello {
        node: 2,
        instance: 0xdead_beef,
        in_cluster: true,
        raft_addr: "n2:4001".to_owned(),
        client_addr: "n2:3001".to_owned(),
        feature_level: 0,
    });
    let pong_of = |members_at, members: &[u64], lagging| Reply {
        answer: Some(Answer::Pong(Pong {
            clock_us: 1_700_000_000_000_000,
            is_fit: true,
            lagging,
            members_at,
            members: members.to_vec(),
        })),
    };
    let pong = |lagging| pong_of(0, &[], lagging);
    let joins = Request {
        ask: Some(Ask::Join(Join {
            founders: vec![1, 2, 4],
            taken_in: Some(77),
            ..Join::default()
        })),
    };
    let taken_in = FoundersRecord {
        nodes: vec![1, 2, 4],
        taken_in: Some(77),
        ..FoundersRecord::default()
    };
    let change = |change| Request {
        ask: Some(Ask::Change(ChangeAsk { change: Some(change) })),
    };
    let comes = MemberChange::Add(AddMember {
        node: 4,
        addr: "n4:4001".to_owned(),
        never_votes: true,
    });
    let goes = MemberChange::Remove(RemoveMember { node: 4, force: true });
    let changed = Reply {
        answer: Some(Answer::Change(ChangeAnswer {
            refused: Some("no".to_owned()),
            waits: Some("later".to_owned()),
        })),
    };
    let lagging = Lagging {
        database: DATABASE,
        commands: 40_000,
        age_ms: 6_000,
        applied: 7,
    };
    let batch = EncodedBatch {
        node: 1,
        epoch: 2,
        first_seq: 3,
        commands: vec![call_in(65_536, "add").encode_to_vec().into()],
    };
    let set_node = Command::from(Body::SetNode(SetNode {
        node: 1,
        raft_addr: "n1:4001".to_owned(),
        client_addr: "n1:3001".to_owned(),
        version: "0.1.0".to_owned(),
        spacetimedb_version: "2.8.3".to_owned(),
        cpu: "x86_64 AuthenticAMD/25/1".to_owned(),
        feature_level: 1,
    }));
    let register = Command::from(Body::RegisterDatabase(RegisterDatabase {
        database: DATABASE,
        owner: Some(Owner::default()),
        name: "demo".to_owned(),
        shard: 0,
        has_birth: false,
    }));
    let register_with_birth = Command::from(Body::RegisterDatabase(RegisterDatabase {
        database: DATABASE,
        owner: Some(Owner::default()),
        name: "demo".to_owned(),
        shard: 0,
        has_birth: true,
    }));
    let end = Command::from(Body::EndDatabase(EndDatabase {
        database: DATABASE,
        born: 65_536,
    }));
    let delete = Command::from(Body::Delete(Delete {
        database: DATABASE,
        before: 65_537,
    }));
    let publish_with_birth = Command::from(Body::Publish(Publish {
        database: DATABASE,
        born: 65_536,
        ..Publish::default()
    }));
    let restore = Command::from(Body::Publish(Publish {
        database: DATABASE,
        clear: true,
        born: 65_536,
        loads: true,
        ..Publish::default()
    }));
    let load = Command::from(Body::Load(Load {
        database: DATABASE,
        of: 65_537,
        number: 3,
        tables: vec![TableRows {
            table: "counter".to_owned(),
            rows: vec![Bytes::from_static(b"row"), Bytes::from_static(b"another")],
        }],
        departed: vec![Departed {
            sender: Bytes::from_static(&[7; 32]),
            connection: Bytes::from_static(&[8; 16]),
            claims: "{}".to_owned(),
        }],
        last: true,
        sums: vec![TableSum {
            table: "counter".to_owned(),
            rows: 2,
            sum: Bytes::from_static(&[9; 16]),
        }],
    }));
    assert_eq!((restore.version, load.version), (11, 11));
    let replace_names = Command::from(Body::SetNames(SetNames {
        database: DATABASE,
        names: vec!["demo".to_owned(), "other".to_owned()],
        replaced: Some(Names {
            born: 65_536,
            names: vec!["demo".to_owned()],
        }),
    }));
    let reports = Command::from(Body::Reports(Reports {
        reports: vec![Report {
            database: DATABASE,
            position: 65_536,
            digest: 0xd1,
            of_rows: false,
            place: 0,
        }],
    }));
    let resolve = Command::from(Body::Resolve(Resolve {
        database: DATABASE,
        node: 2,
    }));
    let poison = |step| {
        Command::from(Body::Poison(Poison {
            database: DATABASE,
            position: 65_537,
            step: Some(step),
        }))
    };
    let judgement = |refusal: Option<&str>| {
        Command::from(Body::Judgement(Judgement {
            database: DATABASE,
            position: 65_537,
            refusal: refusal.map(str::to_owned),
            breaks: false,
        }))
    };
    let breaking = Command::from(Body::Judgement(Judgement {
        database: DATABASE,
        position: 65_537,
        refusal: None,
        breaks: true,
    }));
    let update = Command::from(Body::Publish(Publish {
        database: DATABASE,
        module: Bytes::from_static(b"prepared"),
        judged: true,
        program: Bytes::from_static(&[5; 32]),
        token: Bytes::from_static(&[6; 32]),
        ..Publish::default()
    }));
    assert_eq!((update.version, breaking.version), (4, 4));
    let lock = Command::from(Body::SetLock(SetLock {
        database: DATABASE,
        locked: true,
        born: 0,
    }));
    let locked = Database {
        identity: DATABASE,
        locked: true,
        version: 4,
        ..Database::default()
    };
    let trapped = Command::from(Body::Trapped(Trapped {
        database: DATABASE,
        positions: vec![65_537, 65_538],
    }));
    let timer = Command::from(Body::Timer(Timer {
        database: DATABASE,
        module: 65_536,
        schedule: 1,
        row: 7,
        term: 5,
        interval_due_us: 1_700_000_000_000_000,
        at: None,
        over: false,
    }));
    let timer_at = |at| {
        let command = Command::from(Body::Timer(Timer {
            database: DATABASE,
            term: 5,
            at: Some(at),
            ..Timer::default()
        }));
        assert_eq!(command.version, 6);
        command
    };
    let timer_once = timer_at(TimerAt::TimeUs(1_700_000_000_000_000));
    let timer_again = timer_at(TimerAt::IntervalUs(50_000));
    let immediate = Command::from(Body::Timer(Timer {
        database: DATABASE,
        module: 65_536,
        schedule: IMMEDIATE_SCHEDULE,
        row: 7,
        term: 5,
        at: Some(TimerAt::TimeUs(1_700_000_000_000_000)),
        ..Timer::default()
    }));
    assert_eq!(immediate.version, 10);
    let scrub = Command::from(Body::Verify(Verify {
        database: DATABASE,
        scrub: true,
    }));
    let rows = Command::from(Body::Reports(Reports {
        reports: vec![Report {
            database: DATABASE,
            position: 65_537,
            digest: 5,
            of_rows: true,
            place: 0,
        }],
    }));
    let placed = Command::from(Body::Reports(Reports {
        reports: vec![Report {
            database: DATABASE,
            position: 65_537,
            digest: 6,
            of_rows: false,
            place: 65_540,
        }],
    }));
    let voters = vec![1, 2, 3];
    let with_claims = Command::from(Body::Connect(Connect {
        database: DATABASE,
        sender: Bytes::from_static(&[3; 32]),
        connection: Bytes::from_static(&[4; 16]),
        claims: r#"{"iss":"localhost","sub":"bob"}"#.to_owned(),
        unique: false,
    }));
    assert_eq!(with_claims.version, 2);
    let unique = Command::from(Body::Connect(Connect {
        database: DATABASE,
        connection: Bytes::from_static(&[4; 16]),
        unique: true,
        ..Connect::default()
    }));
    for command in [
        &register_with_birth,
        &delete,
        &publish_with_birth,
        &replace_names,
        &unique,
    ] {
        assert_eq!(command.version, 4);
    }
    let write = |kind| {
        let command = Command::from(Body::Write(Write {
            database: DATABASE,
            program: Bytes::from_static(&[5; 32]),
            sender: Bytes::from_static(&[3; 32]),
            table: 2,
            kind: Some(kind),
            key: None,
        }));
        assert_eq!(command.version, 6);
        command
    };
    let insert = write(WriteKind::Insert(InsertRows {
        rows: vec![Bytes::from_static(b"one"), Bytes::from_static(b"two")],
    }));
    let update_rows = write(WriteKind::Update(UpdateRows {
        query: "SELECT * FROM counter WHERE id = 1".to_owned(),
        assignments: vec![Assignment {
            column: 1,
            value: Bytes::from_static(&[7, 0, 0, 0]),
        }],
    }));
    let delete_rows = write(WriteKind::Delete(DeleteRows {
        query: "SELECT * FROM counter".to_owned(),
    }));
    let transaction = Command::from(Body::Transaction(Transaction {
        database: DATABASE,
        program: Bytes::from_static(&[5; 32]),
        sender: Bytes::from_static(&[3; 32]),
        base: 65_537,
        operations: Bytes::from_static(b"operations"),
        session: 65_536,
        turn: 65_538,
        claim: None,
    }));
    let claim = Command::from(Body::Transaction(Transaction {
        database: DATABASE,
        operations: Bytes::from_static(b"operations"),
        claim: Some(Timer {
            database: DATABASE,
            module: 65_536,
            schedule: 1,
            row: 7,
            term: 3,
            interval_due_us: 1_700_000_000_000_000,
            at: Some(TimerAt::IntervalUs(50_000)),
            over: false,
        }),
        ..Transaction::default()
    }));
    assert_eq!(claim.version, 7);
    let turn = Command::from(Body::Turn(Turn {
        database: DATABASE,
        program: Bytes::from_static(&[5; 32]),
        run: 77,
    }));
    assert_eq!([transaction.version, turn.version], [6, 6]);
    let key = Some(CallKey {
        sender: Bytes::from_static(&[3; 32]),
        key: "8e03978e".to_owned(),
        fingerprint: Bytes::from_static(&[8; 32]),
    });
    let keyed_call = Command::from(Body::Call(Call {
        database: DATABASE,
        reducer: "add".to_owned(),
        key: key.clone(),
        ..Call::default()
    }));
    let keyed_write = Command::from(Body::Write(Write {
        database: DATABASE,
        kind: Some(WriteKind::Insert(InsertRows::default())),
        key,
        ..Write::default()
    }));
    let known = |position, ended| Known {
        position,
        ended: Some(ended),
    };
    let outcomes = Command::from(Body::Outcomes(Outcomes {
        database: DATABASE,
        known: vec![
            known(65_537, Ended::Succeeded(Succeeded::default())),
            known(
                65_538,
                Ended::Succeeded(Succeeded {
                    of_rows: true,
                    inserted: 1,
                    deleted: 2,
                    updated: 3,
                }),
            ),
            known(65_539, Ended::Failed("too large".to_owned())),
            known(65_540, Ended::Trapped("unreachable".to_owned())),
            Known {
                position: 65_541,
                ended: None,
            },
        ],
        wanted: vec![65_542],
    }));
    assert_eq!(
        [&keyed_call, &keyed_write, &outcomes].map(|it| it.version),
        [8; 3]
    );
    let name = || "https://issuer.example".to_owned();
    let set_issuer = Command::from(Body::SetIssuer(SetIssuer {
        issuer: name(),
        keys: Bytes::from_static(b"keys"),
    }));
    let want_issuer = Command::from(Body::WantIssuer(WantIssuer { issuer: name() }));
    assert_eq!([set_issuer.version, want_issuer.version], [9, 9]);
    let issuer = Issuer {
        name: name(),
        keys: Bytes::from_static(b"keys"),
        fetched_us: 1_700_000_000_000_000,
        wanted_us: 1_700_000_000_000_001,
        version: 9,
    };
    let kept = KeyedCall {
        database: DATABASE.to_vec(),
        sender: vec![3; 32],
        hash: vec![7; 32],
        fingerprint: vec![8; 32],
        timestamp_us: 1_700_000_000_000_000,
        known: Some(known(65_539, Ended::Failed("too large".to_owned()))),
        version: 8,
    };
    let mut resolution = Resolution::new(1_700_000_000_000_000);
    resolution.skip(1);
    let session = Session {
        id: 65_536,
        origin: Origin { node: 1, epoch: 2 },
        database: DATABASE,
        sender: Bytes::from_static(&[3; 32]),
        connection: Bytes::from_static(&[4; 16]),
    };
    resolution.end(2, &session);
    vec![
        Sample::of("header", header),
        Sample::of("append", append),
        Sample::of("appended", appended),
        Sample::of("request", Request { ask: Some(ask) }),
        Sample::of("reply", Reply { answer: Some(answer) }),
        Sample::of("pong", pong(Vec::new())),
        Sample::of("pong_lagging", pong(vec![lagging])),
        Sample::of("batch", batch),
        Sample::of("set_node", set_node),
        Sample::of("register_database", register),
        Sample::of("poison_stuck", poison(PoisonStep::Stuck(Stuck { attempts: 3 }))),
        Sample::of(
            "poison_failed",
            poison(PoisonStep::Failed(Failed { term: 5, voters })),
        ),
        Sample::of("poison_skipped", poison(PoisonStep::Skipped(Skipped {}))),
        Sample::of("resolution", resolution),
        Sample::of("reports", reports),
        Sample::of("resolve", resolve),
        Sample::of("connect_with_claims", with_claims),
        Sample::of("judgement_accepted", judgement(None)),
        Sample::of("judgement_refused", judgement(Some("bad module"))),
        Sample::of("trapped", trapped),
        Sample::of("timer", timer),
        Sample::of("timer_once", timer_once),
        Sample::of("timer_again", timer_again),
        Sample::of("immediate", immediate),
        Sample::of("scrub", scrub),
        Sample::of("reports_of_rows", rows),
        Sample::of("reports_with_place", placed),
        Sample::of("judgement_breaking", breaking),
        Sample::of("publish_with_token", update),
        Sample::of("set_lock", lock),
        Sample::of("locked_database", locked),
        Sample::of("register_with_birth", register_with_birth),
        Sample::of("end_database", end),
        Sample::of("delete_before", delete),
        Sample::of("publish_with_birth", publish_with_birth),
        Sample::of("replace_names", replace_names),
        Sample::of("connect_unique", unique),
        Sample::of("write_insert", insert),
        Sample::of("write_update", update_rows),
        Sample::of("write_delete", delete_rows),
        Sample::of("transaction", transaction),
        Sample::of("claim", claim),
        Sample::of("turn", turn),
        Sample::of("call_with_key", keyed_call),
        Sample::of("write_with_key", keyed_write),
        Sample::of("outcomes", outcomes),
        Sample::of("kept_call", kept),
        Sample::of("set_issuer", set_issuer),
        Sample::of("want_issuer", want_issuer),
        Sample::of("issuer", issuer),
        Sample::of("reader", reader),
        Sample::of("member_pong", pong_of(77, &[1, 2, 4], Vec::new())),
        Sample::of("late_join", joins),
        Sample::of("taken_in", taken_in),
        Sample::of("change_add", change(comes)),
        Sample::of("change_remove", change(goes)),
        Sample::of("change_promote", change(MemberChange::Promote(4))),
        Sample::of("changed", changed),
        Sample::of("restore", restore),
        Sample::of("load", load),
    ]
}

/// Writes the samples that are not there yet. They are written once, and never again.
#[test]
#[ignore = "writes the samples that the tests below read"]
fn write_messages() {
    assert_eq!(ENTRY_VERSION, 2, "samples of another version belong elsewhere");
    std::fs::create_dir_all(samples("v2")).unwrap();
    let path = samples("v2").join("entry");
    if !path.exists() {
        std::fs::write(path, entry().encode_to_vec()).unwrap();
    }
    for message in messages() {
        let path = samples("v2").join(message.name);
        if !path.exists() {
            std::fs::write(path, message.bytes).unwrap();
        }
    }
}

/// The same for a data directory.
#[test]
#[ignore = "writes a sample"]
fn write_data_directory() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let hub: Arc<Hub> = Arc::default();
        let node = Node::start(config(1, &dir), Arc::new(hub)).await;
        node.manager
            .init([(1, addr(1))].into(), settings())
            .await
            .unwrap();
        let shard = node.manager.shard();
        shard.submit(publish()).unwrap().await.unwrap();
        let session = shard.submit(connect()).unwrap().await.unwrap().position.0;
        shard.submit(call_in(session, "add")).unwrap().await.unwrap();
        shard
            .submit(call_in(session + 1, "refused"))
            .unwrap()
            .await
            .unwrap_err();
        node.stop().await;
        copy(dir.path(), &samples("v2").join("data"));
    });
}

#[test]
fn what_version_2_has_written_is_readable() {
    let bytes = std::fs::read(samples("v2").join("entry")).unwrap();
    assert_eq!(Proposal(bytes.into()).decode().unwrap(), entry());
    for message in messages() {
        message.check();
    }
}

#[test]
fn an_entry_of_version_1_is_refused() {
    let bytes = std::fs::read(samples("v1").join("entry")).unwrap();
    let error = Proposal(bytes.into()).decode().unwrap_err();
    assert!(matches!(error, RecordError::Older { found: 1 }));
    let text = error.to_string();
    assert!(text.contains("start with an empty --data-dir"), "{text}");
}

/// Its groups have other ids: read as it stands, the meta group's log would be taken for the shard's.
#[test]
fn a_data_directory_of_version_2_is_readable() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        copy(&samples("v2").join("data"), dir.path());
        for segment in std::fs::read_dir(dir.path().join("log")).unwrap() {
            let file = std::fs::File::options().write(true).open(segment.unwrap().path());
            file.unwrap().set_len(64 << 20).unwrap();
        }
        let node = Node::start(config(1, &dir), Arc::new(Arc::<Hub>::default())).await;
        assert_eq!(node.manager.cluster().as_deref(), Some("c0ffee"));
        let meta = node.manager.meta().meta();
        assert_eq!(meta.cluster(), Some(&settings()));
        assert_eq!(meta.node(1).map(|node| node.client_addr.as_str()), Some("c1"));
        let shard = node.manager.shard();
        let databases = shard.with_shard(|shard| shard.databases().eq([&DATABASE]));
        assert_eq!(databases, Some(true));
        // It goes on from there; the session of the former life is disconnected.
        shard.submit(call_in(0, "more")).unwrap().await.unwrap();
        let names: Vec<String> = node
            .replica
            .history()
            .iter()
            .map(|command| name(command).to_owned())
            .collect();
        assert!(names.join(" ").starts_with("publish connect add"), "{names:?}");
        let mut resolved = crate::Follow::resolved(&**shard);
        resolved.wait_for(|_| shard.status().sessions == 0).await.unwrap();
        node.stop().await;
    });
}

#[test]
fn a_data_directory_of_version_1_is_refused() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        copy(&samples("v1").join("data"), dir.path());
        // A version control system may have dropped what is empty.
        for keyspace in std::fs::read_dir(dir.path().join("raft/keyspaces")).unwrap() {
            std::fs::create_dir_all(keyspace.unwrap().path().join("tables")).unwrap();
        }
        let start = Manager::start_with(config(1, &dir), Arc::new(Arc::<Hub>::default()), Disk);
        let Some(StartError::Store(error)) = start.await.err() else {
            panic!("it was taken");
        };
        let text = error.to_string();
        assert!(text.contains("format 1") && text.contains("--data-dir"), "{text}");
    });
}
