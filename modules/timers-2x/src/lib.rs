//! Calls that fall due: once and again and again, made by `init` and by reducers, moved and cancelled; some of them fail,
//! and what they have run with is written down. So are calls that are made right after, by
//! `volatile_nonatomic_schedule_immediate`.

use std::time::Duration;

use spacetimedb::{
    reducer, table, volatile_nonatomic_schedule_immediate, Identity, ReducerContext, ScheduleAt, Table, TimeDuration,
    Timestamp,
};

/// A call to come. When it is due stands behind a text.
#[table(accessor = job, scheduled(run), public)]
pub struct Job {
    name: String,
    #[primary_key]
    #[auto_inc]
    scheduled_id: u64,
    scheduled_at: ScheduleAt,
    payload: String,
}

/// A call that has run.
#[table(accessor = ran, public)]
pub struct Ran {
    #[primary_key]
    #[auto_inc]
    id: u64,
    job: String,
    scheduled_id: u64,
    /// How many bytes its payload had.
    bytes: u64,
    /// When it was due, if it was for one time.
    due: Option<Timestamp>,
    at: Timestamp,
    by: Identity,
    connected: bool,
}

fn insert(ctx: &ReducerContext, name: impl Into<String>, scheduled_at: impl Into<ScheduleAt>, payload: String) {
    let (name, scheduled_at) = (name.into(), scheduled_at.into());
    ctx.db.job().insert(Job { name, scheduled_id: 0, scheduled_at, payload });
}

fn after(ctx: &ReducerContext, micros: i64) -> Timestamp {
    ctx.timestamp + TimeDuration::from_micros(micros)
}

fn note(ctx: &ReducerContext, job: &Job, due: Option<Timestamp>) {
    ctx.db.ran().insert(Ran {
        id: 0,
        job: job.name.clone(),
        scheduled_id: job.scheduled_id,
        bytes: job.payload.len() as u64,
        due,
        at: ctx.timestamp,
        by: ctx.sender(),
        connected: ctx.connection_id().is_some(),
    });
}

#[reducer(init)]
pub fn init(ctx: &ReducerContext) {
    insert(ctx, "first", ctx.timestamp, String::new());
    insert(ctx, "pulse", Duration::from_millis(200), String::new());
}

/// Schedules a call for one time.
#[reducer]
pub fn once(ctx: &ReducerContext, name: String, after_us: i64) {
    insert(ctx, name, after(ctx, after_us), String::new());
}

/// The same, with a payload of so many bytes.
#[reducer]
pub fn heavy(ctx: &ReducerContext, name: String, bytes: u32) {
    insert(ctx, name, ctx.timestamp, "x".repeat(bytes as usize));
}

/// Schedules a call again and again.
#[reducer]
pub fn every(ctx: &ReducerContext, name: String, interval_us: i64) {
    insert(ctx, name, TimeDuration::from_micros(interval_us), String::new());
}

/// Schedules many calls, each a moment after the one before.
#[reducer]
pub fn many(ctx: &ReducerContext, count: u32, after_us: i64, step_us: i64) {
    for nth in 0..i64::from(count) {
        insert(ctx, format!("many {nth}"), after(ctx, after_us + nth * step_us), String::new());
    }
}

/// Moves the calls of a name.
#[reducer]
pub fn postpone(ctx: &ReducerContext, name: String, after_us: i64) {
    let jobs: Vec<Job> = ctx.db.job().iter().filter(|job| job.name == name).collect();
    for job in jobs {
        ctx.db.job().scheduled_id().update(Job { scheduled_at: after(ctx, after_us).into(), ..job });
    }
}

/// Cancels the calls of a name.
#[reducer]
pub fn cancel(ctx: &ReducerContext, name: String) {
    let jobs: Vec<Job> = ctx.db.job().iter().filter(|job| job.name == name).collect();
    for job in jobs {
        ctx.db.job().scheduled_id().delete(job.scheduled_id);
    }
}

/// What is scheduled. By its name it fails, panics, takes its time, or schedules another call.
#[reducer]
pub fn run(ctx: &ReducerContext, job: Job) -> Result<(), String> {
    let due = match job.scheduled_at {
        ScheduleAt::Time(at) => Some(at),
        ScheduleAt::Interval(_) => None,
    };
    note(ctx, &job, due);
    match job.name.as_str() {
        "fails" => return Err("as was asked for".to_owned()),
        "panics" => panic!("as was asked for"),
        "slow" => {
            let mut sum = 0_u64;
            (0..100_000_000_u64).for_each(|n| sum = std::hint::black_box(sum ^ n));
        }
        "chain" => insert(ctx, "link", after(ctx, 1_000), String::new()),
        "moves itself" => {
            let later = after(ctx, 3_600_000_000);
            ctx.db.job().scheduled_id().update(Job { scheduled_at: later.into(), ..job });
        }
        _ => {}
    }
    Ok(())
}

/// Has `soon` called right after, so many times.
#[reducer]
pub fn at_once(_ctx: &ReducerContext, name: String, count: u32) {
    for nth in 0..count {
        volatile_nonatomic_schedule_immediate!(soon(format!("{name} {nth}"), 0));
    }
}

/// The same with an argument of so many bytes.
#[reducer]
pub fn at_once_with(_ctx: &ReducerContext, bytes: u32) {
    volatile_nonatomic_schedule_immediate!(soon("x".repeat(bytes as usize), 0));
}

/// Has it called, and fails.
#[reducer]
pub fn at_once_in_vain(_ctx: &ReducerContext, name: String) -> Result<(), String> {
    volatile_nonatomic_schedule_immediate!(soon(name, 0));
    Err("as was asked for".to_owned())
}

/// What is called right after, and has itself called again so many times. By its name it fails or panics.
#[reducer]
pub fn soon(ctx: &ReducerContext, name: String, again: u32) -> Result<(), String> {
    let scheduled_at = ctx.timestamp.into();
    let job = Job { name, scheduled_id: 0, scheduled_at, payload: String::new() };
    note(ctx, &job, None);
    if again > 0 {
        volatile_nonatomic_schedule_immediate!(soon(job.name.clone(), again - 1));
    }
    match job.name.as_str() {
        "fails 0" => Err("as was asked for".to_owned()),
        "panics 0" => panic!("as was asked for"),
        _ => Ok(()),
    }
}
