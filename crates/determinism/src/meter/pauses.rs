//! Procedures. All code of a database runs on one thread of its server, and a procedure leaves it to others only while it
//! waits. One that computes for long is therefore made to wait, for a moment, each time it has used up a *piece* of its
//! units: so it holds nobody up, though it does not end. With a transaction open it can't wait, and is ended instead when
//! it has used up what a transaction may. And one that uses up what a call may before it waits by itself never ends, as
//! far as anybody can tell: it is ended, too.

use walrus::ir::BinaryOp;
use walrus::{FunctionBuilder, FunctionId, FunctionKind, GlobalId, MemoryId, Module};

use super::{Meter, add_last_words};
use crate::emit::{Code, Emit, I32, I64, function, global};

/// A procedure may use this fraction of what a call may at a time: some 10 ms of ordinary code.
const PIECE_SHARE: u64 = 1_000;
/// It may use this fraction of it with a transaction open.
const TRANSACTION_SHARE: u64 = 10;
/// For how long it lets others go first.
const PAUSE_US: i64 = 1_000;
/// `procedure_sleep_until`: tells the time at once.
const LONG_AGO: i64 = -1;

/// What runs: not a procedure, or one, or one with a transaction open.
const OTHER: i32 = 0;
const OUTSIDE: i32 = 1;
const WITHIN: i32 = 2;

/// What makes procedures wait.
#[derive(Clone, Copy)]
pub(crate) struct Pauses {
    meter: Meter,
    phase: GlobalId,
    /// The units that are left, besides those of the piece, before the procedure must wait by itself.
    rest: GlobalId,
    /// Those that are left to hold the database.
    held: GlobalId,
    /// `pause()`
    pause: FunctionId,
}

impl Pauses {
    /// `own` is the module's memory, `sleep_until` the host's function.
    pub(crate) fn add(module: &mut Module, meter: Meter, own: MemoryId, sleep_until: FunctionId) -> Self {
        let held = global(module, I64);
        let pause = function(module, [], &[], |code, [], _| {
            code.i64_const(LONG_AGO).call(sleep_until);
            code.i64_const(PAUSE_US).binop(BinaryOp::I64Add);
            code.call(sleep_until).drop();
            code.i64_const(share(meter, TRANSACTION_SHARE)).global_set(held);
        });
        let pauses = Self {
            meter,
            phase: global(module, I32),
            rest: global(module, I64),
            held,
            pause,
        };
        pauses.replace_exhausted(module, own);
        pauses
    }

    /// What happens when nothing is left of the units of a call becomes what happens when nothing is left of a piece.
    fn replace_exhausted(self, module: &mut Module, own: MemoryId) {
        let Meter {
            left,
            units_max,
            exhausted,
            ..
        } = self.meter;
        let otherwise = module.funcs.get_mut(exhausted);
        let placeholder = FunctionBuilder::new(&mut module.types, &[], &[]).local_func(Vec::new());
        let FunctionKind::Local(otherwise) =
            std::mem::replace(&mut otherwise.kind, FunctionKind::Local(placeholder))
        else {
            unreachable!("the meter has made it");
        };
        let otherwise = module.funcs.add_local(otherwise);
        let words = format!(
            "this ran for too long and was stopped: a procedure may use {units_max} units, of about one instruction \
             each, before it waits, and {} in a transaction",
            units_max / TRANSACTION_SHARE
        );
        let last_words = add_last_words(module, own, words);
        let piece = share(self.meter, PIECE_SHARE);
        let mut builder = FunctionBuilder::new(&mut module.types, &[], &[]);
        let used = module.locals.add(I64);
        let code = &mut builder.func_body();
        code.global_get(self.phase).is(OTHER).when(|code| {
            code.call(otherwise).unreachable();
        });
        // A host function may have used many pieces at once.
        code.i64_const(0).global_get(left).binop(BinaryOp::I64Sub);
        code.i64_const(piece).binop(BinaryOp::I64DivU);
        code.i64_const(1).binop(BinaryOp::I64Add);
        code.i64_const(piece).binop(BinaryOp::I64Mul).local_set(used);
        code.global_get(left).local_get(used).binop(BinaryOp::I64Add);
        code.global_set(left);
        let take = |code: &mut Code<'_>, from: GlobalId| {
            code.global_get(from).local_get(used).binop(BinaryOp::I64Sub);
            code.global_set(from);
            code.global_get(from).i64_const(0).binop(BinaryOp::I64LtS);
            code.when(|code| {
                code.call(last_words).unreachable();
            });
        };
        take(code, self.rest);
        code.global_get(self.phase).is(WITHIN).if_else(
            None,
            |code| take(code, self.held),
            |code| {
                code.call(self.pause);
            },
        );
        module.funcs.get_mut(exhausted).kind = FunctionKind::Local(builder.local_func(Vec::new()));
    }

    /// A procedure begins.
    pub(crate) fn begin(self, code: &mut Code<'_>) {
        code.i64_const(share(self.meter, PIECE_SHARE))
            .global_set(self.meter.left);
        self.waited(code);
    }

    /// It has ended.
    pub(crate) fn end(self, code: &mut Code<'_>) {
        code.i32_const(OTHER).global_set(self.phase);
        self.meter.begin_call(code);
    }

    /// It waits by itself.
    pub(crate) fn waits(self, code: &mut Code<'_>) {
        code.i64_const(share(self.meter, 1)).global_set(self.rest);
    }

    /// It has waited for what was to become of a transaction.
    pub(crate) fn waited(self, code: &mut Code<'_>) {
        self.waits(code);
        code.i64_const(share(self.meter, TRANSACTION_SHARE))
            .global_set(self.held);
        code.i32_const(OUTSIDE).global_set(self.phase);
    }

    /// It begins a transaction.
    pub(crate) fn begin_transaction(self, code: &mut Code<'_>) {
        code.i32_const(WITHIN).global_set(self.phase);
    }

    /// The transaction is over for the host, too. Whoever has held the database for long by it lets others go first.
    pub(crate) fn end_transaction(self, code: &mut Code<'_>) {
        code.i32_const(OUTSIDE).global_set(self.phase);
        code.global_get(self.held);
        code.i64_const(share(self.meter, TRANSACTION_SHARE));
        code.binop(BinaryOp::I64LtS).when(|code| {
            code.call(self.pause);
        });
    }
}

/// So much of what a call may use.
fn share(meter: Meter, of: u64) -> i64 {
    i64::try_from(meter.units_max / of).unwrap_or(i64::MAX).max(1)
}
