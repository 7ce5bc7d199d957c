//! The wrapped `__call_reducer__`.

use walrus::ir::BinaryOp;
use walrus::{FunctionId, GlobalId, LocalId, Module, ValType};

use super::describe::Sinks;
use super::emit::{Code, Emit, I32, I64, function};
use super::host::Host;
use super::jwt::Jwt;
use super::layout::*;
use super::scan::Scans;
use super::schedules::{Schedules, Timer};
use super::scratch::Scratch;
use super::sequence::Sequences;
use super::state::State;
use super::views::Views;
use super::window::Window;
use super::{load, successes};
use crate::abi;
use crate::header;
use crate::plan::Plan;
use crate::reset::Reset;
use crate::views::{REFRESH_ALL, REFRESH_BRIEFLY};

/// What a call is made of.
pub(super) struct Call {
    pub(super) host: Host,
    pub(super) window: Window,
    pub(super) reset: Reset,
    pub(super) digest: GlobalId,
    pub(super) in_call: GlobalId,
    pub(super) state: State,
    pub(super) sequences: Sequences,
    /// If the module may have views.
    pub(super) views: Option<Views>,
    pub(super) jwt: Jwt,
    pub(super) schedules: Schedules,
    /// `read(source, to, len) -> source`.
    pub(super) read: FunctionId,
    /// The error of a call that is passed over.
    pub(super) skipped: Name,
    /// The error of changes with a unique value that is taken.
    pub(super) taken: Name,
    /// The error of a row that is due at another time.
    pub(super) not_due: Name,
    /// The error of a procedure's transaction that comes too late.
    pub(super) conflict: Name,
    /// `apply(source) -> errno`.
    pub(super) apply: FunctionId,
    /// `replay(source) -> conflict`, if the module has procedures.
    pub(super) replay: Option<FunctionId>,
    /// `settle(source)`, if the module may have some.
    pub(super) settle: Option<FunctionId>,
    /// `forget()`, if the module asks for no calls at once: what one before it has asked for is not made.
    pub(super) forget: Option<FunctionId>,
    /// `begin()`.
    pub(super) begin: FunctionId,
    pub(super) scans: Scans,
    pub(super) sinks: Sinks,
    /// The module's own `__call_reducer__`.
    pub(super) original: FunctionId,
}

/// The parameters of `__call_reducer__`.
pub(super) const PARAMS: [ValType; 10] = [I32, I64, I64, I64, I64, I64, I64, I64, I32, I32];

impl Call {
    pub(super) fn add(self, module: &mut Module, plan: &Plan) -> FunctionId {
        let (begin, scans, reset) = (self.begin, self.scans, self.reset);
        let body = self.add_body(module, plan);
        function(module, PARAMS, &[I32], |code, params, _| {
            code.call(begin);
            reset.meter.begin_call(code);
            for param in params {
                code.local_get(param);
            }
            code.call(body);
            scans.end(code);
            reset.reset(code);
        })
    }

    /// `call(..) -> errno`: all but what is done before and after each call of an instance.
    fn add_body(&self, module: &mut Module, plan: &Plan) -> FunctionId {
        let &Self {
            window,
            digest,
            in_call,
            state,
            sequences,
            views,
            jwt,
            schedules,
            ..
        } = self;
        let (seen, scratch) = (window.seen, window.own);
        let read = self.read;
        let identify = jwt.add_identify(module, read);
        let load = load::add(module, self.host, window, self.reset, read);
        let count = successes::add_count(module, scratch);
        let [
            mark,
            disconnect,
            load_id,
            identify_id,
            scheduled,
            unscheduled,
            apply_id,
            refresh_id,
            replay_id,
            settle_id,
        ] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9].map(|hidden| (plan.reducers + hidden) as i32);
        function(module, PARAMS, &[I32], |code, params, locals| {
            let [id, .., args, error] = params;
            let [present, errno, reducer, ran] = [(); 4].map(|()| locals.add(I32));
            let (timer, key) = (Timer::add(locals), locals.add(I64));
            code.local_get(args);
            seen.at(code, HEADER);
            code.i32_const(header::LEN as i32).call(read).local_set(args);
            code.call(state.read).local_set(present);
            window.take(code);
            window.restore(code, HOT_END);
            code.local_get(id).is(load_id).when(|code| {
                code.local_get(present).trap_if();
                code.local_get(args).call(load).i32_const(0).return_();
            });

            // Not of the log: nothing is recorded.
            if let Some(views) = views {
                code.local_get(id).is(refresh_id).when(|code| {
                    window.mark(code, HOT_END);
                    code.local_get(args);
                    seen.at(code, ARGUMENT);
                    code.i32_const(8).call(read).drop();
                    seen.get64(code, ARGUMENT);
                    code.local_tee(key).i64_const(REFRESH_BRIEFLY.cast_signed());
                    code.binop(BinaryOp::I64Eq).when(|code| {
                        self.reset.meter.be_brief(code);
                        code.i64_const(REFRESH_ALL.cast_signed()).local_set(key);
                    });
                    code.local_get(key).call(views.mark).i32_const(0).return_();
                });
            }

            if let Some(settle) = self.settle {
                code.local_get(id).is(settle_id).when(|code| {
                    code.local_get(args).call(settle).i32_const(0).return_();
                });
            }

            // Exactly once: what is applied already does nothing. The module's own reducers say so, `rtdb_scheduled`,
            // `rtdb_apply` and `rtdb_replay`.
            code.local_get(present).when(|code| {
                scratch.get64(code, HEADER + header::INDEX_AT);
                scratch.get64(code, STATE_INDEX);
                code.binop(BinaryOp::I64LeU).when(|code| {
                    code.local_get(id).i32_const(plan.reducers as i32).less();
                    for hidden in [scheduled, apply_id, replay_id] {
                        code.local_get(id).is(hidden).binop(BinaryOp::I32Or);
                    }
                    code.when(|code| self.fail(code, error, self.skipped));
                    code.i32_const(0).return_();
                });
            });
            code.local_get(id).is(identify_id).when(|code| {
                code.local_get(args).call(identify).i32_const(0).return_();
            });
            scratch.get64(code, STATE_DIGEST);
            code.global_set(digest);
            sequences.begin(code);
            jwt.begin(code);

            // A row that is due takes the place of the arguments.
            code.local_get(id).local_set(reducer);
            code.local_get(id).is(scheduled).when(|code| {
                schedules.begin(code, read, args, timer, reducer, |code| {
                    self.fail(code, error, self.not_due);
                });
                schedules.source(code);
                code.local_set(args);
            });
            code.local_get(id).is(unscheduled).when(|code| {
                // Whether the call before it, at the position before, was of the row, and has succeeded.
                scratch.get64(code, STATE_INDEX);
                scratch.get64(code, HEADER + header::INDEX_AT);
                code.i64_const(1).binop(BinaryOp::I64Sub);
                code.binop(BinaryOp::I64Eq).local_set(ran);
                schedules.end(code, read, args, timer, ran);
            });
            code.local_get(reducer)
                .i32_const(plan.reducers as i32)
                .binop(BinaryOp::I32LtU);
            code.when(|code| {
                code.i32_const(1).global_set(in_call);
                code.local_get(reducer);
                for word in (header::SENDER_AT..header::INDEX_AT).step_by(8) {
                    scratch.get64(code, HEADER + word);
                }
                code.local_get(args);
                self.sinks.begin(code, error);
                code.call(self.original).local_set(errno);
                self.sinks.end(code);
                jwt.end(code);
                code.i32_const(0).global_set(in_call);
                code.local_get(errno).when(|code| {
                    code.local_get(errno).return_();
                });
            });

            code.local_get(id).is(apply_id).when(|code| {
                code.i32_const(1).global_set(in_call);
                code.local_get(args).call(self.apply).local_set(errno);
                code.i32_const(0).global_set(in_call);
                code.local_get(errno)
                    .when(|code| self.fail(code, error, self.taken));
            });

            code.local_get(id).is(replay_id).when(|code| {
                let Some(replay) = self.replay else {
                    code.unreachable();
                    return;
                };
                code.i32_const(1).global_set(in_call);
                code.local_get(args).call(replay).local_set(errno);
                code.i32_const(0).global_set(in_call);
                code.local_get(errno)
                    .when(|code| self.fail(code, error, self.conflict));
            });

            window.mark(code, HOT_END);
            code.local_get(id).is(mark).when(|code| {
                code.local_get(args);
                seen.at(code, ARGUMENT);
                code.i32_const(1).call(read).drop();
                seen.at(code, ARGUMENT);
                code.read8(seen.memory).when(|code| {
                    published(code, scratch);
                    if let Some(forget) = self.forget {
                        code.call(forget);
                    }
                });
            });
            if let Some(init) = plan.init {
                code.local_get(id)
                    .is(init as i32)
                    .when(|code| published(code, scratch));
            }

            scratch.set64(code, STATE_INDEX, |code| {
                scratch.get64(code, HEADER + header::INDEX_AT)
            });
            scratch.set64(code, STATE_DIGEST, |code| {
                code.global_get(digest);
            });
            code.call(count);
            sequences.store(code);
            window.show(code);
            code.call(state.write);

            code.local_get(id).is(disconnect);
            if let Some(disconnected) = plan.client_disconnected {
                code.local_get(id).is(disconnected as i32).binop(BinaryOp::I32Or);
            }
            code.if_else(
                None,
                |code| {
                    code.call(state.forget);
                },
                |code| {
                    scratch.get64(code, HEADER + header::SESSION_AT);
                    code.i64_const(0).binop(BinaryOp::I64GtS).when(|code| {
                        code.call(state.receipt);
                    });
                },
            );
            code.i32_const(0);
        })
    }
}

impl Call {
    /// Fails the call, and says why.
    fn fail(&self, code: &mut Code<'_>, error: LocalId, why: Name) {
        let seen = self.window.seen;
        self.window.mark(code, WINDOW_END);
        self.window.show_name(code, why);
        seen.at(code, LEN);
        code.i32_const(why.bytes as i32).write32(seen.memory, 0);
        code.local_get(error);
        seen.at(code, NAME);
        seen.at(code, LEN);
        code.call(self.host.sink_write).must();
        code.i32_const(abi::FAILED).return_();
    }
}

/// This call's position is where the running module was published.
fn published(code: &mut Code<'_>, scratch: Scratch) {
    scratch.set64(code, STATE_MODULE, |code| {
        scratch.get64(code, HEADER + header::INDEX_AT)
    });
}
