//! What a procedure's transaction writes: each call of a host function that writes, as the module makes it, before numbers
//! are filled in, and what came of it. `replay` makes the calls again.
//!
//! It stands in a memory of its own, as the row of `rtdb_outbox`: the row's head, then a record for each call.

use walrus::ir::BinaryOp;
use walrus::{FunctionId, GlobalId, LocalId, MemoryId, Module, ValType};

use super::digest::Operation;
use super::emit::{Code, Emit, I32, I64, function, global};
use super::layout::OUTBOX_TABLE_ID;
use super::scan::reserve_pages;
use super::window::Window;
use crate::meter;
use crate::reset::PAGE_BYTES;

/// What a transaction may do at most, in bytes of its records: less than a call may have as arguments.
const BYTES_MAX: u32 = 24 * 1024 * 1024;
/// What the module's log says of one that does more.
const TOO_MUCH: &str = "a transaction of a procedure may write 24 MiB at most: split it";
const _: () = assert!(BYTES_MAX == 24 << 20);

/// The row's head: `run: u64, seq: u64, base: u64`, and the length of what follows.
const RUN: u32 = 0;
const SEQ: u32 = 8;
const BASE: u32 = 16;
const LEN: u32 = 24;
const RECORDS: u32 = 28;

/// A record: what was called, what it returned, the table or index, what else is no bytes, and three lengths of bytes, which
/// follow. All are of four bytes.
pub(super) const RECORD_ERRNO: u32 = 4;
pub(super) const RECORD_WHAT: u32 = 8;
pub(super) const RECORD_EXTRA: u32 = 12;
pub(super) const RECORD_LENGTHS: u32 = 16;
pub(super) const RECORD_BYTES: u32 = 28;

/// What is noted of a row that is due: that it is taken, in the place of a call. Its schedule is the table, its key the bytes.
pub(super) const TAKE: i32 = 7;
const _: () = assert!(TAKE > Operation::Clear as i32 && TAKE < Operation::Ask as i32);

/// Where the host finds the row for a moment, and its length: what stands there is put back.
const LENT_LEN: i32 = 8;
const LENT_ROW: u32 = 16;

/// Where the length of some bytes is told.
#[derive(Clone, Copy)]
enum Len {
    /// By this argument.
    Is(usize),
    /// At the address that this argument is.
    At(usize),
}

/// Which arguments of a host function say what.
struct Signature {
    extra: Option<usize>,
    bytes: &'static [(usize, Len)],
}

fn signature(operation: Operation) -> Signature {
    let (extra, bytes): (_, &[_]) = match operation {
        Operation::Insert | Operation::Ask => (None, &[(1, Len::At(2))]),
        Operation::Update => (Some(1), &[(2, Len::At(3))]),
        Operation::DeleteEqual | Operation::DeletePoint => (None, &[(1, Len::Is(2))]),
        Operation::DeleteRange => (Some(3), &[(1, Len::Is(2)), (4, Len::Is(5)), (6, Len::Is(7))]),
        Operation::Clear => (None, &[]),
    };
    Signature { extra, bytes }
}

/// What notes them.
#[derive(Clone, Copy)]
pub(super) struct Journal {
    memory: MemoryId,
    window: Window,
    /// Whether a transaction is open: what is written is noted.
    pub(super) open: GlobalId,
    /// The end of the records.
    end: GlobalId,
    /// `reserve(end)`: makes sure that there is memory up to there.
    reserve: FunctionId,
    /// `exceeded()`: says why, and traps.
    exceeded: FunctionId,
}

impl Journal {
    pub(super) fn add(module: &mut Module, window: Window) -> Self {
        let memory = module.memories.add_local(false, false, 1, None, None);
        let [open, end] = [(); 2].map(|()| global(module, I32));
        Self {
            memory,
            window,
            open,
            end,
            reserve: reserve_pages(module, memory),
            exceeded: meter::add_last_words(module, window.seen.memory, TOO_MUCH.to_owned()),
        }
    }

    /// A transaction begins: `run` and `base` push what they are called.
    pub(super) fn begin(
        self,
        code: &mut Code<'_>,
        run: impl FnOnce(&mut Code<'_>),
        base: impl FnOnce(&mut Code<'_>),
    ) {
        code.i32_const(0);
        run(code);
        code.write64(self.memory, RUN).i32_const(0);
        base(code);
        code.write64(self.memory, BASE);
        code.i32_const(RECORDS as i32).global_set(self.end);
        code.i32_const(1).global_set(self.open);
    }

    /// The transaction is over.
    pub(super) fn end(self, code: &mut Code<'_>) {
        code.i32_const(0).global_set(self.open);
    }

    /// Pushes whether nothing is noted.
    pub(super) fn is_empty(self, code: &mut Code<'_>) {
        code.global_get(self.end).is(RECORDS as i32);
    }

    /// Notes, before all else, that the row is taken which a schedule has under a key.
    pub(super) fn take(self, code: &mut Code<'_>, schedule: LocalId, id: LocalId) {
        let memory = self.memory;
        for (field, value) in [(0, TAKE), (RECORD_ERRNO, 0), (RECORD_EXTRA, 0)] {
            code.i32_const(RECORDS as i32).i32_const(value);
            code.write32(memory, field);
        }
        for (nth, bytes) in [8, 0, 0].into_iter().enumerate() {
            code.i32_const(RECORDS as i32).i32_const(bytes);
            code.write32(memory, RECORD_LENGTHS + 4 * nth as u32);
        }
        code.i32_const(RECORDS as i32).local_get(schedule);
        code.write32(memory, RECORD_WHAT);
        code.i32_const(RECORDS as i32).local_get(id);
        code.write64(memory, RECORD_BYTES);
        code.i32_const((RECORDS + RECORD_BYTES + 8) as i32)
            .global_set(self.end);
    }

    /// Notes the calls of a function that writes.
    pub(super) fn record(self, module: &mut Module, operation: Operation, write: FunctionId) -> FunctionId {
        match operation {
            Operation::Insert | Operation::Ask => self.add_record::<3>(module, operation, write),
            Operation::Update | Operation::DeleteEqual | Operation::DeletePoint => {
                self.add_record::<4>(module, operation, write)
            }
            Operation::DeleteRange => self.add_record::<9>(module, operation, write),
            Operation::Clear => self.add_record::<2>(module, operation, write),
        }
    }

    fn add_record<const N: usize>(
        self,
        module: &mut Module,
        operation: Operation,
        write: FunctionId,
    ) -> FunctionId {
        let Signature { extra, bytes } = signature(operation);
        let memory = self.memory;
        function(module, [ValType::I32; N], &[I32], |code, args, locals| {
            let [at, end, errno] = [(); 3].map(|()| locals.add(I32));
            let lengths: Vec<_> = bytes.iter().map(|_| locals.add(I32)).collect();
            code.global_get(self.open).when(|code| {
                code.global_get(self.end)
                    .local_tee(at)
                    .plus(RECORD_BYTES)
                    .local_set(end);
                for ((_, len), length) in bytes.iter().zip(&lengths) {
                    match *len {
                        Len::Is(arg) => code.local_get(args[arg]),
                        Len::At(arg) => code.local_get(args[arg]).read32(self.window.seen.memory, 0),
                    };
                    // So that no sum of a few wraps around.
                    code.local_tee(*length)
                        .i32_const(BYTES_MAX as i32)
                        .binop(BinaryOp::I32GtU)
                        .when(|code| {
                            code.call(self.exceeded);
                        });
                    code.local_get(end).local_get(*length).add().local_set(end);
                }
                code.local_get(end)
                    .i32_const((RECORDS + BYTES_MAX) as i32)
                    .binop(BinaryOp::I32GtU)
                    .when(|code| {
                        code.call(self.exceeded);
                    });
                code.local_get(end).call(self.reserve);
                code.local_get(at).i32_const(operation as i32).write32(memory, 0);
                for (field, arg) in [(RECORD_WHAT, Some(0)), (RECORD_EXTRA, extra)] {
                    code.local_get(at);
                    match arg {
                        Some(arg) => code.local_get(args[arg]),
                        None => code.i32_const(0),
                    };
                    code.write32(memory, field);
                }
                for nth in 0..3 {
                    code.local_get(at);
                    match lengths.get(nth) {
                        Some(length) => code.local_get(*length),
                        None => code.i32_const(0),
                    };
                    code.write32(memory, RECORD_LENGTHS + 4 * nth as u32);
                }
                code.local_get(at).plus(RECORD_BYTES).local_set(end);
                for ((arg, _), length) in bytes.iter().zip(&lengths) {
                    code.local_get(end).local_get(args[*arg]).local_get(*length);
                    code.memory_copy(self.window.seen.memory, memory);
                    code.local_get(end).local_get(*length).add().local_set(end);
                }
                code.local_get(end).global_set(self.end);
            });
            for arg in args {
                code.local_get(arg);
            }
            code.call(write).local_set(errno);
            code.global_get(self.open).when(|code| {
                code.local_get(at).local_get(errno).write32(memory, RECORD_ERRNO);
            });
            code.local_get(errno);
        })
    }

    /// `publish(seq)`: puts what is noted into `rtdb_outbox`, in the transaction that is open. The host finds it at the
    /// beginning of the module's memory for a moment.
    pub(super) fn add_publish(self, module: &mut Module, insert: FunctionId) -> FunctionId {
        let (memory, own) = (self.memory, self.window.seen.memory);
        function(module, [I64], &[], |code, [seq], locals| {
            let [bytes, lent] = [(); 2].map(|()| locals.add(I32));
            code.i32_const(0).local_get(seq).write64(memory, SEQ);
            code.global_get(self.end).local_set(bytes);
            code.i32_const(0).local_get(bytes).i32_const(RECORDS as i32);
            code.sub().write32(memory, LEN);
            code.local_get(bytes).plus(LENT_ROW).local_set(lent);
            let pages = |code: &mut Code<'_>| {
                code.local_get(lent)
                    .plus(PAGE_BYTES - 1)
                    .i32_const(PAGE_BYTES.ilog2() as i32)
                    .binop(BinaryOp::I32ShrU);
            };
            // The module does not see that its memory is larger, and what is there is zeros again.
            code.memory_size(own);
            pages(code);
            code.less().when(|code| {
                pages(code);
                code.memory_size(own).sub().memory_grow(own).is(-1).trap_if();
            });
            code.local_get(bytes).local_get(lent).add().call(self.reserve);
            code.local_get(bytes).i32_const(0).local_get(lent);
            code.memory_copy(own, memory);
            code.i32_const(LENT_LEN).local_get(bytes).write32(own, 0);
            code.i32_const(LENT_ROW as i32).i32_const(0).local_get(bytes);
            code.memory_copy(memory, own);
            self.window.own.get32(code, OUTBOX_TABLE_ID);
            code.i32_const(LENT_ROW as i32).i32_const(LENT_LEN);
            code.call(insert).must();
            code.i32_const(0).local_get(bytes).local_get(lent);
            code.memory_copy(memory, own);
        })
    }
}
