//! A call that would never end is ended by its own code, at the same instruction on every replica.
//!
//! The rewritten module counts what it executes, in *units*: about one for each instruction. Each call begins with so
//! many of them, and traps when it has used them up; to the server that is a trap like any other. `functions` charges
//! for code, by what is written in it; `host` for what host functions do; the shim for ranges of memory, and for rows
//! that are sorted. Procedures are made to wait before it comes to that, see `pauses`. Start-up has no end to its units: it
//! is the same everywhere, and was tried before the module was published.

mod classes;
mod functions;
mod host;
mod pauses;
#[cfg(test)]
mod tests;
mod weights;

use walrus::ir::{BinaryOp, UnaryOp, Value};
use walrus::{ConstExpr, DataKind, FunctionId, GlobalId, LocalId, MemoryId, Module};

use crate::abi;
use crate::emit::{Code, Emit, I32, I64, function, global};

use self::classes::Class;
pub(crate) use self::host::wrap as wrap_host;
pub(crate) use self::pauses::Pauses;

/// A view may use this fraction of what a call may: it may be run again and again.
const VIEW_SHARE: u64 = 10;
/// All views together may use this fraction of it in a refresh that calls wait for: some 20 ms of ordinary code.
const BRIEF_SHARE: u64 = 500;
/// What the shim does for the module: a byte of rows that are fetched and sorted, such a row, a byte of those and their
/// entries if their hashes were made up, a byte of rows that nobody
/// has asked for, a deleted row that may be passed over, and looking whether there is a row.
pub(crate) const SORTED_BYTE: u32 = 16;
pub(crate) const SORTED_ROW: u32 = 400;
pub(crate) const CROWDED_BYTE: u32 = 2_000;
pub(crate) const PASSED_ROW: u32 = 20;
pub(crate) const UNREAD_BYTE: u32 = 16;
pub(crate) const PROBE: u32 = 2_500;
/// Copying or filling a range, and how many of its bytes cost a unit, as a power of two.
const COPYING: u32 = 60;
const COPIED_SHIFT: u32 = 3;
/// Where the last words of a call stand. A real server takes the address 0 for no address.
const MESSAGE_AT: u32 = 1_024;
/// `console_log`: an error, of no place in the code.
const LEVEL_ERROR: i32 = 0;
const NO_LINE: i32 = -1;

/// What counts, and what ends a call.
#[derive(Clone, Copy)]
pub(crate) struct Meter {
    /// The units that are left.
    left: GlobalId,
    /// What is left to all views of a brief refresh; 0 in any other transaction.
    brief: GlobalId,
    /// `exhausted()`: says why, and traps; or lets a procedure go on, see `pauses`.
    exhausted: FunctionId,
    /// `copied(bytes)`: charges for a range that is copied or filled.
    pub(crate) copied: FunctionId,
    units_max: u64,
}

impl Meter {
    /// `own` is the module's memory. A call gets so many units.
    pub(crate) fn add(module: &mut Module, own: MemoryId, units_max: u64) -> Self {
        let unlimited = ConstExpr::Value(Value::I64(i64::MAX));
        let left = module.globals.add_local(I64, true, false, unlimited);
        let brief = global(module, I64);
        let exhausted = add_exhausted(module, own, units_max, brief);
        Self {
            left,
            brief,
            exhausted,
            copied: add_copied(module, left, exhausted),
            units_max,
        }
    }

    /// Has these functions charge for what they do.
    pub(crate) fn functions(self, module: &mut Module, functions: &[FunctionId]) {
        let classes = classes::of(module, functions);
        for id in functions {
            match classes.get(id) {
                None | Some(Class::Free(_)) => {}
                Some(Class::Quiet(_)) => functions::rewrite(module, self, &classes, *id, false),
                Some(Class::Looking) => functions::rewrite(module, self, &classes, *id, true),
            }
        }
    }

    /// A call begins.
    pub(crate) fn begin_call(self, code: &mut Code<'_>) {
        self.allow(code, self.units_max);
        code.i64_const(0).global_set(self.brief);
    }

    /// The call that has begun is a refresh that is to be brief. The server evaluates its views in the same instance.
    pub(crate) fn be_brief(self, code: &mut Code<'_>) {
        let units = i64::try_from(self.units_max / BRIEF_SHARE).unwrap_or(i64::MAX);
        code.i64_const(units.max(1)).global_set(self.brief);
    }

    /// A view begins.
    pub(crate) fn begin_view(self, code: &mut Code<'_>) {
        self.allow(code, self.units_max / VIEW_SHARE);
        self.when_brief(code, |code| {
            code.global_get(self.brief).global_set(self.left);
        });
    }

    /// A view has ended.
    pub(crate) fn end_view(self, code: &mut Code<'_>) {
        self.when_brief(code, |code| {
            code.global_get(self.left).i64_const(1);
            code.global_get(self.left)
                .i64_const(1)
                .binop(BinaryOp::I64GtS)
                .select(Some(I64))
                .global_set(self.brief);
        });
    }

    fn when_brief(self, code: &mut Code<'_>, then: impl FnOnce(&mut Code<'_>)) {
        code.global_get(self.brief)
            .i64_const(0)
            .binop(BinaryOp::I64Ne)
            .when(then);
    }

    /// Start-up begins.
    pub(crate) fn begin_start_up(self, code: &mut Code<'_>) {
        self.allow(code, u64::MAX);
    }

    fn allow(self, code: &mut Code<'_>, units: u64) {
        code.i64_const(i64::try_from(units).unwrap_or(i64::MAX))
            .global_set(self.left);
    }

    /// Charges for what `push` pushes: an i64, and never so much that what is left could wrap around.
    pub(crate) fn charge(self, code: &mut Code<'_>, push: impl FnOnce(&mut Code<'_>)) {
        pay(code, self.left, push);
        look(code, self.left, self.exhausted);
    }

    /// The same, and leaves it to others to look whether anything is left.
    fn pay_units(self, code: &mut Code<'_>, units: u32) {
        pay(code, self.left, |code| {
            code.i64_const(units.into());
        });
    }

    /// Ends the call if nothing is left.
    fn look(self, code: &mut Code<'_>) {
        look(code, self.left, self.exhausted);
    }

    /// Charges for so much.
    pub(crate) fn charge_units(self, code: &mut Code<'_>, units: u32) {
        self.charge(code, |code| {
            code.i64_const(units.into());
        });
    }

    /// Charges so much for each of what a local counts.
    pub(crate) fn charge_each(self, code: &mut Code<'_>, units: u32, count: LocalId) {
        self.charge(code, |code| {
            code.local_get(count)
                .unop(UnaryOp::I64ExtendUI32)
                .i64_const(units.into())
                .binop(BinaryOp::I64Mul);
        });
    }
}

fn pay(code: &mut Code<'_>, left: GlobalId, push: impl FnOnce(&mut Code<'_>)) {
    code.global_get(left);
    push(code);
    code.binop(BinaryOp::I64Sub).global_set(left);
}

fn look(code: &mut Code<'_>, left: GlobalId, exhausted: FunctionId) {
    code.global_get(left)
        .i64_const(0)
        .binop(BinaryOp::I64LtS)
        .when(|code| {
            code.call(exhausted);
        });
}

fn add_copied(module: &mut Module, left: GlobalId, exhausted: FunctionId) -> FunctionId {
    function(module, [I32], &[], |code, [bytes], _| {
        pay(code, left, |code| {
            code.local_get(bytes)
                .i32_const(COPIED_SHIFT as i32)
                .binop(BinaryOp::I32ShrU)
                .unop(UnaryOp::I64ExtendUI32)
                .i64_const(COPYING.into())
                .binop(BinaryOp::I64Add);
        });
        look(code, left, exhausted);
    })
}

/// Of a brief refresh nobody is told: another one follows that is not.
fn add_exhausted(module: &mut Module, own: MemoryId, units_max: u64, brief: GlobalId) -> FunctionId {
    let message = format!(
        "this ran for too long and was stopped: a call may use {units_max} units, of about one instruction each, and \
         a view {}",
        units_max / VIEW_SHARE
    );
    let last_words = add_last_words(module, own, message);
    function(module, [], &[], |code, [], _| {
        code.global_get(brief)
            .i64_const(0)
            .binop(BinaryOp::I64Eq)
            .when(|code| {
                code.call(last_words);
            });
        code.unreachable();
    })
}

/// A function that logs a message and traps. The instance is lost with the trap, and so the message may stand anywhere in its
/// memory, which is `own`.
pub(crate) fn add_last_words(module: &mut Module, own: MemoryId, message: String) -> FunctionId {
    let say = add_words(module, own, message);
    function(module, [], &[], |code, [], _| {
        code.call(say).unreachable();
    })
}

/// A function that logs a message, which stands for a moment in the module's memory, `own`, at [`MESSAGE_AT`].
pub(crate) fn add_words(module: &mut Module, own: MemoryId, message: String) -> FunctionId {
    let bytes = message.len() as i32;
    let message = module.data.add(DataKind::Passive, message.into_bytes());
    let ty = module.types.add(&[I32; 8], &[]);
    let (log, _) = module.add_import_func(abi::BASE, "console_log", ty);
    function(module, [], &[], |code, [], _| {
        code.i32_const(MESSAGE_AT as i32)
            .i32_const(0)
            .i32_const(bytes)
            .memory_init(own, message);
        for argument in [LEVEL_ERROR, 0, 0, 0, 0, NO_LINE, MESSAGE_AT as i32, bytes] {
            code.i32_const(argument);
        }
        code.call(log);
    })
}
