//! What host functions write to the module's memory.

use walrus::ir::BinaryOp;
use walrus::{LocalId, Module};

use super::Reset;
use super::memory::mark_range;
use crate::PrepareError;
use crate::emit::{Code, Emit, I32};
use crate::shim::{Imported, surround};

/// What a host function writes.
struct Written {
    /// The parameters that hold an address, each of a value smaller than what hangs over a block.
    values: &'static [usize],
    /// The parameters that hold a buffer's address, and that of its length.
    buffer: Option<[usize; 2]>,
    /// Whether the length says in the end how much of the buffer has been written; else it may be all.
    tells: bool,
}

/// What the host function of this name writes, and what the shim does in its place.
fn written(name: &str) -> Written {
    let values = |values| Written {
        values,
        buffer: None,
        tells: false,
    };
    let read = || Written {
        values: &[2],
        buffer: Some([1, 2]),
        tells: true,
    };
    // The shim fills in generated columns, wherever they are.
    let row = |values, buffer| Written {
        values,
        buffer: Some(buffer),
        tells: false,
    };
    match name {
        "identity" | "procedure_start_mut_tx" => values(&[0]),
        // Two sources.
        "procedure_http_request" => values(&[4]),
        "datastore_table_row_count"
        | "datastore_clear"
        | "datastore_table_scan_bsatn"
        | "get_jwt"
        | "bytes_source_remaining_length" => values(&[1]),
        "table_id_from_name" | "index_id_from_name" | "bytes_sink_write" => values(&[2]),
        "datastore_index_scan_point_bsatn"
        | "datastore_delete_by_index_scan_point_bsatn"
        | "datastore_delete_all_by_eq_bsatn" => values(&[3]),
        "datastore_index_scan_range_bsatn"
        | "datastore_btree_scan_bsatn"
        | "datastore_delete_by_index_scan_range_bsatn"
        | "datastore_delete_by_btree_scan_bsatn" => values(&[8]),
        "row_iter_bsatn_advance" | "bytes_source_read" => read(),
        "datastore_insert_bsatn" => row(&[2], [1, 2]),
        "datastore_update_bsatn" => row(&[3], [2, 3]),
        _ => values(&[]),
    }
}

/// Puts marks around the host functions that the module imports. What is returned stands for the same functions, and is
/// what the shim wraps in its turn: whatever it writes in their place is marked, too.
pub(crate) fn wrap(
    module: &mut Module,
    reset: Reset,
    imports: Vec<Imported>,
) -> Result<Vec<Imported>, PrepareError> {
    imports
        .into_iter()
        .map(|import| match written(&import.name) {
            Written {
                values: [],
                buffer: None,
                ..
            } => Ok(import),
            written => wrap_one(module, reset, import, &written),
        })
        .collect()
}

fn wrap_one(
    module: &mut Module,
    reset: Reset,
    import: Imported,
    written: &Written,
) -> Result<Imported, PrepareError> {
    let params = module.types.get(module.funcs.get(import.function).ty()).params();
    let mut addresses = written.values.iter().chain(written.buffer.iter().flatten());
    if !addresses.all(|param| params.get(*param) == Some(&I32)) {
        return Err(import.has_other_signature());
    }
    let [bytes, end] = [(); 2].map(|()| module.locals.add(I32));
    let before = |code: &mut Code<'_>, args: &[LocalId]| {
        if let Some([_, len_at]) = written.buffer {
            code.local_get(args[len_at])
                .read32(reset.own(), 0)
                .local_set(bytes);
        }
    };
    let after = |code: &mut Code<'_>, args: &[LocalId], _: &[LocalId]| {
        if let Some([at, len_at]) = written.buffer {
            if written.tells {
                at_most(code, reset, args[len_at], bytes, end);
            }
            mark_range(code, reset.dirty, args[at], bytes);
        }
        for at in written.values {
            code.local_get(args[*at]);
            reset.dirty.mark().into_iter().for_each(|it| {
                code.instr(it);
            });
        }
    };
    surround(module, import, before, after)
}

/// Lowers `bytes` to what stands at `len_at`, if that is less.
fn at_most(code: &mut Code<'_>, reset: Reset, len_at: LocalId, bytes: LocalId, end: LocalId) {
    code.local_get(len_at).read32(reset.own(), 0).local_tee(end);
    code.local_get(bytes)
        .local_get(end)
        .local_get(bytes)
        .binop(BinaryOp::I32LtU)
        .select(None)
        .local_set(bytes);
}
