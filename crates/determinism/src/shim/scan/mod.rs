//! The host functions that read rows, wrapped: the module sees them in an order that depends on the rows alone.
//!
//! A table that has a unique index is scanned by way of that index, with the host's own iterator. What has no order of
//! its own is sorted: rows of a table without such an index by their hashes, and rows of equal keys of an index that is
//! not unique. For these the module gets an iterator of ours.
//!
//! A range scan gives the rows that the transaction itself has written, then the others: which are which depends on the
//! transaction alone, too.

mod arena;
mod collect;
mod iterators;
mod list;
mod serve;
mod sort;

use walrus::ir::BinaryOp;
use walrus::{FunctionId, LocalId, MemoryId, Module};

use self::arena::Arena;
use self::collect::Collect;
use self::iterators::Iterators;
use super::emit::{Code, Emit, I32, function};
use super::host::{self, Host, Imported};
use super::layout::{Layout, ORDER_BYTES, ORDER_SORTING};
use super::scratch::Scratch;
use super::setup;
use crate::PrepareError;
use crate::abi;
use crate::plan::Plan;
use crate::reset::Reset;

/// The tag of `Bound::Unbounded`, and the address where the host is shown it.
const UNBOUNDED: i32 = 2;
const BOUND: i32 = 1_024;

/// What the wrapped reads share.
#[derive(Clone, Copy)]
pub(super) struct Scans {
    host: Host,
    scratch: Scratch,
    /// The module's memory.
    memory: MemoryId,
    iterators: Iterators,
    /// `ordinal(table_id) -> ordinal`.
    ordinal: FunctionId,
    /// `sorting(index_id) -> sorting`: traps for an index that is not the module's.
    pub(super) sorting: FunctionId,
    /// `collect(iterator, buffer, len_at) -> errno`.
    collect: FunctionId,
    /// `serve(iterator, buffer, len_at) -> result`.
    serve: FunctionId,
    orders: u32,
}

/// What is shared with the rest of the shim.
pub(super) struct Shared<'a> {
    pub(super) host: Host,
    pub(super) scratch: Scratch,
    /// The module's memory.
    pub(super) memory: MemoryId,
    pub(super) reset: Reset,
    pub(super) layout: &'a Layout,
    pub(super) ordinal: FunctionId,
}

/// Adds a wrapper of a host function.
type Wrapper = fn(Scans, &mut Module, FunctionId) -> FunctionId;

impl Scans {
    pub(super) fn add(module: &mut Module, plan: &Plan, shared: &Shared<'_>) -> Self {
        let &Shared {
            host,
            scratch,
            memory,
            reset,
            layout,
            ordinal,
        } = shared;
        let arena = Arena::add(module);
        let iterators = Iterators::add(module, arena, memory);
        let list = list::add(module, arena, plan);
        let collect = Collect {
            arena,
            memory,
            reset,
            advance: host.advance,
            list,
        };
        Self {
            host,
            scratch,
            memory,
            iterators,
            ordinal,
            sorting: setup::add_find(module, scratch, layout.sortings),
            collect: collect.add(module),
            serve: serve::add(module, arena, memory, iterators),
            orders: layout.orders,
        }
    }

    /// A call begins.
    pub(super) fn begin(self, code: &mut Code<'_>) {
        self.iterators.reset(code);
    }

    /// Puts a wrapper in the place of `import` if it reads rows, and says whether it does.
    pub(super) fn wrap(self, module: &mut Module, import: &Imported) -> Result<bool, PrepareError> {
        let name = import.name.as_str();
        let (params, wrapper): (usize, Wrapper) = match name {
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
        let real = host::add(module, &import.from, name, params);
        let wrapper = wrapper(self, module, real);
        host::replace(module, import, params, |code| {
            code.call(wrapper);
        })?;
        Ok(true)
    }

    fn add_table_scan(self, module: &mut Module, real: FunctionId) -> FunctionId {
        let memory = self.scratch.memory;
        function(module, [I32; 2], &[I32], |code, [table, out], locals| {
            let [order, index, errno, kept] = [(); 4].map(|()| locals.add(I32));
            self.scratch.at(code, self.orders);
            code.local_get(table).call(self.ordinal);
            code.i32_const(ORDER_BYTES.ilog2() as i32)
                .binop(BinaryOp::I32Shl)
                .add()
                .local_tee(order);
            code.read32(memory, 0).local_tee(index).when(|code| {
                self.scan_all(code, index, out, kept);
                code.return_();
            });
            code.local_get(table)
                .local_get(out)
                .call(real)
                .local_tee(errno)
                .is_zero()
                .when(|code| {
                    code.local_get(order).read32(memory, ORDER_SORTING);
                    code.local_get(out).call(self.iterators.open);
                });
            code.local_get(errno);
        })
    }

    /// Scans all of an index: no prefix, no bounds. The host reads bounds in the module's memory, of which a byte is
    /// borrowed.
    fn scan_all(self, code: &mut Code<'_>, index: LocalId, out: LocalId, kept: LocalId) {
        code.i32_const(BOUND).read8(self.memory).local_set(kept);
        code.i32_const(BOUND).i32_const(UNBOUNDED).write8(self.memory);
        code.local_get(index).i32_const(BOUND).i32_const(0).i32_const(0);
        for _ in 0..2 {
            code.i32_const(BOUND).i32_const(1);
        }
        code.local_get(out).call(self.host.scan_range);
        code.i32_const(BOUND).local_get(kept).write8(self.memory);
    }

    /// Of the module's own tables: what others have, the rows of views among them, differs from replica to replica.
    fn add_row_count(self, module: &mut Module, real: FunctionId) -> FunctionId {
        function(module, [I32; 2], &[I32], |code, [table, out], _| {
            code.local_get(table).call(self.ordinal).drop();
            code.local_get(table).local_get(out).call(real);
        })
    }

    fn add_index_scan<const N: usize>(self, module: &mut Module, real: FunctionId) -> FunctionId {
        function(module, [I32; N], &[I32], |code, args, locals| {
            let (sorting, errno) = (locals.add(I32), locals.add(I32));
            code.local_get(args[0]).call(self.sorting).local_set(sorting);
            for arg in args {
                code.local_get(arg);
            }
            code.call(real).local_tee(errno).is_zero().when(|code| {
                code.local_get(sorting).when(|code| {
                    code.local_get(sorting)
                        .local_get(args[N - 1])
                        .call(self.iterators.open);
                });
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
                self.host_handle(code, handle, |code| {
                    code.local_get(handle)
                        .local_get(buffer)
                        .local_get(len_at)
                        .call(real);
                });
                self.our_iterator(code, handle, iterator);
                code.local_get(iterator).read32(arena.memory, iterators::LAST);
                code.is_zero().when(|code| {
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
            self.host_handle(code, handle, |code| {
                code.local_get(handle).call(real);
            });
            self.our_iterator(code, handle, iterator);
            code.local_get(iterator).call(self.iterators.release);
            // The host has closed its own when all was collected.
            code.local_get(iterator).read32(arena.memory, iterators::LAST);
            code.is_zero().when(|code| {
                code.local_get(iterator).read32(arena.memory, iterators::HANDLE);
                code.call(real).return_();
            });
            code.i32_const(0);
        })
    }

    /// Returns what `call` pushes, if a handle is the host's.
    fn host_handle(self, code: &mut Code<'_>, handle: LocalId, call: impl FnOnce(&mut Code<'_>)) {
        code.local_get(handle);
        Iterators::is_ours(code);
        code.is_zero().when(|code| {
            call(code);
            code.return_();
        });
    }

    /// Finds the iterator of a handle of ours; returns to the module if there is none.
    fn our_iterator(self, code: &mut Code<'_>, handle: LocalId, iterator: LocalId) {
        code.local_get(handle)
            .call(self.iterators.find)
            .local_tee(iterator)
            .is(-1)
            .when(|code| {
                code.i32_const(abi::NO_SUCH_ITERATOR).return_();
            });
    }
}
