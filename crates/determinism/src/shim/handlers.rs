//! `rtdb_handle`: runs an HTTP handler as a procedure. The request reaches the module's `__call_http_handler__` as two sources of
//! ours; what the module writes to the two sinks of the answer is gathered, and becomes what the procedure returns.
//!
//! All stands in a memory of its own: the request's head and its body, then a record for each write to a sink.

use walrus::ir::BinaryOp;
use walrus::{FunctionId, GlobalId, LocalId, MemoryId, Module, ValType};

use super::describe::SINK;
use super::emit::{Code, Emit, I32, I64, function, global};
use super::given::Given;
use super::host::Host;
use super::layout::*;
use super::scan::reserve_pages;
use super::window::Window;
use crate::handlers::ANSWER_BYTES_MAX;
use crate::{abi, meter};

/// The longest request, in bytes: more than the server takes in a message.
const REQUEST_BYTES_MAX: u32 = 64 << 20;
/// What the module's log says of a longer answer.
const TOO_MUCH: &str = "the answer of an HTTP handler may have 32 MiB at most";
const _: () = assert!(ANSWER_BYTES_MAX == 32 << 20);

/// The module's sources of the request. Those of claims don't come so far, and -1 is the row that is due.
const HEAD_SOURCE: i32 = -2;
const BODY_SOURCE: i32 = -3;
/// Its sinks for the answer: the first is that of every call.
const HEAD_SINK: i32 = SINK;
const BODY_SINK: i32 = SINK + 1;

/// A record: the sink, and the number of bytes, which follow. Both are of four bytes.
const RECORD_LEN: u32 = 4;
const RECORD_BYTES: u32 = 8;

/// What is copied at a time, by way of the window.
const PIECE: u32 = NAME;
const PIECE_BYTES: u32 = NAME_BYTES_MAX;

/// The parameters of `__call_http_handler__`: the handler, the time, two sources, and two sinks.
pub(super) const PARAMS: [ValType; 6] = [I32, I64, I32, I32, I32, I32];

/// What runs handlers.
#[derive(Clone, Copy)]
pub(super) struct Handlers {
    memory: MemoryId,
    window: Window,
    host: Host,
    /// Whether one is running: what it writes to sinks is the answer.
    open: GlobalId,
    /// What the handlers are known by.
    key: u64,
    /// What the call is for: handlers that are known by this, and the one of this number.
    called: GlobalId,
    handler: GlobalId,
    /// The request.
    head: Given,
    body: Given,
    /// Where the records begin and end.
    first: GlobalId,
    end: GlobalId,
    /// `reserve(end)`: makes sure that there is memory up to there.
    reserve: FunctionId,
    /// `append(sink, from, len_at) -> errno`: `bytes_sink_write` while one is running.
    append: FunctionId,
}

impl Handlers {
    pub(super) fn add(module: &mut Module, host: Host, window: Window, key: u64) -> Self {
        let memory = module.memories.add_local(false, false, 1, None, None);
        let [open, handler, first, end] = [(); 4].map(|()| global(module, I32));
        let reserve = reserve_pages(module, memory);
        let [head, body] = [(); 2].map(|()| Given::add(module, memory));
        let exceeded = meter::add_last_words(module, window.seen.memory, TOO_MUCH.to_owned());
        let append = function(module, [I32; 3], &[I32], |code, [sink, from, len_at], locals| {
            let [len, next] = [(); 2].map(|()| locals.add(I32));
            code.local_get(sink).is(HEAD_SINK).is_zero();
            code.local_get(sink).is(BODY_SINK).is_zero();
            code.binop(BinaryOp::I32And).when(|code| {
                code.i32_const(abi::NO_SUCH_BYTES).return_();
            });
            code.local_get(len_at)
                .read32(window.seen.memory, 0)
                .local_tee(len);
            code.i32_const(ANSWER_BYTES_MAX as i32);
            code.binop(BinaryOp::I32GtU).when(|code| {
                code.call(exceeded);
            });
            code.global_get(end).plus(RECORD_BYTES).local_get(len).add();
            code.local_tee(next).global_get(first).sub();
            code.i32_const(ANSWER_BYTES_MAX as i32);
            code.binop(BinaryOp::I32GtU).when(|code| {
                code.call(exceeded);
            });
            code.local_get(next).call(reserve);
            code.global_get(end).local_get(sink).write32(memory, 0);
            code.global_get(end).local_get(len).write32(memory, RECORD_LEN);
            code.global_get(end).plus(RECORD_BYTES);
            code.local_get(from).local_get(len);
            code.memory_copy(window.seen.memory, memory);
            code.local_get(next).global_set(end);
            code.i32_const(0);
        });
        Self {
            memory,
            window,
            host,
            open,
            key,
            called: global(module, I64),
            handler,
            head,
            body,
            first,
            end,
            reserve,
            append,
        }
    }

    /// The sources of the request, each with the number that the module knows it by.
    pub(super) fn sources(self) -> [(i32, Given); 2] {
        [(HEAD_SOURCE, self.head), (BODY_SOURCE, self.body)]
    }

    /// Takes what the module writes to a sink while a handler runs.
    pub(super) fn take_write(self, code: &mut Code<'_>, write: [LocalId; 3]) {
        code.global_get(self.open).when(|code| {
            for arg in write {
                code.local_get(arg);
            }
            code.call(self.append).return_();
        });
    }

    /// `take(source)`: `module: u64, handler: u32, request: Vec<u8>, body: Vec<u8>`. The window is to be restored.
    pub(super) fn add_take(self, module: &mut Module, read: FunctionId) -> FunctionId {
        let seen = self.window.seen;
        function(module, [I32], &[], |code, [source], locals| {
            let [to, end, part] = [(); 3].map(|()| locals.add(I32));
            let word = |code: &mut Code<'_>| {
                code.local_get(source);
                seen.at(code, ARGUMENT);
                code.i32_const(4).call(read).local_set(source);
                seen.get32(code, ARGUMENT);
            };
            code.local_get(source);
            seen.at(code, ARGUMENT);
            code.i32_const(8).call(read).local_set(source);
            seen.get64(code, ARGUMENT);
            code.global_set(self.called);
            word(code);
            code.global_set(self.handler);
            for given in [self.head, self.body] {
                word(code);
                code.local_tee(part)
                    .i32_const(REQUEST_BYTES_MAX as i32)
                    .binop(BinaryOp::I32GtU)
                    .trap_if();
                given.set(
                    code,
                    |code| {
                        code.local_get(to);
                    },
                    |code| {
                        code.local_get(part);
                    },
                );
                code.local_get(to).local_get(part).add().local_set(end);
                code.local_get(end).call(self.reserve);
                let left = |code: &mut Code<'_>| {
                    code.local_get(end).local_get(to).sub();
                };
                code.repeat(left, |code| {
                    piece(code, left, part);
                    code.local_get(source);
                    seen.at(code, PIECE);
                    code.local_get(part).call(read).local_set(source);
                    code.local_get(to);
                    seen.at(code, PIECE);
                    code.local_get(part).memory_copy(seen.memory, self.memory);
                    code.local_get(to).local_get(part).add().local_set(to);
                });
            }
            code.local_get(end).global_set(self.first);
            code.local_get(end).global_set(self.end);
        })
    }

    /// Pushes whether the call is for these handlers.
    pub(super) fn are_called(self, code: &mut Code<'_>) {
        code.global_get(self.called).i64_const(self.key.cast_signed());
        code.binop(BinaryOp::I64Eq);
    }

    /// Pushes what the module's own `__call_http_handler__` returns.
    pub(super) fn call(self, code: &mut Code<'_>, original: FunctionId, timestamp: LocalId) {
        code.i32_const(1).global_set(self.open);
        code.global_get(self.handler).local_get(timestamp);
        code.i32_const(HEAD_SOURCE);
        // As the host has it, nothing is given by the source 0.
        code.i32_const(BODY_SOURCE).i32_const(0);
        self.body.left(code);
        code.select(Some(I32));
        code.i32_const(HEAD_SINK).i32_const(BODY_SINK);
        code.call(original);
    }

    /// The handler has ended.
    pub(super) fn end(self, code: &mut Code<'_>) {
        code.i32_const(0).global_set(self.open);
    }

    /// `answer(sink)`: the head's length, the head, and the body, and all their length before them; or no bytes, if others are
    /// called. The module has run.
    pub(super) fn add_answer(self, module: &mut Module) -> FunctionId {
        let (memory, seen) = (self.memory, self.window.seen);
        function(module, [I32], &[], |code, [sink], locals| {
            let [at, end, part, head] = [(); 4].map(|()| locals.add(I32));
            let write = |code: &mut Code<'_>, from: u32, bytes: LocalId| {
                seen.set32(code, LEN, bytes);
                code.local_get(sink);
                seen.at(code, from);
                seen.at(code, LEN);
                code.call(self.host.sink_write).must();
            };
            // Goes through the records. `of` gets the one at `at`, which ends before `end`.
            let each = |code: &mut Code<'_>, of: &dyn Fn(&mut Code<'_>)| {
                code.global_get(self.first).local_set(end);
                code.repeat(
                    |code| {
                        code.global_get(self.end).local_get(end).sub();
                    },
                    |code| {
                        code.local_get(end).local_tee(at);
                        code.local_get(at).read32(memory, RECORD_LEN);
                        code.add().plus(RECORD_BYTES).local_set(end);
                        of(code);
                    },
                );
            };
            let when = |code: &mut Code<'_>, of: i32, then: &dyn Fn(&mut Code<'_>)| {
                code.local_get(at).read32(memory, 0).is(of);
                code.when(|code| then(code));
            };
            self.window.mark(code, WINDOW_END);
            self.are_called(code);
            code.is_zero().when(|code| {
                // `part` is 0 yet.
                seen.set32(code, ARGUMENT, part);
                code.i32_const(4).local_set(part);
                write(code, ARGUMENT, part);
                code.return_();
            });
            let all = part;
            code.i32_const(4).local_set(all);
            each(code, &|code| {
                let bytes = |code: &mut Code<'_>| {
                    code.local_get(at).read32(memory, RECORD_LEN);
                };
                code.local_get(all);
                bytes(code);
                code.add().local_set(all);
                when(code, HEAD_SINK, &|code| {
                    code.local_get(head);
                    bytes(code);
                    code.add().local_set(head);
                });
            });
            seen.set32(code, ARGUMENT, all);
            seen.set32(code, ARGUMENT + 4, head);
            code.i32_const(8).local_set(part);
            write(code, ARGUMENT, part);
            for of in [HEAD_SINK, BODY_SINK] {
                each(code, &|code| {
                    when(code, of, &|code| {
                        code.advance(at, RECORD_BYTES);
                        let left = |code: &mut Code<'_>| {
                            code.local_get(end).local_get(at).sub();
                        };
                        code.repeat(left, |code| {
                            piece(code, left, part);
                            seen.at(code, PIECE);
                            code.local_get(at).local_get(part);
                            code.memory_copy(memory, seen.memory);
                            write(code, PIECE, part);
                            code.local_get(at).local_get(part).add().local_set(at);
                        });
                    });
                });
            }
        })
    }
}

/// Sets `part` to what `left` pushes, but no more than a piece.
fn piece(code: &mut Code<'_>, left: impl Fn(&mut Code<'_>), part: LocalId) {
    left(code);
    code.i32_const(PIECE_BYTES as i32);
    left(code);
    code.i32_const(PIECE_BYTES as i32)
        .binop(BinaryOp::I32LtU)
        .select(Some(I32))
        .local_set(part);
}
