//! The wrapped `__call_reducer__`.

use walrus::ir::BinaryOp;
use walrus::{FunctionId, GlobalId, Module};

use super::emit::{Code, Emit, I32, I64, function};
use super::host::Host;
use super::layout::*;
use super::scan::Scans;
use super::scratch::Scratch;
use super::sequence::Sequences;
use super::state::State;
use super::{load, source, successes};
use crate::header;
use crate::plan::Plan;

/// What a call is made of.
pub(super) struct Call {
    pub(super) host: Host,
    pub(super) scratch: Scratch,
    pub(super) digest: GlobalId,
    pub(super) in_call: GlobalId,
    pub(super) state: State,
    pub(super) sequences: Sequences,
    pub(super) scans: Scans,
    /// `setup()`.
    pub(super) setup: FunctionId,
    /// The module's own `__call_reducer__`.
    pub(super) original: FunctionId,
}

impl Call {
    pub(super) fn add(self, module: &mut Module, plan: &Plan) -> FunctionId {
        let Self {
            scratch,
            digest,
            in_call,
            state,
            sequences,
            scans,
            ..
        } = self;
        let read = source::add(module, self.host, scratch);
        let load = load::add(module, self.host, scratch, read);
        let count = successes::add_count(module, scratch);
        let [mark, disconnect, load_id] = [0, 1, 2].map(|hidden| (plan.reducers + hidden) as i32);
        let params = [I32, I64, I64, I64, I64, I64, I64, I64, I32, I32];
        function(module, params, &[I32], |code, params, locals| {
            let [id, .., args, error] = params;
            let (present, errno) = (locals.add(I32), locals.add(I32));
            code.global_get(scratch.base).is_zero().when(|code| {
                code.call(self.setup);
            });
            code.local_get(args);
            scratch.at(code, HEADER);
            code.i32_const(header::LEN as i32).call(read).local_set(args);
            code.call(state.read).local_set(present);
            code.local_get(id).is(load_id).when(|code| {
                code.local_get(present).trap_if();
                code.local_get(args).call(load).i32_const(0).return_();
            });

            // Exactly once: what is applied already succeeds, and does nothing.
            code.local_get(present).when(|code| {
                scratch.get64(code, HEADER + header::INDEX_AT);
                scratch.get64(code, STATE_INDEX);
                code.binop(BinaryOp::I64LeU).when(|code| {
                    code.i32_const(0).return_();
                });
            });
            scratch.get64(code, STATE_DIGEST);
            code.global_set(digest);
            sequences.begin(code);
            scans.begin(code);

            code.local_get(id)
                .i32_const(plan.reducers as i32)
                .binop(BinaryOp::I32LtU);
            code.when(|code| {
                code.i32_const(1).global_set(in_call);
                code.local_get(id);
                for word in (header::SENDER_AT..header::INDEX_AT).step_by(8) {
                    scratch.get64(code, HEADER + word);
                }
                code.local_get(args)
                    .local_get(error)
                    .call(self.original)
                    .local_set(errno);
                code.i32_const(0).global_set(in_call);
                code.local_get(errno).when(|code| {
                    code.local_get(errno).return_();
                });
            });

            code.local_get(id).is(mark).when(|code| {
                code.local_get(args);
                scratch.at(code, ARGUMENT);
                code.i32_const(1).call(read).drop();
                scratch.at(code, ARGUMENT);
                code.read8(scratch.memory).when(|code| published(code, scratch));
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
                    code.i64_const(0).binop(BinaryOp::I64Ne).when(|code| {
                        code.call(state.receipt);
                    });
                },
            );
            code.i32_const(0);
        })
    }
}

/// This call's position is where the running module was published.
fn published(code: &mut Code<'_>, scratch: Scratch) {
    scratch.set64(code, STATE_MODULE, |code| {
        scratch.get64(code, HEADER + header::INDEX_AT)
    });
}
