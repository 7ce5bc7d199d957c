//! `volatile_nonatomic_schedule_immediate`: a reducer is called right after, by its name. The host would do that by itself, on
//! each replica when it gets there, and forget it if it dies. Here the call stands in a row of `rtdb_immediate` until it is
//! made, which comes with the transaction that asks for it: so the log has it made, as it has rows of schedule tables that are
//! due, and once. What is to be called is found by its name again when its turn comes, since another module may run by then.

use walrus::ir::BinaryOp;
use walrus::{FunctionId, LocalId, MemoryId, Module};

use super::digest::{Digest, Operation};
use super::emit::{Code, Emit, I32, I64, function};
use super::given::Given;
use super::host::{self, Host, Imported};
use super::journal::Journal;
use super::layout::*;
use super::schedules::NONE;
use super::scratch::Scratch;
use super::window::{self, Window};
use super::write::Writes;
use crate::hidden::{IMMEDIATE_AT, IMMEDIATE_NAME};
use crate::plan::Plan;
use crate::reset::PAGE_BYTES;
use crate::timers::TIME;
use crate::{IMMEDIATE_ARGS_BYTES_MAX, IMMEDIATE_ROWS_MAX, PrepareError};
use crate::{abi, header, meter};

/// Where the host finds the row, behind its length: behind the window, which is used while the row is written. What stands
/// there is put back.
const LENT: u32 = window::AT + WINDOW_END;
const LENT_ROW: u32 = LENT + 4;
const _: () = assert!(
    LENT + IMMEDIATE_BYTES <= PAGE_BYTES,
    "each module has so much memory"
);
const ARGS_LEN_BYTES: u32 = 4;
/// Where the name's first byte stands in a row.
const NAME_AT: u32 = IMMEDIATE_NAME + 4;

/// Of names.
const LESS: i32 = -1;
const EQUAL: i32 = 0;
const GREATER: i32 = 1;
const WORD_BYTES: u32 = 8;

/// The tag of `Bound::Unbounded`.
const UNBOUNDED: i32 = 2;

/// What the module's log says of calls that can't be had.
const UNKNOWN: &str =
    "volatile_nonatomic_schedule_immediate: the module has no such reducer, and nothing is called";
const A_PROCEDURE: &str = "volatile_nonatomic_schedule_immediate: procedures can't be called like that";
const NOWHERE: &str =
    "volatile_nonatomic_schedule_immediate: outside of a transaction nothing can be scheduled";

/// What asks for such calls, and finds out what is to be called.
pub(super) struct Immediate<'a> {
    host: Host,
    window: Window,
    /// The module's memory.
    memory: MemoryId,
    layout: &'a Layout,
    /// The table's place.
    table: u32,
    /// The place for the id of its index.
    index_id: u32,
}

/// What stands in the place of the import, wherever it is imported.
#[derive(Clone, Copy)]
pub(super) struct Asking {
    ask: FunctionId,
    /// What it inserts rows by.
    pub(super) insert: FunctionId,
}

impl Asking {
    pub(super) fn wrap(self, module: &mut Module, import: &Imported) -> Result<(), PrepareError> {
        host::stand_in(module, import, 4, &[], self.ask)
    }
}

impl<'a> Immediate<'a> {
    /// If there is such a table: it is the last one.
    pub(super) fn new(plan: &Plan, host: Host, window: Window, layout: &'a Layout) -> Option<Self> {
        plan.immediate.then(|| Self {
            host,
            window,
            memory: window.seen.memory,
            layout,
            table: plan.tables.len() as u32 - 1,
            index_id: layout.schedules + 4 * plan.own_schedules(),
        })
    }

    /// Adds what leaves a row, by `writes` that know the table.
    pub(super) fn add(&self, module: &mut Module, writes: Writes, journal: Option<Journal>) -> Asking {
        let insert = writes.add_insert(module, self.host.insert);
        let insert = self.add_stamped(module, insert);
        let insert = match journal {
            Some(journal) => journal.record(module, Operation::Ask, insert),
            None => insert,
        };
        let ask = self.add_ask(module, writes, insert);
        Asking { ask, insert }
    }

    /// `insert(table, row, len_at) -> errno`: with the time of the call in the row. What a procedure writes gets it where that is
    /// made again: its own time is a node's.
    fn add_stamped(&self, module: &mut Module, insert: FunctionId) -> FunctionId {
        let own = self.window.own;
        function(module, [I32; 3], &[I32], |code, [table, row, len_at], _| {
            code.local_get(row);
            own.get64(code, HEADER + header::TIMESTAMP_AT);
            code.write64(self.memory, IMMEDIATE_AT + 1);
            code.local_get(table).local_get(row).local_get(len_at);
            code.call(insert);
        })
    }

    /// `ask(name, name_len, args, args_len)`.
    fn add_ask(&self, module: &mut Module, writes: Writes, insert: FunctionId) -> FunctionId {
        let own = self.window.own;
        let find = add_find(module, self.memory, own, self.layout.callable);
        let last_words =
            |module: &mut Module, words: String| meter::add_last_words(module, self.memory, words);
        let nowhere = last_words(module, NOWHERE.to_owned());
        let of_procedure = last_words(module, A_PROCEDURE.to_owned());
        let too_long = last_words(
            module,
            format!(
                "{}: a call may have {IMMEDIATE_ARGS_BYTES_MAX} bytes of arguments",
                abi::SCHEDULE_IMMEDIATE
            ),
        );
        let too_many = last_words(
            module,
            format!(
                "{}: {IMMEDIATE_ROWS_MAX} calls wait already",
                abi::SCHEDULE_IMMEDIATE
            ),
        );
        let unknown = meter::add_words(module, self.memory, UNKNOWN.to_owned());
        let count = self.add_count(module);
        let [row, saved] = self.layout.immediate;
        let params = [I32; 4];
        function(
            module,
            params,
            &[],
            |code, [name, name_len, args, args_len], locals| {
                let [at, bytes, number] = [(); 3].map(|()| locals.add(I32));
                code.global_get(writes.in_call).is_zero().when(|code| {
                    code.call(nowhere);
                });
                code.local_get(args_len)
                    .i32_const(IMMEDIATE_ARGS_BYTES_MAX as i32);
                code.binop(BinaryOp::I32GtU).when(|code| {
                    code.call(too_long);
                });
                code.local_get(name).local_get(name_len).call(find);
                code.local_tee(number).is(OF_PROCEDURE as i32).when(|code| {
                    code.call(of_procedure);
                });
                code.local_get(number).is(NONE).when(|code| {
                    self.window.borrow(code, WINDOW_END, |code| {
                        code.call(unknown);
                    });
                    code.return_();
                });
                code.call(count).i32_const(IMMEDIATE_ROWS_MAX as i32);
                code.binop(BinaryOp::I32GeU).when(|code| {
                    code.call(too_many);
                });

                // Its length comes first. The name or the arguments may stand where the host is to find it.
                let own_row = row + 4;
                own.set64(code, own_row, |code| {
                    code.i64_const(0);
                });
                own.at(code, own_row + IMMEDIATE_AT);
                code.i32_const(TIME.into()).write8(own.memory);
                own.set32(code, own_row + IMMEDIATE_NAME, name_len);
                own.at(code, own_row + NAME_AT);
                code.local_tee(at).local_get(name).local_get(name_len);
                code.memory_copy(self.memory, own.memory);
                code.local_get(at).local_get(name_len).add().local_tee(at);
                code.local_get(args_len).write32(own.memory, 0);
                code.local_get(at).plus(ARGS_LEN_BYTES).local_tee(at);
                code.local_get(args).local_get(args_len);
                code.memory_copy(self.memory, own.memory);
                code.local_get(at).local_get(args_len).add();
                own.at(code, own_row);
                code.sub().local_set(bytes);
                own.set32(code, row, bytes);
                code.advance(bytes, 4);

                own.at(code, saved);
                code.i32_const(LENT as i32).local_get(bytes);
                code.memory_copy(self.memory, own.memory);
                let lend = |code: &mut Code<'_>, from: u32| {
                    code.i32_const(LENT as i32);
                    own.at(code, from);
                    code.local_get(bytes).memory_copy(own.memory, self.memory);
                };
                lend(code, row);
                code.i32_const(self.table as i32 + 1);
                code.i32_const(LENT_ROW as i32).i32_const(LENT as i32);
                code.call(insert).must();
                lend(code, saved);
            },
        )
    }

    /// `count() -> rows`: how many wait.
    fn add_count(&self, module: &mut Module) -> FunctionId {
        let row_count = host::add(module, abi::BASE, "datastore_table_row_count", 2);
        let Window { seen, own, .. } = self.window;
        function(module, [], &[I32], |code, [], locals| {
            let rows = locals.add(I32);
            self.window.borrow(code, HOT_END, |code| {
                own.get32(code, self.layout.table_ids + self.table * TABLE_BYTES);
                seen.at(code, OUT);
                code.call(row_count).must();
                seen.get32(code, OUT);
                code.local_set(rows);
            });
            code.local_get(rows);
        })
    }

    /// `named() -> reducer`: what the row calls that `row` is to give, which then gives the arguments; [`NONE`] if the module
    /// has no reducer of that name.
    pub(super) fn add_named(&self, module: &mut Module, row: Given, rows: MemoryId) -> FunctionId {
        let find = add_find(module, rows, self.window.own, self.layout.callable);
        function(module, [], &[I32], |code, [], locals| {
            let [at, len, reducer] = [(); 3].map(|()| locals.add(I32));
            row.at(code);
            code.local_tee(at).read32(rows, IMMEDIATE_NAME).local_set(len);
            code.local_get(at).plus(NAME_AT).local_tee(at);
            code.local_get(len).call(find).local_set(reducer);
            code.local_get(at).local_get(len).add().local_set(at);
            row.set(
                code,
                |code| {
                    code.local_get(at).plus(ARGS_LEN_BYTES);
                },
                |code| {
                    code.local_get(at).read32(rows, 0);
                },
            );
            code.i32_const(NONE).local_get(reducer);
            code.local_get(reducer).is(OF_PROCEDURE as i32);
            code.select(Some(I32));
        })
    }

    /// `forget()`: none of the calls that wait is made. The window is the shim's.
    pub(super) fn add_forget(&self, module: &mut Module, digest: Digest) -> FunctionId {
        let Window { seen, own, .. } = self.window;
        function(module, [], &[], |code, [], _| {
            seen.at(code, BOUND);
            code.i32_const(UNBOUNDED).write8(seen.memory);
            own.get32(code, self.index_id);
            seen.at(code, BOUND);
            code.i32_const(0).i32_const(0);
            for _ in 0..2 {
                seen.at(code, BOUND);
                code.i32_const(1);
            }
            seen.at(code, OUT);
            code.call(self.host.delete_range).must();
            seen.get32(code, OUT);
            code.when(|code| {
                code.i32_const(self.table as i32);
                digest.operation(code, Operation::Clear);
                seen.at(code, OUT);
                code.i32_const(4);
                digest.bytes(code);
            });
        })
    }
}

/// `find(name, len) -> number`: of the name that stands there in `memory`: [`NONE`] if it is none of these.
fn add_find(module: &mut Module, memory: MemoryId, own: Scratch, names: Callable) -> FunctionId {
    let compare = add_compare(module, memory, own.memory);
    function(module, [I32; 2], &[I32], |code, [at, len], locals| {
        let [low, high, middle, entry, bytes, order] = [(); 6].map(|()| locals.add(I32));
        code.i32_const(names.count as i32).local_set(high);
        code.repeat(
            |code| {
                code.local_get(low).local_get(high).less();
            },
            |code| {
                code.local_get(low).local_get(high).add();
                code.i32_const(1).binop(BinaryOp::I32ShrU).local_tee(middle);
                code.i32_const(CALLABLE_BYTES as i32).binop(BinaryOp::I32Mul);
                own.at(code, names.entries);
                code.add().local_tee(entry);
                code.read32(own.memory, CALLABLE_LEN).local_tee(bytes);
                code.local_get(len).binop(BinaryOp::I32Eq).if_else(
                    I32,
                    |code| {
                        code.local_get(at);
                        own.at(code, 0);
                        code.local_get(entry).read32(own.memory, 0).add();
                        code.local_get(len).call(compare);
                    },
                    |code| {
                        code.i32_const(GREATER).i32_const(LESS);
                        code.local_get(bytes).local_get(len).less();
                        code.select(Some(I32));
                    },
                );
                code.local_tee(order).is(EQUAL).when(|code| {
                    code.local_get(entry).read32(own.memory, CALLABLE_NUMBER);
                    code.return_();
                });
                code.local_get(order).is(GREATER).if_else(
                    None,
                    |code| {
                        code.local_get(middle).plus(1).local_set(low);
                    },
                    |code| {
                        code.local_get(middle).local_set(high);
                    },
                );
            },
        );
        code.i32_const(NONE);
    })
}

/// `compare(a, b, bytes) -> i32`: the order of what stands in two memories, as that of [`Callable`].
fn add_compare(module: &mut Module, memory: MemoryId, other: MemoryId) -> FunctionId {
    function(module, [I32; 3], &[I32], |code, [a, b, bytes], locals| {
        let (word, other_word) = (locals.add(I64), locals.add(I64));
        let [byte, other_byte] = [(); 2].map(|()| locals.add(I32));
        let order = |code: &mut Code<'_>, [one, other]: [LocalId; 2], [differ, less]: [BinaryOp; 2]| {
            code.local_get(one).local_get(other).binop(differ).when(|code| {
                code.i32_const(LESS).i32_const(GREATER);
                code.local_get(one).local_get(other).binop(less);
                code.select(Some(I32)).return_();
            });
        };
        let next = |code: &mut Code<'_>, by: u32| {
            code.advance(a, by).advance(b, by);
            code.local_get(bytes).i32_const(by as i32).sub().local_set(bytes);
        };
        code.repeat(
            |code| {
                code.local_get(bytes)
                    .i32_const(WORD_BYTES as i32)
                    .binop(BinaryOp::I32GeU);
            },
            |code| {
                code.local_get(a).read64(memory, 0).local_set(word);
                code.local_get(b).read64(other, 0).local_set(other_word);
                order(code, [word, other_word], [BinaryOp::I64Ne, BinaryOp::I64LtU]);
                next(code, WORD_BYTES);
            },
        );
        code.repeat(
            |code| {
                code.local_get(bytes);
            },
            |code| {
                code.local_get(a).read8(memory).local_set(byte);
                code.local_get(b).read8(other).local_set(other_byte);
                order(code, [byte, other_byte], [BinaryOp::I32Ne, BinaryOp::I32LtU]);
                next(code, 1);
            },
        );
        code.i32_const(EQUAL);
    })
}
