//! Calls that show what an instance remembers of earlier calls: the seeds of hash maps, statics, lazy values, what the
//! allocator hands out, the size of memory. On one server their rows depend on when it was started.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::OnceLock;

use spacetimedb::{reducer, table, ReducerContext, Table};

static COUNTER: AtomicU64 = AtomicU64::new(0);
static FIRST: OnceLock<u64> = OnceLock::new();

/// What a call has seen.
#[table(accessor = seen, public)]
pub struct Seen {
    #[primary_key]
    #[auto_inc]
    id: u64,
    what: String,
    value: u64,
}

/// A generated column that stands far from the row's beginning.
#[table(accessor = wide, public)]
pub struct Wide {
    text: String,
    #[primary_key]
    #[auto_inc]
    id: u64,
}

fn see(ctx: &ReducerContext, what: impl Into<String>, value: u64) {
    ctx.db.seen().insert(Seen { id: 0, what: what.into(), value });
}

fn leak(bytes: usize) -> u64 {
    vec![7_u8; bytes].leak().as_ptr() as u64
}

/// Does one of several things; some of them fail afterwards.
#[reducer]
pub fn stir(ctx: &ReducerContext, kind: u8, seed: u64) -> Result<(), String> {
    match kind {
        0 => {
            let map: HashMap<u64, String> = (0..8).map(|n| (seed ^ n, format!("key {n}"))).collect();
            map.into_iter().for_each(|(key, name)| see(ctx, name, key));
        }
        1 => see(ctx, "counter", COUNTER.fetch_add(1, Ordering::Relaxed)),
        2 => see(ctx, "first", *FIRST.get_or_init(|| seed)),
        3 => see(ctx, "leaked", leak(40 + (seed % 3_000) as usize)),
        4 => {
            see(ctx, "grown", leak(300_000));
            see(ctx, "pages", core::arch::wasm32::memory_size(0) as u64);
        }
        5 => {
            let wide = Wide { text: "wide ".repeat((seed % 1_000) as usize), id: 0 };
            let id = ctx.db.wide().insert(wide).id;
            see(ctx, "wide", id);
        }
        6 => {
            COUNTER.fetch_add(seed, Ordering::Relaxed);
            leak(100);
            return Err(format!("counter {}", COUNTER.load(Ordering::Relaxed)));
        }
        _ => {
            COUNTER.fetch_add(seed, Ordering::Relaxed);
            panic!("as was asked for");
        }
    }
    Ok(())
}
