//! The demo module: a little of everything that would make replicas differ if calls were only forwarded, namely
//! timestamps, random numbers, generated ids, lifecycle reducers, and calls that fail half way.

use spacetimedb::{rand::Rng, reducer, table, ConnectionId, Identity, ReducerContext, Table, Timestamp};

/// What most calls write: a generated id, the call's time, and its caller.
#[table(name = counter, public)]
pub struct Counter {
    #[primary_key]
    #[auto_inc]
    id: u64,
    name: String,
    value: i64,
    at: Timestamp,
    by: Identity,
}

/// Random values, and a generated id that stands after a string.
#[table(name = dice, public)]
pub struct Dice {
    label: String,
    #[primary_key]
    #[auto_inc]
    id: u32,
    face: u8,
    seed: u64,
}

/// One row a caller, changed in place, with a name that no two share.
#[table(name = account, public)]
pub struct Account {
    #[primary_key]
    owner: Identity,
    #[unique]
    name: String,
    balance: i64,
    changed: Timestamp,
}

/// Two generated columns, after an array, an option and a fixed-size column.
#[table(name = note, public)]
pub struct Note {
    tags: Vec<String>,
    author: Option<Identity>,
    at: Timestamp,
    #[primary_key]
    #[auto_inc]
    id: i16,
    text: String,
    #[unique]
    #[auto_inc]
    serial: u128,
}

/// Who is connected now.
#[table(name = presence, public)]
pub struct Presence {
    #[primary_key]
    connection: ConnectionId,
    who: Identity,
    since: Timestamp,
}

/// Who may not connect.
#[table(name = ban, public)]
pub struct Ban {
    #[primary_key]
    who: Identity,
}

/// Rows that only the owner sees.
#[table(name = secret)]
pub struct Secret {
    #[primary_key]
    #[auto_inc]
    id: u64,
    text: String,
}

fn insert_counter(ctx: &ReducerContext, name: impl Into<String>, value: i64) {
    let (name, at, by) = (name.into(), ctx.timestamp, ctx.sender);
    ctx.db.counter().insert(Counter { id: 0, name, value, at, by });
}

#[reducer(init)]
pub fn init(ctx: &ReducerContext) {
    insert_counter(ctx, "init", ctx.random());
}

/// Refuses banned callers.
#[reducer(client_connected)]
pub fn connected(ctx: &ReducerContext) -> Result<(), String> {
    if ctx.db.ban().who().find(ctx.sender).is_some() {
        return Err("you are banned".into());
    }
    let connection = ctx.connection_id.ok_or("no connection id")?;
    ctx.db.presence().insert(Presence { connection, who: ctx.sender, since: ctx.timestamp });
    Ok(())
}

#[reducer(client_disconnected)]
pub fn disconnected(ctx: &ReducerContext) {
    if let Some(connection) = ctx.connection_id {
        ctx.db.presence().connection().delete(connection);
    }
}

/// The light call of the benchmarks: one row.
#[reducer]
pub fn add(ctx: &ReducerContext, name: String, value: i64) -> Result<(), String> {
    if name.is_empty() {
        return Err("name required".into());
    }
    insert_counter(ctx, name, value);
    Ok(())
}

/// Many rows in one call.
#[reducer]
pub fn add_many(ctx: &ReducerContext, name: String, count: u32) {
    for value in 0..i64::from(count) {
        insert_counter(ctx, name.clone(), value);
    }
}

#[reducer]
pub fn set(ctx: &ReducerContext, id: u64, value: i64) -> Result<(), String> {
    let counter = ctx.db.counter().id().find(id).ok_or_else(|| format!("no counter {id}"))?;
    ctx.db.counter().id().update(Counter { value, at: ctx.timestamp, by: ctx.sender, ..counter });
    Ok(())
}

#[reducer]
pub fn remove(ctx: &ReducerContext, id: u64) -> Result<(), String> {
    if ctx.db.counter().id().delete(id) { Ok(()) } else { Err(format!("no counter {id}")) }
}

#[reducer]
pub fn roll(ctx: &ReducerContext, label: String) {
    let face = ctx.rng().gen_range(1..=6);
    ctx.db.dice().insert(Dice { label, id: 0, face, seed: ctx.random() });
}

#[reducer]
pub fn open_account(ctx: &ReducerContext, name: String) -> Result<(), String> {
    let account = Account { owner: ctx.sender, name, balance: 0, changed: ctx.timestamp };
    ctx.db.account().try_insert(account).map(drop).map_err(|error| error.to_string())
}

#[reducer]
pub fn deposit(ctx: &ReducerContext, amount: i64) -> Result<(), String> {
    let account = ctx.db.account().owner().find(ctx.sender).ok_or("no account")?;
    let balance = account.balance.checked_add(amount).ok_or("too much")?;
    ctx.db.account().owner().update(Account { balance, changed: ctx.timestamp, ..account });
    Ok(())
}

#[reducer]
pub fn write_note(ctx: &ReducerContext, text: String, tags: Vec<String>, signed: bool) {
    let author = signed.then_some(ctx.sender);
    ctx.db.note().insert(Note { tags, author, at: ctx.timestamp, id: 0, text, serial: 0 });
}

#[reducer]
pub fn ban_identity(ctx: &ReducerContext, who: Identity) {
    ctx.db.ban().who().delete(who);
    ctx.db.ban().insert(Ban { who });
}

#[reducer]
pub fn lift_ban(ctx: &ReducerContext, who: Identity) {
    ctx.db.ban().who().delete(who);
}

#[reducer]
pub fn keep_secret(ctx: &ReducerContext, text: String) {
    ctx.db.secret().insert(Secret { id: 0, text });
}

/// Writes, then fails: nothing of it may stay.
#[reducer]
pub fn fail(ctx: &ReducerContext, message: String) -> Result<(), String> {
    insert_counter(ctx, "never seen", 0);
    Err(message)
}

/// Writes, then traps: nothing of it may stay, and the next call finds a new instance.
#[reducer]
pub fn explode(ctx: &ReducerContext) {
    insert_counter(ctx, "never seen", 0);
    panic!("boom");
}
