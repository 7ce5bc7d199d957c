//! Rows that are due: `rtdb_scheduled` calls a reducer with one, and `rtdb_unscheduled` deletes it afterwards, if it is for
//! one time. Neither does if the row was moved to another time while the command was on its way; what the reducer itself has
//! made of it does not count, as natively. Those that call procedures are found for `rtdb_tick`, and taken before that.
//!
//! The reducer gets the row as it stands in the transaction of its call, from a source of ours: no server has it as
//! arguments, and it may be of any length. The rows of `rtdb_immediate` are due, too, and name what they call; it gets the
//! arguments that stand in them.

use walrus::ir::BinaryOp;
use walrus::{FunctionId, LocalId, Module, ModuleLocals};

use super::digest::{Digest, Operation};
use super::emit::{Code, Emit, I32, I64, function};
use super::given::Given;
use super::host::{self, Host};
use super::jwt;
use super::layout::*;
use super::scan::Scans;
use super::walk;
use super::window::Window;
use crate::IMMEDIATE_SCHEDULE;
use crate::abi;
use crate::plan::{Called, Plan, SchedulePlan};
use crate::timers::{ANY, TIME};

/// The arguments: `schedule: u32, id: u64`, then the row's `ScheduleAt`, as far as it is known.
const ROW_BYTES: i32 = 12;
const AT_BYTES: i32 = 9;
const _: () = assert!(ARGUMENT + ROW_BYTES as u32 <= STATE_INDEX);

/// The number of no function.
pub(super) const NONE: i32 = -1;

/// What it takes to find and delete such rows.
pub(super) struct Parts<'a> {
    pub(super) host: Host,
    pub(super) window: Window,
    pub(super) scans: Scans,
    pub(super) digest: Digest,
    pub(super) row: Given,
    pub(super) layout: &'a Layout,
    /// `named() -> id`: what a row of `rtdb_immediate` calls, whose arguments are given from then on. If there is such a table.
    pub(super) named: Option<FunctionId>,
}

/// The functions that the wrapped call makes use of.
#[derive(Clone, Copy)]
pub(super) struct Schedules {
    window: Window,
    row: Given,
    /// The place of that of `rtdb_immediate`, if there is one.
    immediate: Option<u32>,
    /// `fetch(schedule, id) -> bytes`: has the source of the row give it; 0 if there is none.
    fetch: FunctionId,
    /// `reducer(schedule) -> id`, or [`NONE`] if it calls a procedure, or the row that was fetched names no reducer.
    reducer: FunctionId,
    /// `procedure(schedule) -> id`, or [`NONE`] if it calls a reducer.
    procedure: FunctionId,
    /// `is_due(schedule, tag, micros) -> i32`: whether the row that was fetched says so.
    is_due: FunctionId,
    /// `remove(schedule, id, tag, micros, ran)`: deletes the row if it is there and for one time, and has run or is due.
    remove: FunctionId,
}

/// The arguments, in locals.
#[derive(Clone, Copy)]
pub(super) struct Timer {
    pub(super) schedule: LocalId,
    pub(super) id: LocalId,
    /// Of the row's `ScheduleAt`, or [`ANY`].
    tag: LocalId,
    micros: LocalId,
}

impl Timer {
    pub(super) fn add(locals: &mut ModuleLocals) -> Self {
        Self {
            schedule: locals.add(I32),
            id: locals.add(I64),
            tag: locals.add(I32),
            micros: locals.add(I64),
        }
    }
}

/// How an index finds and deletes the row of a key, which stands in the window: each an index's id on the stack, and what is
/// left at [`OUT`].
#[derive(Clone, Copy)]
enum Access {
    Range,
    /// Of hash indexes, which know nothing of ranges.
    Point {
        scan: FunctionId,
        delete: FunctionId,
    },
}

impl Schedules {
    pub(super) fn add(module: &mut Module, plan: &Plan, parts: &Parts<'_>) -> Self {
        let mut point = None;
        let access: Vec<_> = plan
            .schedules
            .iter()
            .map(|it| match plan.tables[it.table].order.indexes[it.index].ordered {
                true => Access::Range,
                false => *point.get_or_insert_with(|| Access::point(module)),
            })
            .collect();
        let fetch = parts.add_fetch(module, &access);
        let at = parts.add_at(module, plan);
        let is_due = parts.add_is_due(module, at);
        Self {
            window: parts.window,
            row: parts.row,
            immediate: plan.immediate.then(|| plan.own_schedules()),
            fetch,
            reducer: choose(module, &plan.schedules, |code, plan| {
                match plan.called {
                    Called::Reducer(id) => code.i32_const(id as i32),
                    Called::Procedure(_) => code.i32_const(NONE),
                    Called::Named => match parts.named {
                        Some(named) => code.call(named),
                        None => code.unreachable(),
                    },
                };
            }),
            procedure: choose(module, &plan.schedules, |code, plan| {
                code.i32_const(match plan.called {
                    Called::Procedure(id) => id as i32,
                    Called::Reducer(_) | Called::Named => NONE,
                });
            }),
            is_due,
            remove: parts.add_remove(module, plan, &access, [fetch, at, is_due]),
        }
    }

    /// Reads the arguments from a source. The window is the module's.
    pub(super) fn read(self, code: &mut Code<'_>, read: FunctionId, source: LocalId, timer: Timer) {
        let seen = self.window.seen;
        self.window.borrow(code, HOT_END, |code| {
            code.local_get(source);
            seen.at(code, ARGUMENT);
            code.i32_const(ROW_BYTES).call(read).local_set(source);
            seen.get32(code, ARGUMENT);
            code.local_set(timer.schedule);
            if let Some(place) = self.immediate {
                code.local_get(timer.schedule).is(place as i32).trap_if();
                code.local_get(timer.schedule).is(IMMEDIATE_SCHEDULE as i32);
                code.when(|code| {
                    code.i32_const(place as i32).local_set(timer.schedule);
                });
            }
            seen.get64(code, ARGUMENT + 4);
            code.local_set(timer.id);
            code.local_get(source);
            seen.at(code, ARGUMENT);
            code.i32_const(AT_BYTES).call(read).drop();
            seen.at(code, ARGUMENT);
            code.read8(seen.memory).local_set(timer.tag);
            seen.get64(code, ARGUMENT + 1);
            code.local_set(timer.micros);
        });
    }

    /// `rtdb_scheduled`: sets `reducer` to what is to be called with the row. Without a row it stays as it is. `fail` ends
    /// the call if the row is due at another time, or calls no reducer.
    pub(super) fn begin(
        self,
        code: &mut Code<'_>,
        read: FunctionId,
        source: LocalId,
        timer: Timer,
        reducer: LocalId,
        fail: impl FnOnce(&mut Code<'_>),
    ) {
        self.read(code, read, source, timer);
        let Timer {
            schedule,
            id,
            tag,
            micros,
        } = timer;
        code.local_get(schedule).local_get(id).call(self.fetch);
        code.when(|code| {
            code.local_get(schedule).local_get(tag).local_get(micros);
            code.call(self.is_due);
            code.local_get(schedule).call(self.reducer).local_tee(reducer);
            code.is(NONE).is_zero().binop(BinaryOp::I32And);
            code.is_zero().when(fail);
        });
    }

    /// Pushes the source of what is given to the reducer: none if that is nothing.
    pub(super) fn source(self, code: &mut Code<'_>) {
        code.i32_const(jwt::ROW).i32_const(0);
        self.row.left(code);
        code.select(Some(I32));
    }

    /// `rtdb_tick`: sets `procedure` to what is to be called with the row; [`NONE`] if there is none, or it is not due then.
    pub(super) fn find(self, code: &mut Code<'_>, timer: Timer, procedure: LocalId) {
        code.i32_const(NONE).local_set(procedure);
        code.local_get(timer.schedule)
            .local_get(timer.id)
            .call(self.fetch);
        code.when(|code| {
            code.local_get(timer.schedule);
            code.local_get(timer.tag).local_get(timer.micros);
            code.call(self.is_due).when(|code| {
                code.local_get(timer.schedule)
                    .call(self.procedure)
                    .local_set(procedure);
            });
        });
    }

    /// Deletes the row if it is for one time. Pops the schedule and the key.
    pub(super) fn take(self, code: &mut Code<'_>) {
        code.i32_const(ANY.into()).i64_const(0).i32_const(1);
        code.call(self.remove);
    }

    /// `rtdb_unscheduled`, told whether the call before it has run with the row.
    pub(super) fn end(
        self,
        code: &mut Code<'_>,
        read: FunctionId,
        source: LocalId,
        timer: Timer,
        ran: LocalId,
    ) {
        self.read(code, read, source, timer);
        code.local_get(timer.schedule).call(self.procedure);
        code.is(NONE).when(|code| {
            code.local_get(timer.schedule).local_get(timer.id);
            code.local_get(timer.tag).local_get(timer.micros);
            code.local_get(ran).call(self.remove);
        });
    }
}

/// `choose(schedule) -> i32`: by the way of each schedule. Traps if there is no such one.
fn choose(
    module: &mut Module,
    schedules: &[SchedulePlan],
    way: impl Fn(&mut Code<'_>, &SchedulePlan),
) -> FunctionId {
    function(module, [I32], &[I32], |code, [schedule], _| {
        for (plan, number) in schedules.iter().zip(0..) {
            code.local_get(schedule).is(number).when(|code| {
                way(code, plan);
                code.return_();
            });
        }
        code.unreachable();
    })
}

impl Access {
    fn point(module: &mut Module) -> Self {
        let mut import = |name| host::add(module, abi::POINT_SCANS, name, 4);
        Self::Point {
            scan: import("datastore_index_scan_point_bsatn"),
            delete: import("datastore_delete_by_index_scan_point_bsatn"),
        }
    }

    /// Scans, or deletes from, the index whose id is on the stack.
    fn call(self, code: &mut Code<'_>, host: Host, window: Window, deletes: bool) {
        let seen = window.seen;
        let function = match self {
            Self::Range => {
                // No prefix, the same bound twice.
                seen.at(code, BOUND);
                code.i32_const(0).i32_const(0);
                for _ in 0..2 {
                    seen.at(code, BOUND);
                    code.i32_const(BOUND_BYTES as i32);
                }
                if deletes {
                    host.delete_range
                } else {
                    host.scan_range
                }
            }
            Self::Point { scan, delete } => {
                seen.at(code, BOUND_KEY);
                code.i32_const(8);
                if deletes { delete } else { scan }
            }
        };
        seen.at(code, OUT);
        code.call(function).must();
    }
}

impl Parts<'_> {
    /// Lends the window to `body`, with the key as a bound.
    fn with_key(&self, code: &mut Code<'_>, id: LocalId, body: impl FnOnce(&mut Code<'_>)) {
        let seen = self.window.seen;
        self.window.borrow(code, HOT_END, |code| {
            seen.at(code, BOUND);
            code.i32_const(0).write8(seen.memory);
            seen.set64(code, BOUND_KEY, |code| {
                code.local_get(id);
            });
            body(code);
        });
    }

    /// By the way of the schedule's own index: pushes its id, and calls.
    fn access(&self, code: &mut Code<'_>, schedule: LocalId, access: &[Access], deletes: bool) {
        for (number, access) in access.iter().enumerate() {
            code.local_get(schedule).is(number as i32).when(|code| {
                self.window
                    .own
                    .get32(code, self.layout.schedules + 4 * number as u32);
                access.call(code, self.host, self.window, deletes);
            });
        }
    }

    fn add_fetch(&self, module: &mut Module, access: &[Access]) -> FunctionId {
        let seen = self.window.seen;
        let (_, place) = self.scans.memory();
        let params = [I32, I64];
        function(module, params, &[I32], |code, [schedule, id], locals| {
            let [handle, bytes, errno] = [(); 3].map(|()| locals.add(I32));
            code.local_get(schedule).i32_const(access.len() as i32);
            code.binop(BinaryOp::I32GeU).trap_if();
            self.with_key(code, id, |code| {
                self.access(code, schedule, access, false);
                seen.get32(code, OUT);
                code.local_set(handle);
                // There is no room for a row: the host says how long it is.
                seen.set32(code, LEN, bytes);
                code.local_get(handle);
                seen.at(code, ARGUMENT);
                seen.at(code, LEN);
                code.call(self.host.advance)
                    .local_tee(errno)
                    .is(abi::EXHAUSTED)
                    .is_zero();
                code.when(|code| {
                    code.local_get(errno)
                        .i32_const(abi::BUFFER_TOO_SMALL)
                        .binop(BinaryOp::I32Ne)
                        .trap_if();
                    self.scans
                        .take_row(code, handle, bytes, |code| seen.at(code, LEN));
                });
            });
            self.row.set(
                code,
                |code| {
                    code.i32_const(place as i32);
                },
                |code| {
                    code.local_get(bytes);
                },
            );
            code.local_get(bytes);
        })
    }

    fn add_remove(
        &self,
        module: &mut Module,
        plan: &Plan,
        access: &[Access],
        [fetch, at, is_due]: [FunctionId; 3],
    ) -> FunctionId {
        let (memory, _) = self.scans.memory();
        let table = choose(module, &plan.schedules, |code, plan| {
            code.i32_const(plan.table as i32);
        });
        let seen = self.window.seen;
        let params = [I32, I64, I32, I64, I32];
        function(
            module,
            params,
            &[],
            |code, [schedule, id, tag, micros, ran], _| {
                let keep = |code: &mut Code<'_>| {
                    code.return_();
                };
                code.local_get(schedule).local_get(id).call(fetch);
                code.is_zero().when(keep);
                code.local_get(schedule).call(at).read8(memory);
                code.is(TIME.into()).is_zero().when(keep);
                code.local_get(ran).is_zero().when(|code| {
                    code.local_get(schedule).local_get(tag).local_get(micros);
                    code.call(is_due).is_zero().when(keep);
                });
                self.with_key(code, id, |code| {
                    self.access(code, schedule, access, true);
                    code.local_get(schedule).call(table);
                    self.digest.operation(code, Operation::DeletePoint);
                    seen.at(code, BOUND_KEY);
                    code.i32_const(8);
                    self.digest.bytes(code);
                });
            },
        )
    }

    /// `at(schedule) -> address`: where the `ScheduleAt` of the row stands that was fetched.
    fn add_at(&self, module: &mut Module, plan: &Plan) -> FunctionId {
        let (memory, _) = self.scans.memory();
        function(module, [I32], &[I32], |code, [schedule], locals| {
            let at = locals.add(I32);
            self.row.at(code);
            code.local_set(at);
            for (plan, number) in plan.schedules.iter().zip(0..) {
                code.local_get(schedule).is(number).when(|code| {
                    walk::skip(code, memory, at, &plan.before, locals);
                    code.local_get(at).return_();
                });
            }
            code.unreachable();
        })
    }

    fn add_is_due(&self, module: &mut Module, at: FunctionId) -> FunctionId {
        let (memory, _) = self.scans.memory();
        let params = [I32, I32, I64];
        function(module, params, &[I32], |code, [schedule, tag, micros], locals| {
            let row = locals.add(I32);
            code.local_get(tag).is(ANY.into()).when(|code| {
                code.i32_const(1).return_();
            });
            code.local_get(schedule).call(at).local_tee(row);
            code.read8(memory).local_get(tag).binop(BinaryOp::I32Eq);
            code.local_get(row)
                .read64(memory, 1)
                .local_get(micros)
                .binop(BinaryOp::I64Eq)
                .binop(BinaryOp::I32And);
        })
    }
}
