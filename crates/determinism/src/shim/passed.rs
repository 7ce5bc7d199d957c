//! Rows that the call has deleted. They stay where they were until the call ends, and each scan passes over those in its
//! way, which takes time and gives nothing that could be charged. How many those are is not known, but how many there can
//! be: as many as the call has deleted from the table, or none if the scan is for the one row of a unique key.

use walrus::ir::BinaryOp;
use walrus::{FunctionId, LocalId, MemoryId, Module};

use super::emit::{Code, Emit, I32, function};
use super::ids::Ids;
use super::layout::{DELETED_BYTES, INDEX_DELETED, INDEX_ONE_ROW, Layout};
use super::scratch::Scratch;
use crate::meter::{Meter, PASSED_ROW};

/// The tag of `Bound::Included`.
const INCLUDED: i32 = 0;

/// What counts deleted rows, and charges for those that a scan may pass over.
#[derive(Clone, Copy)]
pub(super) struct Passed {
    scratch: Scratch,
    ids: Ids,
    /// The counters by ordinal, and how many bytes they have.
    counters: u32,
    bytes: u32,
    /// `charge(counter)`.
    charge: FunctionId,
    /// `is_point(start, start_len, end, end_len) -> i32`.
    is_point: FunctionId,
}

impl Passed {
    /// `memory` is the module's.
    pub(super) fn add(
        module: &mut Module,
        scratch: Scratch,
        memory: MemoryId,
        meter: Meter,
        ids: Ids,
        layout: &Layout,
    ) -> Self {
        Self {
            scratch,
            ids,
            counters: layout.deleted,
            bytes: layout.tables.len() as u32 * DELETED_BYTES,
            charge: function(module, [I32], &[], |code, [counter], locals| {
                let rows = locals.add(I32);
                code.local_get(counter).read32(scratch.memory, 0).local_set(rows);
                meter.charge_each(code, PASSED_ROW, rows);
            }),
            is_point: add_is_point(module, memory),
        }
    }

    /// A call begins.
    pub(super) fn begin(self, code: &mut Code<'_>) {
        self.scratch.at(code, self.counters);
        code.i32_const(0)
            .i32_const(self.bytes as i32)
            .memory_fill(self.scratch.memory);
    }

    /// Charges for what goes through the table of this ordinal.
    pub(super) fn through_table(self, code: &mut Code<'_>, ordinal: LocalId) {
        self.counter(code, ordinal);
        code.call(self.charge);
    }

    /// Charges for what goes through an index, which the module names: for one key of it, or for a range between bounds.
    /// Sets `counter` to that of the index's table.
    pub(super) fn through_index(
        self,
        code: &mut Code<'_>,
        index: LocalId,
        bounds: Option<[LocalId; 4]>,
        counter: LocalId,
    ) {
        let memory = self.scratch.memory;
        self.ids.describe(code, index);
        code.local_tee(counter).read32(memory, INDEX_ONE_ROW);
        if let Some(bounds) = bounds {
            for bound in bounds {
                code.local_get(bound);
            }
            code.call(self.is_point).binop(BinaryOp::I32And);
        }
        code.local_get(counter)
            .read32(memory, INDEX_DELETED)
            .plus(self.scratch.base)
            .local_set(counter);
        code.is_zero().when(|code| {
            code.local_get(counter).call(self.charge);
        });
    }

    /// Pushes the address of a counter.
    pub(super) fn counter(self, code: &mut Code<'_>, ordinal: LocalId) {
        code.local_get(ordinal)
            .i32_const(DELETED_BYTES as i32)
            .binop(BinaryOp::I32Mul)
            .plus(self.scratch.base + self.counters);
    }

    /// Counts rows, whose number `count` pushes.
    pub(super) fn deleted(self, code: &mut Code<'_>, counter: LocalId, count: impl FnOnce(&mut Code<'_>)) {
        let memory = self.scratch.memory;
        code.local_get(counter).local_get(counter).read32(memory, 0);
        count(code);
        code.add().write32(memory, 0);
    }
}

/// Whether two bounds leave one key: both are included, and the same.
fn add_is_point(module: &mut Module, memory: MemoryId) -> FunctionId {
    function(
        module,
        [I32; 4],
        &[I32],
        |code, [start, start_len, end, end_len], _| {
            let no = |code: &mut Code<'_>| {
                code.i32_const(0).return_();
            };
            code.local_get(start_len)
                .local_get(end_len)
                .binop(BinaryOp::I32Ne)
                .local_get(start_len)
                .is_zero()
                .binop(BinaryOp::I32Or)
                .when(no);
            code.local_get(start).read8(memory);
            code.i32_const(INCLUDED).binop(BinaryOp::I32Ne).when(no);
            code.local_get(start)
                .local_get(end)
                .binop(BinaryOp::I32Eq)
                .when(|code| {
                    code.i32_const(1).return_();
                });
            code.repeat(
                |code| {
                    code.local_get(end_len);
                },
                |code| {
                    code.local_get(start).read8(memory);
                    code.local_get(end).read8(memory);
                    code.binop(BinaryOp::I32Ne).when(no);
                    code.advance(start, 1).advance(end, 1);
                    code.local_get(end_len).i32_const(1).sub().local_set(end_len);
                },
            );
            code.i32_const(1);
        },
    )
}
