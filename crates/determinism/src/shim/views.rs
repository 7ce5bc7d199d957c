//! The wrapped `__call_view__` and `__call_view_anon__`: no code of a view runs in a call's transaction.
//!
//! After each successful reducer the server evaluates all instances of views whose *read set* meets what the reducer has
//! written, in the reducer's transaction: a view that fails takes the reducer back with it. But instances exist where
//! somebody has subscribed, and so on some replicas only. Here a view is evaluated only if its transaction is a
//! *refresh*, which the hidden reducer `rtdb_refresh` begins by inserting a row of `rtdb_now`: an event table, whose rows
//! are gone with the transaction. It has no place in the log, and nothing else fails with it.
//!
//! In any other transaction the view's rows stay as they are, and it reads the keys of `rtdb_now` that would concern it:
//! that becomes its read set, so that the next refresh evaluates it, and calls in between pass over it. One that has been
//! put aside reads its own key alone. Whether there is a row is found out by deleting it, because deletions are not
//! part of a read set.

use walrus::ir::BinaryOp;
use walrus::{FunctionId, LocalId, MemoryId, Module};

use super::describe::Sinks;
use super::emit::{Code, Emit, I32, I64, function};
use super::hash;
use super::host::Host;
use super::layout::*;
use super::scan::Scans;
use super::walk;
use super::window::Window;
use crate::abi;
use crate::plan::ViewPlan;
use crate::reset::Reset;
use crate::views::{KEY_MIN, MULTIPLIER, PAUSE, REFRESH_ALL, arg_hash};

/// The parameters of the entry point for views that know their sender, and for those that do not.
pub(super) const PARAMS: [walrus::ValType; 7] = [I32, I64, I64, I64, I64, I32, I32];
pub(super) const ANONYMOUS_PARAMS: [walrus::ValType; 3] = [I32, I32, I32];

/// What is asked from the server at a time, in bytes: more than its chunks of rows mostly have.
const CHUNK_BYTES: i32 = 128 * 1024;
/// An inclusive bound of a hash: its tag (0), and the hash.
const HASH_BOUND_BYTES: i32 = 33;
const HASH_BYTES: u32 = 32;

/// What evaluates views, and what does not.
#[derive(Clone, Copy)]
pub(super) struct Views {
    host: Host,
    window: Window,
    reset: Reset,
    /// `begin()`.
    begin: FunctionId,
    scans: Scans,
    sinks: Sinks,
    /// `mark(key)`: makes this transaction a refresh of what goes by the key.
    pub(super) mark: FunctionId,
    /// `is_marked(key) -> i32`.
    is_marked: FunctionId,
    /// `depend(key)`: the key becomes part of the view's read set.
    depend: FunctionId,
    /// `hash(sender)`.
    hash: FunctionId,
}

impl Views {
    pub(super) fn add(
        module: &mut Module,
        host: Host,
        window: Window,
        reset: Reset,
        begin: FunctionId,
        scans: Scans,
        sinks: Sinks,
    ) -> Self {
        let mark = add_mark(module, host, window);
        Self {
            host,
            window,
            reset,
            begin,
            scans,
            sinks,
            mark,
            is_marked: add_is_marked(module, host, window, mark),
            depend: add_depend(module, host, window),
            hash: hash::add(module, window.own),
        }
    }

    /// Wraps the entry point of views that know their sender.
    pub(super) fn wrap(
        self,
        module: &mut Module,
        plans: &[ViewPlan],
        names: &[Name],
        original: FunctionId,
    ) -> FunctionId {
        let keep = self.add_keep(module, plans, names, false);
        function(module, PARAMS, &[I32], |code, params, locals| {
            let [id, s0, s1, s2, s3, _, sink] = params;
            code.call(self.begin);
            for word in [s0, s1, s2, s3] {
                code.local_get(word);
            }
            code.call(self.hash);
            self.evaluate(code, locals.add(I64), locals.add(I32), id, sink, keep, |code| {
                for param in params.into_iter().filter(|param| *param != sink) {
                    code.local_get(param);
                }
                self.sinks.begin(code, sink);
                code.call(original);
                self.sinks.end(code);
            });
        })
    }

    /// Wraps the entry point of the others.
    pub(super) fn wrap_anonymous(
        self,
        module: &mut Module,
        plans: &[ViewPlan],
        names: &[Name],
        original: FunctionId,
    ) -> FunctionId {
        let keep = self.add_keep(module, plans, names, true);
        let own = self.window.own;
        function(module, ANONYMOUS_PARAMS, &[I32], |code, params, locals| {
            let [id, _, sink] = params;
            code.call(self.begin);
            for (word, at) in arg_hash(None).as_chunks().0.iter().zip((0..).step_by(8)) {
                own.set64(code, VIEW_HASH + at, |code| {
                    code.i64_const(i64::from_le_bytes(*word));
                });
            }
            self.evaluate(code, locals.add(I64), locals.add(I32), id, sink, keep, |code| {
                for param in params.into_iter().filter(|param| *param != sink) {
                    code.local_get(param);
                }
                self.sinks.begin(code, sink);
                code.call(original);
                self.sinks.end(code);
            });
        })
    }

    /// Runs the view if this is a refresh of it; else keeps its rows. Pushes the entry point's result.
    #[expect(clippy::too_many_arguments, reason = "the locals of a function")]
    fn evaluate(
        self,
        code: &mut Code<'_>,
        key: LocalId,
        result: LocalId,
        id: LocalId,
        sink: LocalId,
        keep: FunctionId,
        run: impl FnOnce(&mut Code<'_>),
    ) {
        self.key(code, id);
        code.local_set(key);
        let pause = |code: &mut Code<'_>| {
            code.local_get(key)
                .i64_const(PAUSE.cast_signed())
                .binop(BinaryOp::I64Or);
        };
        let all = |code: &mut Code<'_>| {
            code.i64_const(REFRESH_ALL.cast_signed());
        };
        pause(code);
        code.call(self.is_marked);
        code.if_else(
            None,
            |code| {
                code.local_get(key).call(self.depend);
                code.local_get(id).local_get(sink).call(keep);
            },
            |code| {
                all(code);
                code.call(self.is_marked);
                code.local_get(key).call(self.is_marked).binop(BinaryOp::I32Or);
                code.if_else(
                    None,
                    |code| {
                        self.window.restore(code, HOT_END);
                        self.reset.meter.begin_view(code);
                        run(code);
                        code.local_set(result);
                        self.reset.meter.end_view(code);
                    },
                    |code| {
                        all(code);
                        code.call(self.depend).local_get(key).call(self.depend);
                        pause(code);
                        code.call(self.depend);
                        code.local_get(id).local_get(sink).call(keep);
                    },
                );
            },
        );
        self.scans.end(code);
        self.reset.reset(code);
        code.local_get(result);
    }

    /// Pushes an instance's key: see [`crate::view_key`].
    fn key(self, code: &mut Code<'_>, id: LocalId) {
        let own = self.window.own;
        let key = |code: &mut Code<'_>| {
            own.get64(code, VIEW_HASH);
            code.local_get(id)
                .unop(walrus::ir::UnaryOp::I64ExtendUI32)
                .i64_const(1)
                .binop(BinaryOp::I64Add)
                .i64_const(MULTIPLIER.cast_signed())
                .binop(BinaryOp::I64Mul)
                .binop(BinaryOp::I64Xor)
                .i64_const((!PAUSE).cast_signed())
                .binop(BinaryOp::I64And);
        };
        key(code);
        code.i64_const(KEY_MIN.cast_signed());
        key(code);
        code.i64_const(0).binop(BinaryOp::I64Ne).select(None);
    }

    /// `keep(id, sink)`: the rows that the view has, as if it had returned them.
    fn add_keep(
        self,
        module: &mut Module,
        plans: &[ViewPlan],
        names: &[Name],
        anonymous: bool,
    ) -> FunctionId {
        let buffer = self.reset.add_room(module);
        let chunk = self.add_chunk(module, buffer);
        let keeps: Vec<_> = plans
            .iter()
            .zip(names)
            .filter(|(plan, _)| plan.anonymous == anonymous)
            .map(|(plan, name)| (plan.id, self.add_keep_one(module, plan, *name, chunk)))
            .collect();
        function(module, [I32, I32], &[], |code, [id, sink], _| {
            self.window.mark(code, WINDOW_END);
            for (number, keep) in keeps {
                code.local_get(id).is(number.cast_signed()).when(|code| {
                    code.local_get(sink).call(keep).return_();
                });
            }
            code.unreachable();
        })
    }

    /// `keep(sink)`: of one view. The rows' number comes first, so that more than a chunk are read twice.
    fn add_keep_one(self, module: &mut Module, plan: &ViewPlan, name: Name, chunk: FunctionId) -> FunctionId {
        let seen = self.window.seen;
        let strip = add_strip(module, seen.memory, plan);
        function(module, [I32], &[], |code, [sink], locals| {
            let [index, iterator, result, count, bytes] = [(); 5].map(|()| locals.add(I32));
            self.window.show_name(code, name);
            seen.at(code, NAME);
            code.i32_const(name.bytes as i32);
            seen.at(code, OUT);
            code.call(self.host.index_id).must();
            seen.get32(code, OUT);
            code.local_set(index);

            let next = |code: &mut Code<'_>| {
                code.local_get(iterator).call(chunk).local_set(result);
                code.call(strip);
                code.local_get(count).add().local_set(count);
            };
            let write = |code: &mut Code<'_>| {
                code.local_get(sink);
                seen.at(code, WINDOW_END);
                seen.at(code, VIEW_BYTES);
                code.call(self.host.sink_write).must();
            };
            let write_count = |code: &mut Code<'_>| {
                code.i32_const(4).local_set(bytes);
                seen.set32(code, LEN, bytes);
                seen.set32(code, VIEW_COUNT, count);
                code.local_get(sink);
                seen.at(code, VIEW_COUNT);
                seen.at(code, LEN);
                code.call(self.host.sink_write).must();
            };
            self.open(code, index, iterator);
            next(code);
            code.local_get(result).when(|code| {
                write_count(code);
                write(code);
                code.return_();
            });
            code.repeat(
                |code| {
                    code.local_get(result).is_zero();
                },
                next,
            );
            write_count(code);
            self.open(code, index, iterator);
            code.i32_const(0).local_set(result);
            code.repeat(
                |code| {
                    code.local_get(result).is_zero();
                },
                |code| {
                    next(code);
                    write(code);
                },
            );
        })
    }

    /// Opens an iterator over the rows of this hash.
    fn open(self, code: &mut Code<'_>, index: LocalId, iterator: LocalId) {
        let (seen, own) = (self.window.seen, self.window.own);
        seen.at(code, VIEW_BOUND);
        code.i32_const(0).write8(seen.memory);
        seen.at(code, VIEW_BOUND + 1);
        own.at(code, VIEW_HASH);
        code.i32_const(HASH_BYTES as i32)
            .memory_copy(own.memory, seen.memory);
        code.local_get(index);
        seen.at(code, VIEW_BOUND);
        code.i32_const(0).i32_const(0);
        for _ in 0..2 {
            seen.at(code, VIEW_BOUND);
            code.i32_const(HASH_BOUND_BYTES);
        }
        seen.at(code, OUT);
        code.call(self.host.scan_range).must();
        seen.get32(code, OUT);
        code.local_set(iterator);
    }

    /// `chunk(iterator) -> result`: rows at the window's end, and how many bytes they have.
    fn add_chunk(self, module: &mut Module, buffer: FunctionId) -> FunctionId {
        let seen = self.window.seen;
        function(module, [I32], &[I32], |code, [iterator], locals| {
            let (room, result) = (locals.add(I32), locals.add(I32));
            code.i32_const(CHUNK_BYTES).local_set(room);
            code.loop_(None, |code| {
                let again = code.id();
                seen.at(code, WINDOW_END);
                code.local_get(room).call(buffer);
                seen.set32(code, VIEW_BYTES, room);
                code.local_get(iterator);
                seen.at(code, WINDOW_END);
                seen.at(code, VIEW_BYTES);
                code.call(self.host.advance)
                    .local_tee(result)
                    .is(abi::BUFFER_TOO_SMALL)
                    .when(|code| {
                        seen.get32(code, VIEW_BYTES);
                        code.local_set(room).br(again);
                    });
            });
            code.local_get(result)
                .i32_const(0)
                .binop(BinaryOp::I32GtS)
                .trap_if();
            code.local_get(result);
        })
    }
}

/// `strip() -> count`: takes the hash from before each row of a chunk.
fn add_strip(module: &mut Module, memory: MemoryId, plan: &ViewPlan) -> FunctionId {
    let seen = super::scratch::Scratch {
        memory,
        base: super::window::AT,
    };
    function(module, [], &[I32], |code, [], locals| {
        let [at, end, row, to, count] = [(); 5].map(|()| locals.add(I32));
        seen.at(code, WINDOW_END);
        code.local_tee(at).local_tee(to);
        seen.get32(code, VIEW_BYTES);
        code.add().local_set(end);
        code.repeat(
            |code| {
                code.local_get(at).local_get(end).less();
            },
            |code| {
                code.advance(at, HASH_BYTES).local_get(at).local_set(row);
                walk::skip(code, memory, at, &plan.row, locals);
                code.local_get(to).local_get(row);
                code.local_get(at).local_get(row).sub();
                code.memory_copy(memory, memory);
                code.local_get(to)
                    .local_get(at)
                    .local_get(row)
                    .sub()
                    .add()
                    .local_set(to);
                code.advance(count, 1);
            },
        );
        code.local_get(to);
        seen.at(code, WINDOW_END);
        code.sub().local_set(end);
        seen.set32(code, VIEW_BYTES, end);
        code.local_get(count);
    })
}

fn add_mark(module: &mut Module, host: Host, window: Window) -> FunctionId {
    let seen = window.seen;
    function(module, [I64], &[], |code, [key], locals| {
        let bytes = locals.add(I32);
        seen.set64(code, BOUND_KEY, |code| {
            code.local_get(key);
        });
        code.i32_const(8).local_set(bytes);
        seen.set32(code, LEN, bytes);
        window.own.get32(code, NOW_TABLE_ID);
        seen.at(code, BOUND_KEY);
        seen.at(code, LEN);
        code.call(host.insert).must();
    })
}

fn add_is_marked(module: &mut Module, host: Host, window: Window, mark: FunctionId) -> FunctionId {
    let seen = window.seen;
    function(module, [I64], &[I32], |code, [key], locals| {
        let found = locals.add(I32);
        range(code, window, key);
        code.call(host.delete_range).must();
        seen.get32(code, OUT);
        code.local_tee(found).when(|code| {
            code.local_get(key).call(mark);
        });
        code.local_get(found);
    })
}

fn add_depend(module: &mut Module, host: Host, window: Window) -> FunctionId {
    let seen = window.seen;
    function(module, [I64], &[], |code, [key], locals| {
        let room = locals.add(I32);
        range(code, window, key);
        code.call(host.scan_range).must();
        code.i32_const(8).local_set(room);
        seen.set32(code, LEN, room);
        seen.get32(code, OUT);
        seen.at(code, BOUND_KEY);
        seen.at(code, LEN);
        // There is no such row.
        code.call(host.advance)
            .i32_const(abi::EXHAUSTED)
            .binop(BinaryOp::I32Ne)
            .trap_if();
    })
}

/// Pushes the arguments of a range function: the row of `rtdb_now` with this key.
fn range(code: &mut Code<'_>, window: Window, key: LocalId) {
    let seen = window.seen;
    seen.at(code, BOUND);
    code.i32_const(0).write8(seen.memory);
    seen.set64(code, BOUND_KEY, |code| {
        code.local_get(key);
    });
    window.own.get32(code, NOW_INDEX_ID);
    seen.at(code, BOUND);
    code.i32_const(0).i32_const(0);
    for _ in 0..2 {
        seen.at(code, BOUND);
        code.i32_const(BOUND_BYTES as i32);
    }
    seen.at(code, OUT);
}
