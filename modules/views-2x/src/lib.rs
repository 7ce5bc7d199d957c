//! Views of every kind, and views that fail: what they do must not decide what the reducers do.

use spacetimedb::{reducer, table, view, AnonymousViewContext, Identity, Query, ReducerContext, Table, ViewContext};

/// Who plays. `team` is read by views that see many players.
#[table(accessor = player, public)]
#[derive(Clone)]
pub struct Player {
    #[primary_key]
    identity: Identity,
    name: String,
    score: i64,
    #[index(btree)]
    team: u8,
}

/// What `notes` shows, by a query.
#[table(accessor = note, public)]
pub struct Note {
    #[primary_key]
    #[auto_inc]
    id: u64,
    text: String,
}

/// Makes a view misbehave while it has a row of this number.
#[table(accessor = switch, public)]
pub struct Switch {
    #[primary_key]
    id: u8,
}

/// `stuck` never returns.
const STUCK: u8 = 1;
/// `broken` panics.
const BROKEN: u8 = 2;
/// The team that everybody is in, and that `team` shows.
const TEAM: u8 = 7;

#[reducer]
pub fn join(ctx: &ReducerContext, name: String) {
    ctx.db.player().insert(Player { identity: ctx.sender(), name, score: 0, team: TEAM });
}

#[reducer]
pub fn leave(ctx: &ReducerContext) -> Result<(), String> {
    if ctx.db.player().identity().delete(ctx.sender()) { Ok(()) } else { Err("no player".into()) }
}

#[reducer]
pub fn score(ctx: &ReducerContext, by: i64) -> Result<(), String> {
    let player = ctx.db.player().identity().find(ctx.sender()).ok_or("no player")?;
    ctx.db.player().identity().update(Player { score: player.score + by, ..player });
    Ok(())
}

#[reducer]
pub fn write(ctx: &ReducerContext, text: String) {
    ctx.db.note().insert(Note { id: 0, text });
}

#[reducer]
pub fn switch_on(ctx: &ReducerContext, id: u8) {
    ctx.db.switch().insert(Switch { id });
}

#[reducer]
pub fn switch_off(ctx: &ReducerContext, id: u8) {
    ctx.db.switch().id().delete(id);
}

/// Fails when the player has left.
#[view(accessor = my_player, public)]
fn my_player(ctx: &ViewContext) -> Option<Player> {
    Some(ctx.db.player().identity().find(ctx.sender()).expect("a player"))
}

/// Never fails: one sender's own score.
#[view(accessor = my_score, public)]
fn my_score(ctx: &ViewContext) -> Option<Player> {
    ctx.db.player().identity().find(ctx.sender())
}

#[view(accessor = team, public)]
fn team(ctx: &AnonymousViewContext) -> Vec<Player> {
    ctx.db.player().team().filter(TEAM).collect()
}

#[view(accessor = notes, public)]
fn notes(ctx: &ViewContext) -> impl Query<Note> {
    ctx.from.note()
}

#[view(accessor = stuck, public)]
fn stuck(ctx: &AnonymousViewContext) -> Vec<Switch> {
    let switch = ctx.db.switch().id().find(STUCK);
    while switch.is_some() {
        std::hint::spin_loop();
    }
    Vec::new()
}

#[view(accessor = broken, public)]
fn broken(ctx: &AnonymousViewContext) -> Vec<Switch> {
    assert!(ctx.db.switch().id().find(BROKEN).is_none(), "broken");
    vec![Switch { id: 0 }]
}
