//! The wrapped `__call_procedure__`, and the host functions by which a procedure runs transactions: see
//! [`crate::procedures`].

use walrus::ir::BinaryOp;
use walrus::{FunctionId, GlobalId, Module};

use super::call::PARAMS;
use super::describe::Sinks;
use super::emit::{Code, Emit, I32, I64, function, global};
use super::handlers::Handlers;
use super::host::{self, Host, Imported};
use super::journal::Journal;
use super::jwt::{self, Jwt};
use super::layout::*;
use super::passed::Passed;
use super::scan::Scans;
use super::schedules::{NONE, Schedules, Timer};
use super::sequence::Sequences;
use super::state::State;
use super::window::Window;
use crate::meter::Pauses;
use crate::procedures::TransactionVerdict;
use crate::reset::Reset;
use crate::{PrepareError, abi, header};

/// How long a procedure waits before it looks for what has become of its transaction: at first, and at most, as each pause is
/// twice as long as the one before.
const PAUSE_MIN_US: i64 = 1_000;
const PAUSE_MAX_US: i64 = 20_000;
/// How long it looks for it at all. Then it traps: the node that it ran for is gone.
const WAIT_MAX_US: i64 = 600_000_000;

/// How often a row that is due is claimed, as long as calls come between.
const CLAIMS_MAX: i32 = 16;

/// Where a row of `rtdb_verdict` stands in the window.
const VERDICT: u32 = ARGUMENT;
const VERDICT_SEQ: u32 = VERDICT + 8;
const VERDICT_VALUE: u32 = VERDICT + 16;
const VERDICT_BYTES: u32 = 17;

/// What procedures are run by.
#[derive(Clone, Copy)]
pub(super) struct Procedures {
    parts: Parts,
    transactions: Transactions,
    /// How many transactions the procedure has tried to commit.
    seq: GlobalId,
    /// Whether one is running: nothing else, as start-up, may wait, fetch, begin a transaction or look at the clock.
    running: GlobalId,
    /// What has a procedure wait that computes for long, and ends one that never does.
    pauses: Pauses,
}

/// What [`Procedures`] shares with the rest of the shim.
#[derive(Clone, Copy)]
pub(super) struct Parts {
    pub(super) host: Host,
    pub(super) window: Window,
    pub(super) reset: Reset,
    pub(super) in_call: GlobalId,
    pub(super) state: State,
    pub(super) sequences: Sequences,
    pub(super) passed: Passed,
    pub(super) jwt: Jwt,
    pub(super) scans: Scans,
    pub(super) sinks: Sinks,
    pub(super) journal: Journal,
    pub(super) schedules: Schedules,
    /// `read(source, to, len) -> source`.
    pub(super) read: FunctionId,
    pub(super) handlers: Option<Handlers>,
}

/// What a call of a procedure may reach in the module.
#[derive(Clone, Copy)]
pub(super) struct Entries {
    /// Its own `__call_procedure__`, if it has procedures.
    pub(super) procedures: Option<FunctionId>,
    /// Its own `__call_http_handler__`, if it has such handlers.
    pub(super) handlers: Option<FunctionId>,
    /// The number of the first hidden procedure.
    pub(super) hidden: u32,
}

/// The host's functions.
#[derive(Clone, Copy)]
struct Transactions {
    start: FunctionId,
    commit: FunctionId,
    abort: FunctionId,
    sleep_until: FunctionId,
}

impl Procedures {
    pub(super) fn add(module: &mut Module, parts: Parts) -> Self {
        let mut import = |name, params| host::add(module, abi::PROCEDURES, name, params);
        let (start, commit, abort) = (
            import(abi::START_TX, 1),
            import("procedure_commit_mut_tx", 0),
            import("procedure_abort_mut_tx", 0),
        );
        let sleep = module.types.add(&[I64], &[I64]);
        let (sleep_until, _) = module.add_import_func(abi::PROCEDURES, "procedure_sleep_until", sleep);
        let own = parts.window.seen.memory;
        Self {
            pauses: Pauses::add(module, parts.reset.meter, own, sleep_until),
            parts,
            transactions: Transactions {
                start,
                commit,
                abort,
                sleep_until,
            },
            seq: global(module, I64),
            running: global(module, I32),
        }
    }

    /// Puts wrappers in the place of `import` if it is a function of procedures', and says whether it is.
    pub(super) fn wrap(self, module: &mut Module, import: &Imported) -> Result<bool, PrepareError> {
        match import.name.as_str() {
            abi::START_TX => host::wrap(module, import, 1, |module, real| self.add_start(module, real))?,
            "procedure_commit_mut_tx" => {
                host::wrap(module, import, 0, |module, real| self.add_commit(module, real))?;
            }
            "procedure_abort_mut_tx" => {
                host::wrap(module, import, 0, |module, real| self.add_abort(module, real))?;
            }
            // With a transaction open, the next reducer would wait for ever, and with it the database.
            "procedure_sleep_until" => host::guard(module, import, |code| {
                code.global_get(self.running).is_zero().trap_if();
                code.global_get(self.parts.journal.open).trap_if();
                self.pauses.waits(code);
            })?,
            // The host refuses it with a transaction open.
            "procedure_http_request" => host::guard(module, import, |code| {
                code.global_get(self.running).is_zero().trap_if();
                self.pauses.waits(code);
            })?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// `call(..) -> errno`: the wrapped `__call_procedure__`. `begin` needs a transaction, if it is the first in the instance.
    pub(super) fn add_call(self, module: &mut Module, entries: Entries, begin: FunctionId) -> FunctionId {
        let Parts {
            window,
            reset,
            jwt,
            sinks,
            read,
            ..
        } = self.parts;
        let [tick, handle] = [0, 1].map(|hidden| (entries.hidden + hidden) as i32);
        let handlers = self.parts.handlers.zip(entries.handlers);
        let handlers = handlers.map(|(handlers, original)| {
            let (take, answer) = (handlers.add_take(module, read), handlers.add_answer(module));
            (handlers, original, take, answer)
        });
        let transactions = self.transactions;
        let claim = self.add_claim(module);
        let seen = window.seen;
        function(module, PARAMS, &[I32], |code, params, locals| {
            let [id, .., timestamp, args, sink] = params;
            let errno = locals.add(I32);
            seen.at(code, OUT);
            code.call(transactions.start).must();
            code.call(begin);
            code.call(transactions.abort).must();
            reset.meter.begin_call(code);
            code.local_get(args);
            seen.at(code, HEADER);
            code.i32_const(header::LEN as i32).call(read).local_set(args);
            window.take_part(code, HEADER, header::LEN as u32);
            if let Some((_, _, take, _)) = handlers {
                code.local_get(id).is(handle).when(|code| {
                    code.local_get(args).call(take);
                    window.restore(code, WINDOW_END);
                });
            }
            window.restore(code, HOT_END);
            jwt.begin(code);
            code.i64_const(0).global_set(self.seq);
            self.parts.journal.end(code);
            code.i32_const(1).global_set(self.running);
            self.pauses.begin(code);

            // A row that is due takes the place of the arguments, and nobody hears what is returned.
            code.local_get(id).is(tick).when(|code| {
                code.local_get(args).call(claim).local_set(id);
                code.i32_const(jwt::ROW).local_set(args);
                sinks.mute(code, true);
            });
            if let Some((handlers, original, _, _)) = handlers {
                code.local_get(id).is(handle);
                handlers.are_called(code);
                code.binop(BinaryOp::I32And).when(|code| {
                    handlers.call(code, original, timestamp);
                    code.local_set(errno);
                    handlers.end(code);
                });
            }
            // Neither that, nor nothing.
            code.local_get(id).i32_const(tick).less().when(|code| {
                let Some(original) = entries.procedures else {
                    code.unreachable();
                    return;
                };
                code.local_get(id);
                for word in (header::SENDER_AT..header::TIMESTAMP_AT).step_by(8) {
                    window.own.get64(code, HEADER + word);
                }
                code.local_get(timestamp).local_get(args);
                sinks.begin(code, sink);
                code.call(original).local_set(errno);
                sinks.end(code);
            });
            sinks.mute(code, false);
            jwt.end(code);
            code.i32_const(0).global_set(self.running);
            // The host takes back what is left open.
            self.close(code);
            self.pauses.end(code);
            self.parts.scans.end(code);
            if let Some((.., answer)) = handlers {
                code.local_get(id).is(handle);
                code.local_get(errno).is_zero().binop(BinaryOp::I32And);
                code.when(|code| {
                    code.local_get(sink).call(answer);
                });
            }
            reset.reset(code);
            code.local_get(errno);
        })
    }

    /// `claim(source) -> procedure`: takes the row that is due, everywhere, and has it given as arguments; [`NONE`] if there is
    /// nothing to be called.
    fn add_claim(self, module: &mut Module) -> FunctionId {
        let start = self.add_start(module, self.transactions.start);
        let commit = self.add_commit(module, self.transactions.commit);
        let Parts {
            window,
            journal,
            schedules,
            read,
            ..
        } = self.parts;
        function(module, [I32], &[I32], |code, [source], locals| {
            let timer = Timer::add(locals);
            let [procedure, tries, conflict] = [(); 3].map(|()| locals.add(I32));
            schedules.read(code, read, source, timer);
            code.i32_const(CLAIMS_MAX).local_set(tries);
            code.repeat(
                |code| {
                    code.local_get(tries);
                },
                |code| {
                    window.seen.at(code, OUT);
                    code.call(start).must();
                    schedules.find(code, timer, procedure);
                    code.local_get(procedure).is(NONE).if_else(
                        None,
                        |code| {
                            self.close(code);
                            code.call(self.transactions.abort).must();
                            self.pauses.end_transaction(code);
                            code.i32_const(0).local_set(tries);
                        },
                        |code| {
                            journal.take(code, timer.schedule, timer.id);
                            code.local_get(tries).i32_const(1).sub();
                            code.i32_const(0).call(commit).local_tee(conflict);
                            code.select(Some(I32)).local_set(tries);
                        },
                    );
                },
            );
            window.restore(code, HOT_END);
            code.i32_const(NONE).local_get(procedure);
            code.local_get(conflict).select(Some(I32));
        })
    }

    /// A transaction is over.
    fn close(self, code: &mut Code<'_>) {
        self.parts.journal.end(code);
        code.i32_const(0).global_set(self.parts.in_call);
    }

    fn add_start(self, module: &mut Module, real: FunctionId) -> FunctionId {
        let (window, own) = (self.parts.window, self.parts.window.own);
        function(module, [I32], &[I32], |code, [out], locals| {
            let errno = locals.add(I32);
            code.global_get(self.running).is_zero().trap_if();
            code.local_get(out).call(real).local_tee(errno).when(|code| {
                code.local_get(errno).return_();
            });
            window.borrow(code, HOT_END, |code| {
                // There is a state before there are clients.
                code.call(self.parts.state.read).is_zero().trap_if();
                window.take_part(code, ARGUMENT, HOT_END);
            });
            self.parts.sequences.begin(code);
            self.parts.passed.begin(code);
            self.parts.journal.begin(
                code,
                |code| own.get64(code, HEADER + header::INDEX_AT),
                |code| own.get64(code, STATE_INDEX),
            );
            self.pauses.begin_transaction(code);
            code.i32_const(1).global_set(self.parts.in_call).i32_const(0);
        })
    }

    fn add_abort(self, module: &mut Module, real: FunctionId) -> FunctionId {
        function(module, [], &[I32], |code, [], _| {
            self.close(code);
            code.call(real);
            self.pauses.end_transaction(code);
        })
    }

    /// `commit() -> errno`: takes back what has been done here, and has it done everywhere.
    fn add_commit(self, module: &mut Module, real: FunctionId) -> FunctionId {
        let Transactions {
            start, commit, abort, ..
        } = self.transactions;
        let publish = self.parts.journal.add_publish(module, self.parts.host.insert);
        let look = self.add_look(module);
        let (window, seen) = (self.parts.window, self.parts.window.seen);
        function(module, [], &[I32], |code, [], locals| {
            let [verdict, empty] = [(); 2].map(|()| locals.add(I32));
            let [now, until, pause] = [(); 3].map(|()| locals.add(I64));
            code.global_get(self.parts.journal.open).is_zero().when(|code| {
                code.call(real).return_();
            });
            self.parts.journal.is_empty(code);
            code.local_set(empty);
            self.close(code);
            code.call(abort).must();
            code.local_get(empty).when(|code| {
                self.pauses.end_transaction(code);
                code.i32_const(0).return_();
            });
            code.global_get(self.seq)
                .i64_const(1)
                .binop(BinaryOp::I64Add)
                .global_set(self.seq);
            window.borrow(code, HOT_END, |code| {
                seen.at(code, OUT);
                code.call(start).must();
                seen.get64(code, OUT);
                code.local_set(now);
            });
            code.global_get(self.seq).call(publish).call(commit).must();

            code.local_get(now)
                .i64_const(WAIT_MAX_US)
                .binop(BinaryOp::I64Add)
                .local_set(until);
            code.i64_const(PAUSE_MIN_US).local_set(pause);
            code.repeat(
                |code| {
                    code.local_get(verdict).is_zero();
                },
                |code| {
                    code.local_get(now).local_get(until);
                    code.binop(BinaryOp::I64GtS).trap_if();
                    code.local_get(now).local_get(pause).binop(BinaryOp::I64Add);
                    code.call(self.transactions.sleep_until).local_set(now);
                    code.call(look).local_set(verdict);
                    code.local_get(pause).i64_const(1).binop(BinaryOp::I64Shl);
                    code.local_set(pause);
                    code.i64_const(PAUSE_MAX_US).local_get(pause);
                    code.local_get(pause).i64_const(PAUSE_MAX_US);
                    code.binop(BinaryOp::I64GtS).select(Some(I64)).local_set(pause);
                },
            );
            self.pauses.waited(code);
            let is = |code: &mut Code<'_>, value: TransactionVerdict| {
                code.local_get(verdict).is(value as i32);
            };
            is(code, TransactionVerdict::Conflict);
            code.when(|code| {
                code.i32_const(abi::NOT_COMMITTED).return_();
            });
            is(code, TransactionVerdict::Committed);
            code.is_zero().trap_if();
            code.i32_const(0);
        })
    }

    /// `look() -> verdict`: on the transaction that was published last; 0 if there is none yet.
    fn add_look(self, module: &mut Module) -> FunctionId {
        let Transactions { start, abort, .. } = self.transactions;
        let Window { seen, own, .. } = self.parts.window;
        function(module, [], &[I32], |code, [], locals| {
            let [verdict, bytes] = [(); 2].map(|()| locals.add(I32));
            self.parts.window.borrow(code, HOT_END, |code| {
                seen.at(code, OUT);
                code.call(start).must();
                bound(code, self.parts.window, |code| {
                    own.get64(code, HEADER + header::INDEX_AT)
                });
                own.get32(code, VERDICT_INDEX_ID);
                push_bounds(code, self.parts.window, BOUND_BYTES);
                code.call(self.parts.host.scan_range).must();
                code.i32_const(VERDICT_BYTES as i32).local_set(bytes);
                seen.set32(code, LEN, bytes);
                seen.get32(code, OUT);
                seen.at(code, VERDICT);
                seen.at(code, LEN);
                code.call(self.parts.host.advance)
                    .i32_const(abi::EXHAUSTED)
                    .binop(BinaryOp::I32Ne)
                    .trap_if();
                code.call(abort).must();
                seen.get32(code, LEN);
                code.is(VERDICT_BYTES as i32);
                seen.get64(code, VERDICT_SEQ);
                code.global_get(self.seq).binop(BinaryOp::I64Eq);
                code.binop(BinaryOp::I32And).when(|code| {
                    seen.at(code, VERDICT_VALUE);
                    code.read8(seen.memory).local_set(verdict);
                });
            });
            code.local_get(verdict);
        })
    }
}

/// `settle(source)`: `run: u64, seq: u64, verdict: u8`. What waited goes, and what it waited for comes.
pub(super) fn add_settle(module: &mut Module, host: Host, window: Window, read: FunctionId) -> FunctionId {
    let Window { seen, own, .. } = window;
    function(module, [I32], &[], |code, [source], locals| {
        let bytes = locals.add(I32);
        window.mark(code, HOT_END);
        code.local_get(source);
        seen.at(code, VERDICT);
        code.i32_const(VERDICT_BYTES as i32).call(read).drop();
        seen.get64(code, VERDICT);
        code.i64_const(0).binop(BinaryOp::I64Eq).when(|code| {
            seen.at(code, BOUND);
            code.i32_const(UNBOUNDED).write8(seen.memory);
            own.get32(code, VERDICT_INDEX_ID);
            push_bounds(code, window, 1);
            code.call(host.delete_range).must().return_();
        });
        for index in [OUTBOX_INDEX_ID, VERDICT_INDEX_ID] {
            bound(code, window, |code| seen.get64(code, VERDICT));
            own.get32(code, index);
            push_bounds(code, window, BOUND_BYTES);
            code.call(host.delete_range).must();
        }
        seen.at(code, VERDICT_VALUE);
        code.read8(seen.memory).when(|code| {
            code.i32_const(VERDICT_BYTES as i32).local_set(bytes);
            seen.set32(code, LEN, bytes);
            own.get32(code, VERDICT_TABLE_ID);
            seen.at(code, VERDICT);
            seen.at(code, LEN);
            code.call(host.insert).must();
        });
    })
}

/// The tag of `Bound::Unbounded`.
const UNBOUNDED: i32 = 2;

/// Puts an inclusive bound into the window: the key that `key` pushes.
fn bound(code: &mut Code<'_>, window: Window, key: impl FnOnce(&mut Code<'_>)) {
    window.seen.at(code, BOUND);
    code.i32_const(0).write8(window.seen.memory);
    window.seen.set64(code, BOUND_KEY, key);
}

/// Pushes what follows the index among the arguments of a range function: the same bound twice, and where it leaves what it
/// finds.
fn push_bounds(code: &mut Code<'_>, window: Window, bytes: u32) {
    window.seen.at(code, BOUND);
    code.i32_const(0).i32_const(0);
    for _ in 0..2 {
        window.seen.at(code, BOUND);
        code.i32_const(bytes as i32);
    }
    window.seen.at(code, OUT);
}
