//! Procedures that run transactions of every kind, and reducers that do the same at once.

use spacetimedb::{
    procedure, reducer, table, volatile_nonatomic_schedule_immediate, Identity, ProcedureContext, ReducerContext,
    ScheduleAt, SpacetimeType, Table, TimeDuration, Timestamp, TxContext,
};
use std::time::Duration;

/// Two generated columns, a unique one, and an index of equal keys.
#[table(accessor = item, public)]
#[derive(Clone)]
pub struct Item {
    #[primary_key]
    #[auto_inc]
    id: u64,
    #[unique]
    key: i32,
    #[index(btree)]
    team: u8,
    #[auto_inc]
    small: u8,
    text: String,
}

/// No two rows are told apart by a key.
#[table(accessor = note, public)]
#[derive(Clone)]
pub struct Note {
    text: String,
}

/// Gone with the transaction.
#[table(accessor = ping, public, event)]
pub struct Ping {
    n: u8,
}

/// What a transaction does.
#[derive(SpacetimeType, Clone)]
pub enum Op {
    /// Inserts an item, or leaves it if its key is taken.
    Put(Put),
    /// Changes the item of a key, if there is one.
    Change(Put),
    /// Deletes the item of a key.
    Remove(i32),
    /// Deletes the items of a team.
    Disband(u8),
    Write(String),
    Erase(String),
    EraseAll,
    Ping(u8),
    /// Has a text written right after.
    Soon(String),
}

#[derive(SpacetimeType, Clone)]
pub struct Put {
    id: u64,
    key: i32,
    team: u8,
    text: String,
}

fn perform(ctx: &ReducerContext, ops: &[Op]) -> u64 {
    let items = ctx.db.item();
    for op in ops.iter().cloned() {
        match op {
            Op::Put(Put { id, key, team, text }) => {
                let _ = items.try_insert(Item { id, key, team, small: 0, text });
            }
            Op::Change(Put { key, team, text, .. }) => {
                if let Some(item) = items.key().find(key) {
                    items.id().update(Item { team, text, ..item });
                }
            }
            Op::Remove(key) => {
                items.key().delete(key);
            }
            Op::Disband(team) => {
                items.team().delete(team);
            }
            Op::Write(text) => {
                ctx.db.note().insert(Note { text });
            }
            Op::Erase(text) => {
                ctx.db.note().delete(Note { text });
            }
            Op::EraseAll => {
                let all: Vec<_> = ctx.db.note().iter().collect();
                for note in all {
                    ctx.db.note().delete(note);
                }
            }
            Op::Ping(n) => {
                ctx.db.ping().insert(Ping { n });
            }
            Op::Soon(text) => volatile_nonatomic_schedule_immediate!(write(text)),
        }
    }
    items.count()
}

#[reducer]
pub fn reduce(ctx: &ReducerContext, ops: Vec<Op>) {
    perform(ctx, &ops);
}

/// What is called right after.
#[reducer]
pub fn write(ctx: &ReducerContext, text: String) {
    ctx.db.note().insert(Note { text });
}

#[reducer(client_connected)]
pub fn connected(_ctx: &ReducerContext) {}

/// How many items there are then.
#[procedure]
fn run(ctx: &mut ProcedureContext, ops: Vec<Op>) -> u64 {
    ctx.with_tx(|tx| perform(tx, &ops))
}

/// Two transactions, with a pause between.
#[procedure]
fn run_twice(ctx: &mut ProcedureContext, first: Vec<Op>, pause_ms: u64, second: Vec<Op>) -> u64 {
    ctx.with_tx(|tx| perform(tx, &first));
    ctx.sleep_until(ctx.timestamp + Duration::from_millis(pause_ms));
    ctx.with_tx(|tx| perform(tx, &second))
}

/// Takes back what it does.
#[procedure]
fn roll_back(ctx: &mut ProcedureContext, ops: Vec<Op>) -> Result<u64, String> {
    ctx.try_with_tx(|tx| {
        let count = perform(tx, &ops);
        Err(format!("there were {count}"))
    })
}

/// Fails in its second transaction.
#[procedure]
fn explode(ctx: &mut ProcedureContext, ops: Vec<Op>) {
    ctx.with_tx(|tx| perform(tx, &ops));
    ctx.with_tx(|tx| {
        perform(tx, &ops);
        panic!("as it should");
    })
}

#[procedure]
fn count(ctx: &mut ProcedureContext) -> u64 {
    ctx.with_tx(|tx| tx.db.item().count())
}

#[derive(SpacetimeType)]
pub struct Caller {
    identity: Identity,
    has_connection: bool,
    subject: Option<String>,
}

/// Whom it takes its caller for, and what the caller's token says.
#[procedure]
fn caller(ctx: &mut ProcedureContext) -> Caller {
    let subject = |tx: &TxContext| tx.sender_auth().jwt().map(|jwt| jwt.subject().to_owned());
    let subject = ctx.with_tx(subject);
    Caller { identity: ctx.sender(), has_connection: ctx.connection_id().is_some(), subject }
}

/// Sleeps with a transaction open, which would stop the database for good.
#[procedure]
fn hold(ctx: &mut ProcedureContext) {
    ctx.with_tx(|tx| {
        let until = tx.timestamp + Duration::from_secs(60);
        spacetimedb::sys::procedure::sleep_until(until.to_micros_since_unix_epoch());
    });
}

/// Never ends.
#[procedure]
fn spin(_ctx: &mut ProcedureContext) -> u64 {
    let mut n = 1_u64;
    loop {
        n = std::hint::black_box(n.wrapping_mul(3));
        if n == 0 {
            return n;
        }
    }
}

/// Never ends, with a transaction open.
#[procedure]
fn spin_within(ctx: &mut ProcedureContext) -> u64 {
    ctx.with_tx(|_| toil(u64::MAX))
}

/// Never ends: again and again has a transaction that only reads, and takes so many rounds.
#[procedure]
fn look_on(ctx: &mut ProcedureContext, rounds: u64) {
    loop {
        ctx.with_tx(|tx| tx.db.item().count() + toil(rounds));
    }
}

/// Computes for so many rounds, and rests, again and again.
#[procedure]
fn toil_on(ctx: &mut ProcedureContext, times: u32, rounds: u64) -> u64 {
    let mut n = 0;
    for _ in 0..times {
        n ^= toil(rounds);
        ctx.sleep_until(Timestamp::UNIX_EPOCH);
    }
    n
}

fn toil(rounds: u64) -> u64 {
    (0..rounds).fold(1, |n, _| std::hint::black_box(n.wrapping_mul(3)))
}

/// Writes what names it makes up.
#[reducer]
pub fn make_names(ctx: &ReducerContext) {
    for uuid in [ctx.new_uuid_v4(), ctx.new_uuid_v7(), ctx.new_uuid_v7()] {
        let text = uuid.map(|it| it.to_string()).unwrap_or_else(|error| error.to_string());
        ctx.db.note().insert(Note { text });
    }
}

#[procedure]
fn fetch(ctx: &mut ProcedureContext, url: String) -> Result<String, String> {
    let response = ctx.http.get(url).map_err(|error| error.to_string())?;
    Ok(response.into_body().into_string_lossy())
}

#[procedure]
fn now(ctx: &mut ProcedureContext) -> Timestamp {
    ctx.timestamp
}

/// A procedure to come. When it is due stands behind a text.
#[table(accessor = alarm, scheduled(ring), public)]
pub struct Alarm {
    name: String,
    #[primary_key]
    #[auto_inc]
    scheduled_id: u64,
    scheduled_at: ScheduleAt,
    payload: String,
}

/// One that has begun.
#[table(accessor = rung, public)]
pub struct Rung {
    #[primary_key]
    #[auto_inc]
    id: u64,
    alarm: String,
    scheduled_id: u64,
    /// How many bytes its payload had.
    bytes: u64,
    /// When it was due, if it was for one time.
    due: Option<Timestamp>,
    at: Timestamp,
    by: Identity,
    connected: bool,
    /// Whether its row was there still.
    stands: bool,
}

fn schedule(ctx: &ReducerContext, name: impl Into<String>, scheduled_at: impl Into<ScheduleAt>, payload: String) {
    let (name, scheduled_at) = (name.into(), scheduled_at.into());
    ctx.db.alarm().insert(Alarm { name, scheduled_id: 0, scheduled_at, payload });
}

/// Schedules a procedure for one time, with a payload of so many bytes.
#[reducer]
pub fn alarm_once(ctx: &ReducerContext, name: String, after_us: i64, bytes: u32) {
    let at = ctx.timestamp + TimeDuration::from_micros(after_us);
    schedule(ctx, name, at, "x".repeat(bytes as usize));
}

/// Schedules one again and again.
#[reducer]
pub fn alarm_every(ctx: &ReducerContext, name: String, interval_us: i64) {
    schedule(ctx, name, TimeDuration::from_micros(interval_us), String::new());
}

/// Schedules many, each a moment after the one before.
#[reducer]
pub fn alarm_many(ctx: &ReducerContext, count: u32, after_us: i64, step_us: i64) {
    for nth in 0..i64::from(count) {
        let at = ctx.timestamp + TimeDuration::from_micros(after_us + nth * step_us);
        schedule(ctx, format!("many {nth}"), at, String::new());
    }
}

/// Cancels those of a name.
#[reducer]
pub fn alarm_off(ctx: &ReducerContext, name: String) {
    let alarms: Vec<Alarm> = ctx.db.alarm().iter().filter(|alarm| alarm.name == name).collect();
    for alarm in alarms {
        ctx.db.alarm().scheduled_id().delete(alarm.scheduled_id);
    }
}

/// Moves those of a name by an hour.
#[reducer]
pub fn alarm_later(ctx: &ReducerContext, name: String) {
    let alarms: Vec<Alarm> = ctx.db.alarm().iter().filter(|alarm| alarm.name == name).collect();
    for alarm in alarms {
        let scheduled_at = (ctx.timestamp + Duration::from_secs(3_600)).into();
        ctx.db.alarm().scheduled_id().update(Alarm { scheduled_at, ..alarm });
    }
}

/// What is scheduled. By its name it panics afterwards, or rests and writes a second time; or it does nothing at all. Nobody hears
/// what it returns.
#[procedure]
fn ring(ctx: &mut ProcedureContext, alarm: Alarm) -> String {
    if alarm.name == "silent" {
        return alarm.name;
    }
    let due = match alarm.scheduled_at {
        ScheduleAt::Time(at) => Some(at),
        ScheduleAt::Interval(_) => None,
    };
    let (by, connected) = (ctx.sender(), ctx.connection_id().is_some());
    ctx.with_tx(|tx| {
        let stands = tx.db.alarm().scheduled_id().find(alarm.scheduled_id).is_some();
        tx.db.rung().insert(Rung {
            id: 0,
            alarm: alarm.name.clone(),
            scheduled_id: alarm.scheduled_id,
            bytes: alarm.payload.len() as u64,
            due,
            at: tx.timestamp,
            by,
            connected,
            stands,
        });
    });
    match alarm.name.as_str() {
        "panics" => panic!("as was asked for"),
        "rests" => {
            ctx.sleep_until(ctx.timestamp + Duration::from_millis(50));
            ctx.with_tx(|tx| tx.db.note().insert(Note { text: "rested".to_owned() }));
        }
        _ => {}
    }
    alarm.name
}
