//! Reads rows in every way, and lets what is read first decide what is written: replicas whose rows come in different
//! orders do not stay the same for long. `step` is for tests, the reducers after it are for the benchmark.

use std::hint::black_box;

use spacetimedb::{reducer, table, ReducerContext, Table};

/// A primary key, and an index whose keys are shared.
#[table(name = keyed, public)]
#[derive(Clone)]
pub struct Keyed {
    #[primary_key]
    id: u64,
    #[index(btree)]
    team: u32,
    value: f32,
    text: String,
}

/// A unique column that is no primary key, and an index for single keys.
#[table(name = named, public)]
pub struct Named {
    score: f32,
    #[unique]
    name: String,
    #[index(btree)]
    tag: u8,
}

/// No unique column.
#[table(name = loose, public)]
pub struct Loose {
    text: String,
    #[index(btree)]
    team: u32,
    value: f32,
}

/// No unique column, and an index of two.
#[table(name = pair, public, index(name = by_pair, btree(columns = [a, b])))]
pub struct Pair {
    b: i32,
    text: Option<String>,
    a: u32,
}

/// A direct index.
#[table(name = slot, public)]
pub struct Slot {
    value: f32,
    #[unique]
    #[index(direct)]
    at: u32,
}

/// What was read, a row for each of some rows.
#[table(name = echo, public)]
pub struct Echo {
    #[primary_key]
    #[auto_inc]
    id: u64,
    text: String,
}

/// A row for each walk over all tables.
#[table(name = trace, public)]
pub struct Trace {
    #[primary_key]
    #[auto_inc]
    id: u64,
    order: u64,
    sum: f32,
}

/// What a call does comes from its argument.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u32) -> u32 {
        self.0 = self.0.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        ((self.0 >> 33) % u64::from(end)) as u32
    }

    fn value(&mut self) -> f32 {
        self.below(1_000_000) as f32 / 7.0 - 50_000.0
    }

    fn text(&mut self) -> String {
        "x".repeat(self.below(40) as usize) + &self.below(1_000).to_string()
    }
}

/// Teams that share a key; most rows of `loose` are of the first.
const TEAMS: u32 = 5;

/// Changes rows at random, then walks over all tables.
#[reducer]
pub fn step(ctx: &ReducerContext, seed: u64, changes: u32) {
    let mut dice = Dice(seed);
    for _ in 0..changes {
        change(ctx, &mut dice);
    }
    walk(ctx, &mut dice);
}

/// The same, but it fails in the end.
#[reducer]
pub fn fail(ctx: &ReducerContext, seed: u64, changes: u32) -> Result<(), String> {
    step(ctx, seed, changes);
    Err("as it should".into())
}

/// The same, but it traps in the end: the next call finds a new instance.
#[reducer]
pub fn explode(ctx: &ReducerContext, seed: u64, changes: u32) {
    step(ctx, seed, changes);
    panic!("as it should");
}

/// Many rows of one key.
#[reducer]
pub fn flood(ctx: &ReducerContext, seed: u64, rows: u32) {
    let mut dice = Dice(seed);
    for _ in 0..rows {
        ctx.db.loose().insert(Loose { text: dice.text(), team: 0, value: dice.value() });
    }
}

fn change(ctx: &ReducerContext, dice: &mut Dice) {
    match dice.below(13) {
        0..=2 => change_keyed(ctx, dice),
        3..=4 => change_named(ctx, dice),
        5..=9 => change_loose(ctx, dice),
        10 | 11 => change_pair(ctx, dice),
        _ => change_slot(ctx, dice),
    }
}

fn change_keyed(ctx: &ReducerContext, dice: &mut Dice) {
    let (keyed, id, team) = (ctx.db.keyed(), u64::from(dice.below(300)), dice.below(TEAMS));
    let new = Keyed { id, team, value: dice.value(), text: dice.text() };
    match dice.below(6) {
        0 => {
            keyed.id().delete(id);
        }
        1 if keyed.id().find(id).is_some() => {
            keyed.id().update(new);
        }
        2 => {
            // The first of a team changes its team, and thereby its place.
            if let Some(first) = keyed.team().filter(team).next() {
                keyed.id().update(Keyed { team: dice.below(TEAMS), value: new.value, ..first });
            }
        }
        3 if dice.below(20) == 0 => {
            keyed.team().delete(team);
        }
        4 => {
            let over = keyed.team().filter(team..).find(|row| row.value > new.value);
            over.map(|row| keyed.id().delete(row.id));
        }
        _ => drop(keyed.try_insert(new)),
    }
}

fn change_named(ctx: &ReducerContext, dice: &mut Dice) {
    let (named, tag) = (ctx.db.named(), dice.below(4) as u8);
    let new = Named { score: dice.value(), name: format!("{:03}", dice.below(150)), tag };
    match dice.below(4) {
        0 => {
            named.name().delete(&new.name);
        }
        1 => {
            named.name().delete(&new.name);
            named.insert(new);
        }
        2 => {
            if let Some(first) = named.tag().filter(tag).next() {
                named.name().delete(&first.name);
                named.insert(Named { tag: dice.below(4) as u8, ..first });
            }
        }
        _ => drop(named.try_insert(new)),
    }
}

fn change_loose(ctx: &ReducerContext, dice: &mut Dice) {
    let (loose, team) = (ctx.db.loose(), dice.below(TEAMS).saturating_sub(2));
    match dice.below(6) {
        0 => drop(loose.iter().next().map(|first| loose.delete(first))),
        1 => drop(loose.team().filter(team).next().map(|first| loose.delete(first))),
        2 => {
            let limit = dice.value();
            if let Some(row) = loose.team().filter(team..).find(|row| row.value > limit) {
                let moved = Loose { text: dice.text(), team: row.team, value: limit };
                loose.delete(row);
                loose.insert(moved);
            }
        }
        3 if dice.below(60) == 0 => {
            loose.team().delete(team + 1);
        }
        _ => {
            loose.insert(Loose { text: dice.text(), team, value: dice.value() });
        }
    }
}

fn change_pair(ctx: &ReducerContext, dice: &mut Dice) {
    let (pair, a, b) = (ctx.db.pair(), dice.below(4), dice.below(6) as i32 - 3);
    match dice.below(5) {
        0 => drop(pair.by_pair().filter((a, b..)).next().map(|first| pair.delete(first))),
        1 => {
            // Each row of one table with those of another, and back again.
            let mut sum = 0.0;
            for outer in pair.by_pair().filter(a) {
                for inner in ctx.db.loose().team().filter(outer.a) {
                    sum += inner.value;
                    if inner.text.len() % 7 == outer.b.rem_euclid(7) as usize {
                        break;
                    }
                }
            }
            trace(ctx, 0, sum);
        }
        2 => drop(pair.iter().last().map(|last| pair.delete(last))),
        _ => {
            let text = (dice.below(3) > 0).then(|| dice.text());
            pair.insert(Pair { b, text, a });
        }
    }
}

fn change_slot(ctx: &ReducerContext, dice: &mut Dice) {
    let (slot, at) = (ctx.db.slot(), dice.below(200));
    let new = Slot { value: dice.value(), at };
    if !slot.at().delete(at) || dice.below(2) == 0 {
        slot.insert(new);
    }
}

/// Writes down in which order rows come: their sum, and a hash of them.
fn walk(ctx: &ReducerContext, dice: &mut Dice) {
    let mut walk = Walk::default();
    ctx.db.keyed().iter().for_each(|row| walk.row(&row.text, row.value));
    ctx.db.named().iter().for_each(|row| walk.row(&row.name, row.score));
    ctx.db.loose().iter().for_each(|row| walk.row(&row.text, row.value));
    ctx.db.pair().iter().for_each(|row| walk.row(row.text.as_deref().unwrap_or("-"), row.b as f32 / 3.0));
    ctx.db.slot().iter().for_each(|row| walk.row("", row.value + row.at as f32));
    ctx.db.loose().team().filter(0_u32..).for_each(|row| walk.row(&row.text, row.value));
    ctx.db.keyed().team().filter(dice.below(TEAMS)).for_each(|row| walk.row(&row.text, row.value));
    ctx.db.named().tag().filter(dice.below(4) as u8).for_each(|row| walk.row(&row.name, row.score));
    trace(ctx, walk.order, walk.sum);

    let (some, echo) = (dice.below(6) as usize, ctx.db.echo());
    for row in ctx.db.loose().iter().take(some) {
        let new = echo.insert(Echo { id: 0, text: row.text });
        echo.id().delete(new.id.saturating_sub(200));
    }
}

fn trace(ctx: &ReducerContext, order: u64, sum: f32) {
    let new = ctx.db.trace().insert(Trace { id: 0, order, sum });
    ctx.db.trace().id().delete(new.id.saturating_sub(200));
}

#[derive(Default)]
struct Walk {
    order: u64,
    sum: f32,
}

impl Walk {
    fn row(&mut self, text: &str, value: f32) {
        self.sum += value;
        for byte in text.bytes().chain(value.to_le_bytes()) {
            self.order = (self.order ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

/// Empties `keyed` and `loose` and fills them with so many rows, in no order, a thousand of a team in the one and ten in
/// the other.
#[reducer]
pub fn fill(ctx: &ReducerContext, rows: u32) {
    let (keyed, loose) = (ctx.db.keyed(), ctx.db.loose());
    for row in keyed.iter().collect::<Vec<_>>() {
        keyed.id().delete(row.id);
    }
    for row in loose.iter().collect::<Vec<_>>() {
        loose.delete(row);
    }
    for n in 0..rows {
        // A prime that divides no such number gives each id once.
        let id = (u64::from(n) * 7_919) % u64::from(rows);
        let text = format!("the text of {id:>8}");
        keyed.insert(Keyed { id, team: n / 1_000, value: n as f32, text: text.clone() });
        loose.insert(Loose { text, team: n / 10, value: n as f32 });
    }
}

#[reducer]
pub fn scan_keyed(ctx: &ReducerContext, times: u32) {
    for _ in 0..times {
        ctx.db.keyed().iter().for_each(|row| drop(black_box(row)));
    }
}

#[reducer]
pub fn scan_loose(ctx: &ReducerContext, times: u32) {
    for _ in 0..times {
        ctx.db.loose().iter().for_each(|row| drop(black_box(row)));
    }
}

#[reducer]
pub fn filter_keyed(ctx: &ReducerContext, times: u32) {
    for team in 0..times {
        ctx.db.keyed().team().filter(team % 10).for_each(|row| drop(black_box(row)));
    }
}

#[reducer]
pub fn filter_loose(ctx: &ReducerContext, times: u32) {
    for team in 0..times {
        ctx.db.loose().team().filter(team % 1_000).for_each(|row| drop(black_box(row)));
    }
}

#[reducer]
pub fn find_keyed(ctx: &ReducerContext, times: u32) {
    for id in 0..u64::from(times) {
        black_box(ctx.db.keyed().id().find(id * 7_919 % 10_000));
    }
}
