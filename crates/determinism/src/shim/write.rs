//! The host functions that write rows, wrapped: numbers filled in before, the digest kept after.

use walrus::{FunctionId, GlobalId, LocalId, MemoryId, Module, ModuleLocals, ValType};

use super::digest::{Digest, Operation};
use super::emit::{Code, Emit, I32, function};
use super::host::{self, Imported};
use super::ids::Ids;
use super::journal::Journal;
use super::passed::Passed;
use super::replay::Write;
use super::walk::Generated;
use crate::PrepareError;
use crate::abi;

/// What the wrapped writes share.
#[derive(Clone, Copy)]
pub(super) struct Writes {
    /// The module's memory.
    pub(super) memory: MemoryId,
    pub(super) digest: Digest,
    pub(super) generated: Generated,
    /// Whether a replicated call is running: nothing else may write.
    pub(super) in_call: GlobalId,
    pub(super) ids: Ids,
    pub(super) passed: Passed,
    /// `fill(ordinal, row)`.
    pub(super) fill: FunctionId,
    /// `again() -> changed`, if a generated number may be taken.
    pub(super) again: Option<FunctionId>,
    /// `write_back(row, len_at)`.
    pub(super) write_back: FunctionId,
    /// What notes the writes of procedures, if the module has any.
    pub(super) journal: Option<Journal>,
}

/// Adds a wrapper of a host function.
type Wrapper = fn(Writes, &mut Module, FunctionId) -> FunctionId;

impl Writes {
    /// Puts wrappers in the place of whatever `import` writes, or refuses it; harmless functions stay. What writes is given
    /// back.
    pub(super) fn wrap(self, module: &mut Module, import: &Imported) -> Result<Option<Write>, PrepareError> {
        let name = import.name.as_str();
        let (operation, params, add): (_, usize, Wrapper) = match name {
            "datastore_insert_bsatn" => (Operation::Insert, 3, Self::add_insert),
            "datastore_update_bsatn" => (Operation::Update, 4, Self::add_update),
            "datastore_delete_all_by_eq_bsatn" => (Operation::DeleteEqual, 4, Self::add_delete_equal),
            "datastore_delete_by_index_scan_range_bsatn" | "datastore_delete_by_btree_scan_bsatn" => {
                (Operation::DeleteRange, 9, Self::add_delete_range)
            }
            "datastore_delete_by_index_scan_point_bsatn" => {
                (Operation::DeletePoint, 4, Self::add_delete_point)
            }
            "datastore_clear" => (Operation::Clear, 2, Self::add_clear),
            abi::SCHEDULE_IMMEDIATE => return host::forbid(module, import).map(|()| None),
            _ if abi::OF_PROCEDURES.contains(&name) => return host::forbid(module, import).map(|()| None),
            _ if abi::HARMLESS.contains(&name) => return Ok(None),
            _ => return Err(PrepareError::Import(import.name.clone())),
        };
        let real = host::add(module, &import.from, name, params);
        let write = add(self, module, real);
        let write = match self.journal {
            Some(journal) => journal.record(module, operation, write),
            None => write,
        };
        host::replace(module, import, params, write)?;
        Ok(Some((operation, write)))
    }

    pub(super) fn add_insert(self, module: &mut Module, real: FunctionId) -> FunctionId {
        self.writer(module, |code, [table, row, len_at], locals| {
            let (ordinal, len) = (locals.add(I32), locals.add(I32));
            self.before_row(code, table, row, len_at, ordinal, len);
            self.write_row(code, len_at, len, locals.add(I32), |code| {
                code.local_get(table).local_get(row).local_get(len_at).call(real);
            });
            self.after_row(code, Operation::Insert, row, len_at, ordinal, len);
        })
    }

    fn add_update(self, module: &mut Module, real: FunctionId) -> FunctionId {
        self.writer(module, |code, [table, index, row, len_at], locals| {
            let [ordinal, len, counter] = [(); 3].map(|()| locals.add(I32));
            self.ids.index(code, index);
            self.before_row(code, table, row, len_at, ordinal, len);
            self.write_row(code, len_at, len, locals.add(I32), |code| {
                code.local_get(table)
                    .local_get(index)
                    .local_get(row)
                    .local_get(len_at)
                    .call(real);
            });
            self.passed.counter(code, ordinal);
            code.local_set(counter);
            self.passed.deleted(code, counter, |code| {
                code.i32_const(1);
            });
            self.after_row(code, Operation::Update, row, len_at, ordinal, len);
        })
    }

    pub(super) fn add_delete_equal(self, module: &mut Module, real: FunctionId) -> FunctionId {
        self.writer(module, |code, [table, rows, len, out], locals| {
            let [ordinal, counter] = [(); 2].map(|()| locals.add(I32));
            self.ids.table(code, table, ordinal);
            code.local_get(table)
                .local_get(rows)
                .local_get(len)
                .local_get(out)
                .call(real);
            unless_failed(code, locals.add(I32));
            self.passed.counter(code, ordinal);
            code.local_set(counter);
            self.count_deleted(code, counter, out);
            code.local_get(ordinal);
            self.digest.operation(code, Operation::DeleteEqual);
            code.local_get(rows).local_get(len);
            self.digest.bytes(code);
        })
    }

    fn add_delete_range(self, module: &mut Module, real: FunctionId) -> FunctionId {
        self.writer(module, |code, args: [_; 9], locals| {
            let counter = locals.add(I32);
            let bounds = [4, 5, 6, 7].map(|at| args[at]);
            self.passed.through_index(code, args[0], Some(bounds), counter);
            self.ids.index(code, args[0]);
            for arg in args {
                code.local_get(arg);
            }
            code.call(real);
            unless_failed(code, locals.add(I32));
            let [_, prefix, prefix_len, _, start, start_len, end, end_len, out] = args;
            self.count_deleted(code, counter, out);
            code.local_get(out).read32(self.memory, 0);
            self.digest.operation(code, Operation::DeleteRange);
            for (at, len) in [(prefix, prefix_len), (start, start_len), (end, end_len)] {
                code.local_get(at).local_get(len);
                self.digest.bytes(code);
            }
        })
    }

    fn add_delete_point(self, module: &mut Module, real: FunctionId) -> FunctionId {
        self.writer(module, |code, [index, point, len, out], locals| {
            let counter = locals.add(I32);
            self.passed.through_index(code, index, None, counter);
            self.ids.index(code, index);
            code.local_get(index)
                .local_get(point)
                .local_get(len)
                .local_get(out)
                .call(real);
            unless_failed(code, locals.add(I32));
            self.count_deleted(code, counter, out);
            code.local_get(out).read32(self.memory, 0);
            self.digest.operation(code, Operation::DeletePoint);
            code.local_get(point).local_get(len);
            self.digest.bytes(code);
        })
    }

    fn add_clear(self, module: &mut Module, real: FunctionId) -> FunctionId {
        self.writer(module, |code, [table, out], locals| {
            let [ordinal, counter] = [(); 2].map(|()| locals.add(I32));
            self.ids.table(code, table, ordinal);
            self.passed.through_table(code, ordinal);
            code.local_get(table).local_get(out).call(real);
            unless_failed(code, locals.add(I32));
            self.passed.counter(code, ordinal);
            code.local_set(counter);
            self.count_deleted(code, counter, out);
            code.local_get(ordinal);
            self.digest.operation(code, Operation::Clear);
            code.local_get(out).i32_const(8);
            self.digest.bytes(code);
        })
    }

    /// Counts the rows that have been deleted, whose number stands at `out`.
    fn count_deleted(self, code: &mut Code<'_>, counter: LocalId, out: LocalId) {
        self.passed.deleted(code, counter, |code| {
            code.local_get(out).read32(self.memory, 0);
        });
    }

    /// A function that writes, and returns 0 at its end.
    fn writer<const N: usize>(
        self,
        module: &mut Module,
        body: impl FnOnce(&mut Code<'_>, [LocalId; N], &mut ModuleLocals),
    ) -> FunctionId {
        function(module, [ValType::I32; N], &[I32], |code, args, locals| {
            code.global_get(self.in_call).is_zero().trap_if();
            body(code, args, locals);
            code.i32_const(0);
        })
    }

    fn before_row(
        self,
        code: &mut Code<'_>,
        table: LocalId,
        row: LocalId,
        len_at: LocalId,
        ordinal: LocalId,
        len: LocalId,
    ) {
        self.ids.table(code, table, ordinal);
        code.local_get(len_at).read32(self.memory, 0).local_set(len);
        code.i32_const(0).global_set(self.generated.count);
        code.local_get(ordinal).local_get(row).call(self.fill);
    }

    /// Has the host write a row, by `write`; again if a generated number was taken. Returns what it says unless that is 0.
    fn write_row(
        self,
        code: &mut Code<'_>,
        len_at: LocalId,
        len: LocalId,
        errno: LocalId,
        write: impl Fn(&mut Code<'_>),
    ) {
        write(code);
        if let Some(again) = self.again {
            code.local_tee(errno).is(abi::UNIQUE_ALREADY_EXISTS).when(|code| {
                code.call(again).when(|code| {
                    code.local_get(len_at).local_get(len).write32(self.memory, 0);
                    write(code);
                    code.local_set(errno);
                });
            });
            code.local_get(errno);
        }
        unless_failed(code, errno);
    }

    fn after_row(
        self,
        code: &mut Code<'_>,
        operation: Operation,
        row: LocalId,
        len_at: LocalId,
        ordinal: LocalId,
        len: LocalId,
    ) {
        code.local_get(ordinal);
        self.digest.operation(code, operation);
        code.local_get(row).local_get(len);
        self.digest.bytes(code);
        code.global_get(self.generated.count).when(|code| {
            code.local_get(row).local_get(len_at).call(self.write_back);
        });
    }
}

/// Pops a host function's result, and returns it unless it is 0.
fn unless_failed(code: &mut Code<'_>, errno: LocalId) {
    code.local_tee(errno).when(|code| {
        code.local_get(errno).return_();
    });
}
