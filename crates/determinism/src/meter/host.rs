//! What host functions cost: each call of one, and what it reads, writes or goes through for it.

use walrus::ir::{BinaryOp, UnaryOp};
use walrus::{LocalId, MemoryId, Module};

use super::Meter;
use crate::PrepareError;
use crate::abi;
use crate::emit::{Code, Emit, I32};
use crate::shim::{Imported, surround};

/// The cheapest: nothing but the way to the host and back.
const CALL: u32 = 200;
/// Handing out rows or arguments, taking results.
const TRANSFER: u32 = 500;
/// Looking a name up that was not asked for before.
const LOOK_UP: u32 = 10_000;
/// Opening and closing an iterator.
const SCAN: u32 = 2_500;
/// Writing a row, and undoing that if the call fails.
const WRITE: u32 = 12_000;
/// Writing a line of the log.
const LOG: u32 = 40_000;
/// Each byte: it is copied, decoded, put in a row, folded into the digest.
const BYTE: u32 = 8;
/// Each byte of rows that are read: rows that are small take as long as others.
const READ_BYTE: u32 = 16;
/// Each row that is deleted, or looked for to be deleted.
const ROW: u32 = 2_000;

/// What a host function costs.
#[derive(Clone, Copy)]
struct Cost {
    units: u32,
    /// The parameters that are lengths.
    lengths: &'static [usize],
    /// The parameter that holds the address of the length of what is written.
    given_at: Option<usize>,
    /// The parameter that holds the address of a length: that of a buffer, and after the call of what is in it.
    taken_at: Option<usize>,
    /// The parameter that holds the address of a number of rows, if the call has succeeded.
    rows_at: Option<usize>,
    /// The parameter that holds the address of a number of rows, each of which is looked for whether it is there or not.
    listed_at: Option<usize>,
}

fn cost(name: &str) -> Cost {
    let fixed = |units, lengths| Cost {
        units,
        lengths,
        given_at: None,
        taken_at: None,
        rows_at: None,
        listed_at: None,
    };
    let giving = |units, at| Cost {
        given_at: Some(at),
        ..fixed(units, &[])
    };
    let taking = |at| Cost {
        taken_at: Some(at),
        ..fixed(TRANSFER, &[])
    };
    let deleting = |lengths, at| Cost {
        rows_at: Some(at),
        ..fixed(WRITE, lengths)
    };
    match name {
        "table_id_from_name" | "index_id_from_name" => fixed(LOOK_UP, &[1]),
        "console_timer_start" => fixed(TRANSFER, &[1]),
        "datastore_table_scan_bsatn" => fixed(SCAN, &[]),
        "datastore_index_scan_point_bsatn" => fixed(SCAN, &[2]),
        "datastore_index_scan_range_bsatn" | "datastore_btree_scan_bsatn" => fixed(SCAN, &[2, 5, 7]),
        "row_iter_bsatn_advance" | "bytes_source_read" => taking(2),
        "bytes_sink_write" => giving(TRANSFER, 2),
        "datastore_insert_bsatn" => giving(WRITE, 2),
        "datastore_update_bsatn" => giving(WRITE, 3),
        "datastore_delete_all_by_eq_bsatn" => Cost {
            listed_at: Some(1),
            ..fixed(WRITE, &[2])
        },
        "datastore_delete_by_index_scan_point_bsatn" => deleting(&[2], 3),
        "datastore_delete_by_index_scan_range_bsatn" | "datastore_delete_by_btree_scan_bsatn" => {
            deleting(&[2, 5, 7], 8)
        }
        "datastore_clear" => deleting(&[], 1),
        "console_log" => fixed(LOG, &[2, 4, 7]),
        "console_timer_end" => fixed(LOG, &[]),
        "get_jwt" | "procedure_start_mut_tx" | "procedure_commit_mut_tx" | "procedure_abort_mut_tx" => {
            fixed(WRITE, &[])
        }
        "procedure_http_request" => fixed(LOG, &[1, 3]),
        // The row comes, and goes again.
        abi::SCHEDULE_IMMEDIATE => fixed(2 * WRITE + LOOK_UP, &[1, 3]),
        _ => fixed(CALL, &[]),
    }
}

/// Has the host functions that the module imports charge for what they do. What is returned stands for the same
/// functions, and is what others wrap in their turn.
pub(crate) fn wrap(
    module: &mut Module,
    own: MemoryId,
    meter: Meter,
    imports: Vec<Imported>,
) -> Result<Vec<Imported>, PrepareError> {
    imports
        .into_iter()
        .map(|import| wrap_one(module, own, meter, import))
        .collect()
}

fn wrap_one(
    module: &mut Module,
    own: MemoryId,
    meter: Meter,
    import: Imported,
) -> Result<Imported, PrepareError> {
    let cost = cost(&import.name);
    let ty = module.types.get(module.funcs.get(import.function).ty());
    let addresses = [cost.given_at, cost.taken_at, cost.rows_at, cost.listed_at];
    let mut used = cost.lengths.iter().chain(addresses.iter().flatten());
    let tells = cost.rows_at.is_none() || ty.results() == [I32];
    if !tells || !used.all(|param| ty.params().get(*param) == Some(&I32)) {
        return Err(import.has_other_signature());
    }
    let [room, count] = [(); 2].map(|()| module.locals.add(I32));
    let before = |code: &mut Code<'_>, args: &[LocalId]| {
        if let Some(at) = cost.taken_at {
            code.local_get(args[at]).read32(own, 0).local_set(room);
            return;
        }
        meter.charge(code, |code| {
            code.i64_const(cost.units.into());
            for length in cost.lengths {
                code.local_get(args[*length]);
                add_each(code, BYTE);
            }
            if let Some(at) = cost.given_at {
                code.local_get(args[at]).read32(own, 0);
                add_each(code, BYTE);
            }
            if let Some(at) = cost.listed_at {
                code.local_get(args[at]).read32(own, 0);
                add_each(code, ROW);
            }
        });
    };
    let after = |code: &mut Code<'_>, args: &[LocalId], results: &[LocalId]| {
        if let Some(at) = cost.taken_at {
            code.local_get(args[at]).read32(own, 0).local_set(count);
            meter.charge(code, |code| {
                code.i64_const(cost.units.into());
                code.local_get(room)
                    .local_get(count)
                    .local_get(room)
                    .local_get(count);
                code.binop(BinaryOp::I32LtU).select(None);
                add_each(code, READ_BYTE);
            });
        }
        if let (Some(at), [errno]) = (cost.rows_at, results) {
            code.local_get(*errno).is_zero().when(|code| {
                meter.charge(code, |code| {
                    code.i64_const(0).local_get(args[at]).read32(own, 0);
                    add_each(code, ROW);
                });
            });
        }
    };
    surround(module, import, before, after)
}

/// Pops a count and a sum; pushes the sum with so much more for each.
fn add_each(code: &mut Code<'_>, units: u32) {
    code.unop(UnaryOp::I64ExtendUI32)
        .i64_const(units.into())
        .binop(BinaryOp::I64Mul)
        .binop(BinaryOp::I64Add);
}
