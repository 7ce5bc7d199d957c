//! The host functions that read rows, wrapped: the module sees them in an order that depends on the rows alone.
//!
//! A table that has a unique index is scanned by way of that index, and its rows go from the host to the module without a
//! copy. What has no order of its own is sorted: rows of a table without such an index by their hashes, and rows of equal
//! keys of an index that is not unique.
//!
//! A range scan gives the rows that the transaction itself has written, then the others: which are which depends on the
//! transaction alone, too.

mod arena;
mod collect;
mod drain;
mod iterators;
mod list;
mod serve;
mod sort;

use walrus::ir::BinaryOp;
use walrus::{FunctionId, LocalId, MemoryId, Module};

pub(super) use self::arena::add_reserve as reserve_pages;

use self::arena::Arena;
use self::collect::Collect;
use self::drain::Drain;
use self::iterators::Iterators;
use super::emit::{Code, Emit, I32, function};
use super::host::{self, Host, Imported};
use super::ids::Ids;
use super::layout::{Layout, ORDER_BYTES, ORDER_SORTING};
use super::passed::Passed;
use super::scratch::Scratch;
use crate::PrepareError;
use crate::abi;
use crate::plan::Plan;
use crate::reset::Reset;

/// The tag of `Bound::Unbounded`.
const UNBOUNDED: i32 = 2;

/// What the wrapped reads share.
#[derive(Clone, Copy)]
pub(super) struct Scans {
    host: Host,
    scratch: Scratch,
    /// The module's memory.
    memory: MemoryId,
    iterators: Iterators,
    passed: Passed,
    ids: Ids,
    /// `collect(iterator, buffer, len_at) -> errno`.
    collect: FunctionId,
    /// `serve(iterator, buffer, len_at) -> result`.
    serve: FunctionId,
    drain: Drain,
    /// `borrow(handle, to, len_at) -> result`.
    borrow: FunctionId,
    orders: u32,
}

/// What is shared with the rest of the shim.
pub(super) struct Shared<'a> {
    pub(super) host: Host,
    pub(super) passed: Passed,
    pub(super) scratch: Scratch,
    /// The module's memory.
    pub(super) memory: MemoryId,
    pub(super) reset: Reset,
    pub(super) layout: &'a Layout,
    pub(super) ids: Ids,
}

/// Adds a wrapper of a host function.
type Wrapper = fn(Scans, &mut Module, FunctionId) -> FunctionId;

impl Scans {
    pub(super) fn add(module: &mut Module, plan: &Plan, shared: &Shared<'_>) -> Self {
        let &Shared {
            host,
            passed,
            scratch,
            memory,
            reset,
            layout,
            ids,
        } = shared;
        let arena = Arena::add(module);
        let iterators = Iterators::add(module, host, arena, memory);
        let list = list::add(module, arena, plan, reset.meter);
        let collect = Collect {
            arena,
            memory,
            reset,
            advance: host.advance,
            list,
        };
        let borrow = collect.add_borrow(module);
        let drain = drain::Parts {
            arena,
            memory,
            meter: reset.meter,
            advance: host.advance,
            borrow,
        };
        Self {
            host,
            scratch,
            memory,
            iterators,
            passed,
            ids,
            collect: collect.add(module, borrow),
            drain: Drain::add(module, &drain),
            serve: serve::add(module, arena, memory, iterators),
            borrow,
            orders: layout.orders,
        }
    }

    /// A call ends.
    pub(super) fn end(self, code: &mut Code<'_>) {
        self.iterators.end(code);
        self.iterators.arena.end(code);
        self.drain.end(code);
    }

    /// The memory in which rows are sorted, and where the one stands that a call is given.
    pub(super) fn memory(self) -> (MemoryId, u32) {
        (self.iterators.arena.memory, arena::ROWS)
    }

    /// Takes the one row of the host's iterator, whose handle a local holds, into that memory, for as long as the call takes.
    /// At `len_at` stands its length, which `bytes` is set to.
    pub(super) fn take_row(
        self,
        code: &mut Code<'_>,
        handle: LocalId,
        bytes: LocalId,
        len_at: impl Fn(&mut Code<'_>),
    ) {
        code.local_get(handle).i32_const(arena::ROWS as i32);
        len_at(code);
        code.call(self.borrow).i32_const(abi::EXHAUSTED);
        code.binop(BinaryOp::I32Ne).trap_if();
        len_at(code);
        code.read32(self.memory, 0).local_set(bytes);
        self.iterators.arena.keep(code, bytes);
    }

    /// Puts a wrapper in the place of `import` if it reads rows, and says whether it does.
    pub(super) fn wrap(self, module: &mut Module, import: &Imported) -> Result<bool, PrepareError> {
        let (params, add): (usize, Wrapper) = match import.name.as_str() {
            "datastore_table_scan_bsatn" => (2, Self::add_table_scan),
            "datastore_index_scan_range_bsatn" | "datastore_btree_scan_bsatn" => {
                (9, Self::add_index_scan::<9>)
            }
            "datastore_index_scan_point_bsatn" => (4, Self::add_index_scan::<4>),
            "datastore_table_row_count" => (2, Self::add_row_count),
            "row_iter_bsatn_advance" => (3, Self::add_advance),
            "row_iter_bsatn_close" => (1, Self::add_close),
            _ => return Ok(false),
        };
        host::wrap(module, import, params, |module, real| add(self, module, real))?;
        Ok(true)
    }

    fn add_table_scan(self, module: &mut Module, real: FunctionId) -> FunctionId {
        let memory = self.scratch.memory;
        function(module, [I32; 2], &[I32], |code, [table, out], locals| {
            let [ordinal, order, index, errno, kept] = [(); 5].map(|()| locals.add(I32));
            self.ids.table(code, table, ordinal);
            self.passed.through_table(code, ordinal);
            self.scratch.at(code, self.orders);
            code.local_get(ordinal)
                .i32_const(ORDER_BYTES.ilog2() as i32)
                .binop(BinaryOp::I32Shl)
                .add()
                .local_tee(order);
            code.read32(memory, 0).local_tee(index);
            code.if_else(
                I32,
                |code| {
                    self.scan_all(code, index, out, [kept, errno]);
                },
                |code| {
                    code.local_get(table).local_get(out).call(real);
                },
            );
            code.local_tee(errno).is_zero().when(|code| {
                code.i32_const(iterators::AS_IT_IS);
                code.local_get(order).read32(memory, ORDER_SORTING);
                code.local_get(index).select(None);
                code.local_get(out).call(self.iterators.open);
            });
            code.local_get(errno);
        })
    }

    /// Scans all of an index: no prefix, no bounds. The host reads bounds in the module's memory: where it leaves the
    /// iterator in the end.
    fn scan_all(self, code: &mut Code<'_>, index: LocalId, out: LocalId, [kept, errno]: [LocalId; 2]) {
        code.local_get(out).read8(self.memory).local_set(kept);
        code.local_get(out).i32_const(UNBOUNDED).write8(self.memory);
        code.local_get(index).local_get(out).i32_const(0).i32_const(0);
        for _ in 0..2 {
            code.local_get(out).i32_const(1);
        }
        code.local_get(out).call(self.host.scan_range);
        code.local_tee(errno).when(|code| {
            code.local_get(out).local_get(kept).write8(self.memory);
        });
        code.local_get(errno);
    }

    fn add_index_scan<const N: usize>(self, module: &mut Module, real: FunctionId) -> FunctionId {
        function(module, [I32; N], &[I32], |code, args, locals| {
            let (sorting, errno) = (locals.add(I32), locals.add(I32));
            let bounds = (N == 9).then(|| [4, 5, 6, 7].map(|at| args[at]));
            self.passed.through_index(code, args[0], bounds, sorting);
            self.ids.index_and_sorting(code, args[0], sorting);
            for arg in args {
                code.local_get(arg);
            }
            code.call(real).local_tee(errno).is_zero().when(|code| {
                code.local_get(sorting)
                    .i32_const(iterators::AS_IT_IS)
                    .local_get(sorting)
                    .select(None);
                code.local_get(args[N - 1]).call(self.iterators.open);
            });
            code.local_get(errno);
        })
    }

    fn add_advance(self, module: &mut Module, real: FunctionId) -> FunctionId {
        let arena = self.iterators.arena;
        function(
            module,
            [I32; 3],
            &[I32],
            |code, [handle, buffer, len_at], locals| {
                let (iterator, errno) = (locals.add(I32), locals.add(I32));
                self.iterator(code, handle, iterator);
                code.local_get(iterator).read32(arena.memory, iterators::SORTING);
                code.is(iterators::AS_IT_IS).when(|code| {
                    code.local_get(iterator)
                        .read32(arena.memory, iterators::HANDLE)
                        .local_get(buffer)
                        .local_get(len_at)
                        .call(real)
                        .local_tee(errno)
                        .is(abi::EXHAUSTED);
                    code.when(|code| {
                        code.local_get(iterator).call(self.iterators.release);
                    });
                    code.local_get(errno).return_();
                });
                iterators::is_host_open(code, arena, iterator);
                code.when(|code| {
                    code.local_get(iterator)
                        .local_get(buffer)
                        .local_get(len_at)
                        .call(self.collect)
                        .local_tee(errno)
                        .when(|code| {
                            code.local_get(errno).return_();
                        });
                });
                code.local_get(iterator)
                    .local_get(buffer)
                    .local_get(len_at)
                    .call(self.serve);
            },
        )
    }

    fn add_close(self, module: &mut Module, real: FunctionId) -> FunctionId {
        let arena = self.iterators.arena;
        function(module, [I32], &[I32], |code, [handle], locals| {
            let iterator = locals.add(I32);
            self.iterator(code, handle, iterator);
            code.local_get(iterator).call(self.iterators.release);
            iterators::is_host_open(code, arena, iterator);
            code.when(|code| {
                code.local_get(iterator)
                    .read32(arena.memory, iterators::HANDLE)
                    .local_tee(handle);
                self.drain.is_left_open(code);
                code.when(|code| {
                    code.local_get(handle).call(real).return_();
                });
            });
            code.i32_const(0);
        })
    }

    /// Of the module's own tables: what others have, the rows of views among them, differs from replica to replica.
    fn add_row_count(self, module: &mut Module, real: FunctionId) -> FunctionId {
        function(module, [I32; 2], &[I32], |code, [table, out], locals| {
            self.ids.table(code, table, locals.add(I32));
            code.local_get(table).local_get(out).call(real);
        })
    }

    /// Finds the iterator of a handle; returns to the module if there is none.
    fn iterator(self, code: &mut Code<'_>, handle: LocalId, iterator: LocalId) {
        code.local_get(handle)
            .call(self.iterators.find)
            .local_tee(iterator)
            .is(-1)
            .when(|code| {
                code.i32_const(abi::NO_SUCH_ITERATOR).return_();
            });
    }
}
