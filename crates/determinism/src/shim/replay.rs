//! `rtdb_replay`: does once more what a procedure's transaction has done, call by call, by the way of the module's own
//! writes. All of it is as it was then, unless another call has come between.

use walrus::ir::BinaryOp;
use walrus::{FunctionId, LocalId, Module};

use super::digest::Operation;
use super::emit::{Code, Emit, I32, function};
use super::journal::{RECORD_BYTES, RECORD_ERRNO, RECORD_EXTRA, RECORD_LENGTHS, RECORD_WHAT, TAKE};
use super::layout::*;
use super::schedules::Schedules;
use super::window::Window;
use crate::reset::Reset;

/// Where a record stands in the window, and the number before it.
const RECORD: u32 = NAME;

/// A function that the module writes by, wrapped.
pub(super) type Write = (Operation, FunctionId);

/// `replay(source) -> conflict`: `base: u64, operations: Vec<u8>`. Whatever does not go as it did then traps. The module does
/// not run in this call: all of its memory is free.
pub(super) fn add(
    module: &mut Module,
    window: Window,
    reset: Reset,
    writes: &[Write],
    schedules: Schedules,
    read: FunctionId,
) -> FunctionId {
    let (seen, own) = (window.seen, window.own);
    let room = reset.add_room(module);
    function(module, [I32], &[I32], |code, [source], locals| {
        let [left, bytes, what, extra, errno] = [(); 5].map(|()| locals.add(I32));
        let lengths = [(); 3].map(|()| locals.add(I32));
        let read_head = |code: &mut Code<'_>, bytes: u32| {
            code.local_get(source);
            seen.at(code, RECORD);
            code.i32_const(bytes as i32).call(read).local_set(source);
        };
        window.mark(code, WINDOW_END);
        read_head(code, 8);
        seen.get64(code, RECORD);
        own.get64(code, STATE_INDEX);
        code.binop(BinaryOp::I64Ne).when(|code| {
            code.i32_const(1).return_();
        });
        read_head(code, 4);
        seen.get32(code, RECORD);
        code.local_set(left);
        code.repeat(
            |code| {
                code.local_get(left);
            },
            |code| {
                take(code, left, |code| {
                    code.i32_const(RECORD_BYTES as i32);
                });
                read_head(code, RECORD_BYTES);
                code.i32_const(0).local_set(bytes);
                for (length, at) in lengths.into_iter().zip((RECORD_LENGTHS..).step_by(4)) {
                    seen.get32(code, RECORD + at);
                    code.local_set(length);
                    take(code, left, |code| {
                        code.local_get(length);
                    });
                    code.local_get(bytes).local_get(length).add().local_set(bytes);
                }
                for (to, at) in [(what, RECORD_WHAT), (extra, RECORD_EXTRA)] {
                    seen.get32(code, RECORD + at);
                    code.local_set(to);
                }
                seen.at(code, WINDOW_END);
                code.local_get(bytes).call(room);
                code.local_get(source);
                seen.at(code, WINDOW_END);
                code.local_get(bytes).call(read).local_set(source);
                // No function returns so much.
                code.i32_const(-1).local_set(errno);
                seen.get32(code, RECORD);
                code.is(TAKE).when(|code| {
                    code.local_get(what);
                    seen.get64(code, WINDOW_END);
                    schedules.take(code);
                    code.i32_const(0).local_set(errno);
                });
                for (operation, write) in writes {
                    seen.get32(code, RECORD);
                    code.is(*operation as i32).when(|code| {
                        let arguments = Arguments {
                            window,
                            what,
                            extra,
                            lengths,
                        };
                        arguments.push(code, *operation);
                        code.call(*write).local_set(errno);
                    });
                }
                code.local_get(errno);
                seen.get32(code, RECORD + RECORD_ERRNO);
                code.binop(BinaryOp::I32Ne).trap_if();
            },
        );
        code.i32_const(0);
    })
}

/// Lowers `left` by what `count` pushes; traps if there is not so much.
fn take(code: &mut Code<'_>, left: LocalId, count: impl Fn(&mut Code<'_>)) {
    code.local_get(left);
    count(code);
    code.less().trap_if();
    code.local_get(left);
    count(code);
    code.sub().local_set(left);
}

/// What a function is called with again. The bytes stand behind the window, one behind the other.
struct Arguments {
    window: Window,
    what: LocalId,
    extra: LocalId,
    lengths: [LocalId; 3],
}

impl Arguments {
    fn push(&self, code: &mut Code<'_>, operation: Operation) {
        let &Self {
            window: Window { seen, .. },
            what,
            extra,
            lengths: [first, second, third],
        } = self;
        let bytes = |code: &mut Code<'_>, before: &[LocalId]| {
            seen.at(code, WINDOW_END);
            for length in before {
                code.local_get(*length).add();
            }
        };
        code.local_get(what);
        match operation {
            Operation::Insert | Operation::Update | Operation::Ask => {
                if matches!(operation, Operation::Update) {
                    code.local_get(extra);
                }
                seen.set32(code, LEN, first);
                bytes(code, &[]);
                seen.at(code, LEN);
            }
            Operation::DeleteEqual | Operation::DeletePoint => {
                bytes(code, &[]);
                code.local_get(first);
                seen.at(code, OUT);
            }
            Operation::DeleteRange => {
                bytes(code, &[]);
                code.local_get(first).local_get(extra);
                bytes(code, &[first]);
                code.local_get(second);
                bytes(code, &[first, second]);
                code.local_get(third);
                seen.at(code, OUT);
            }
            Operation::Clear => seen.at(code, OUT),
        }
    }
}
