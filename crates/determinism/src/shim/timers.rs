//! The module's timers. A server numbers those of an instance through all of its calls: here they are numbered anew in
//! each, and end with it.

use walrus::ir::BinaryOp;
use walrus::{FunctionId, GlobalId, Module};

use super::emit::{Code, Emit, I32, function, global};
use super::host::{self, Imported};
use super::scratch::Scratch;
use crate::PrepareError;
use crate::abi;

/// The most timers that are measured at a time. Further ones can be started and ended, but nothing is logged.
const TIMERS_MAX: u32 = 256;
/// The server's number of a timer; 0 for one that has ended.
const TIMER_BYTES: u32 = 4;
/// How many bytes they take.
pub(super) const BYTES: u32 = TIMERS_MAX * TIMER_BYTES;

/// The timers of the current call.
#[derive(Clone, Copy)]
pub(super) struct Timers {
    scratch: Scratch,
    /// Where they stand.
    at: u32,
    /// The last one that has not ended.
    count: GlobalId,
}

impl Timers {
    pub(super) fn add(module: &mut Module, scratch: Scratch, at: u32) -> Self {
        let count = global(module, I32);
        Self { scratch, at, count }
    }

    /// A call begins.
    pub(super) fn begin(self, code: &mut Code<'_>) {
        code.i32_const(0).global_set(self.count);
    }

    /// Puts a wrapper in the place of `import` if it starts or ends a timer, and says whether it does.
    pub(super) fn wrap(self, module: &mut Module, import: &Imported) -> Result<bool, PrepareError> {
        type Add = fn(Timers, &mut Module, FunctionId) -> FunctionId;
        let (params, add): (usize, Add) = match import.name.as_str() {
            "console_timer_start" => (2, Self::add_start),
            "console_timer_end" => (1, Self::add_end),
            _ => return Ok(false),
        };
        host::wrap(module, import, params, |module, real| add(self, module, real))?;
        Ok(true)
    }

    /// `start(name, len) -> timer`: counted from 1.
    fn add_start(self, module: &mut Module, real: FunctionId) -> FunctionId {
        function(module, [I32; 2], &[I32], |code, [name, len], _| {
            code.global_get(self.count).i32_const(TIMERS_MAX as i32);
            code.less().when(|code| {
                self.place(code, |code| {
                    code.global_get(self.count);
                });
                code.local_get(name).local_get(len).call(real);
                code.write32(self.scratch.memory, 0);
            });
            code.global_get(self.count).plus(1);
            code.global_set(self.count).global_get(self.count);
        })
    }

    /// `end(timer) -> errno`.
    fn add_end(self, module: &mut Module, real: FunctionId) -> FunctionId {
        function(module, [I32], &[I32], |code, [timer], locals| {
            let (at, number) = (locals.add(I32), locals.add(I32));
            code.local_get(timer).i32_const(1).sub().local_tee(timer);
            code.global_get(self.count).binop(BinaryOp::I32GeU).when(|code| {
                code.i32_const(abi::NO_SUCH_TIMER).return_();
            });
            code.local_get(timer).plus(1).global_get(self.count);
            code.binop(BinaryOp::I32Eq).when(|code| {
                code.local_get(timer).global_set(self.count);
            });
            code.local_get(timer).i32_const(TIMERS_MAX as i32);
            code.binop(BinaryOp::I32GeU).when(|code| {
                code.i32_const(0).return_();
            });
            self.place(code, |code| {
                code.local_get(timer);
            });
            code.local_tee(at)
                .read32(self.scratch.memory, 0)
                .local_tee(number);
            code.is_zero().when(|code| {
                code.i32_const(abi::NO_SUCH_TIMER).return_();
            });
            code.local_get(at).i32_const(0).write32(self.scratch.memory, 0);
            code.local_get(number).call(real);
        })
    }

    /// Pushes where the timer stands whose place `which` pushes.
    fn place(self, code: &mut Code<'_>, which: impl FnOnce(&mut Code<'_>)) {
        which(code);
        code.i32_const(TIMER_BYTES as i32)
            .binop(BinaryOp::I32Mul)
            .plus(self.scratch.base + self.at);
    }
}
