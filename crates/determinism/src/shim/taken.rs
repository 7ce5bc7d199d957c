//! Generated numbers that another row has already: inserted as they are, loaded, or generated before the numbers began anew.
//!
//! The host's own sequence goes on where an insert fails, whatever becomes of the call: with each attempt it comes one
//! number nearer to a free one. Ours is part of the transaction, so that a call that fails leaves it where it was. It
//! therefore goes on within the insert: past the numbers that are taken, one by one, then in leaps that double.

use walrus::ir::BinaryOp;
use walrus::{FunctionId, LocalId, MemoryId, Module, ModuleLocals};

use super::emit::{Code, Emit, I32, I64, function};
use super::host::{self, Host};
use super::layout::{GENERATED_BYTES, GENERATED_SEQUENCE, LEN, Layout, OUT, PROBE, PROBE_END};
use super::sequence::{Sequences, beyond};
use super::walk::{self, Generated};
use super::window::Window;
use crate::abi;
use crate::meter::{self, Meter};
use crate::plan::{Plan, Sequence, TRIES_MAX};

/// So many numbers are looked at one by one before the leaps, so that small gaps are found: all of a byte's.
const STEPS: u32 = 256;

/// What it takes to find a number that is not taken.
pub(super) struct Taken<'a> {
    pub(super) host: Host,
    pub(super) window: Window,
    pub(super) meter: Meter,
    pub(super) generated: Generated,
    pub(super) sequences: Sequences,
    pub(super) layout: &'a Layout,
    /// The functions that hand out numbers, in the order of [`Plan::sequences`].
    pub(super) takes: &'a [FunctionId],
}

impl Taken<'_> {
    /// `again() -> changed`: gives the generated columns of the row that could not be written other numbers, if theirs
    /// are taken. `None` if the module has no such columns.
    pub(super) fn add_again(&self, module: &mut Module, plan: &Plan) -> Option<FunctionId> {
        // A hash index knows nothing of ranges.
        let (mut range_scan, mut point_scan) = (None, None);
        let mut moves = Vec::new();
        for table in &plan.tables {
            for sequence in table.sequences() {
                let nth = moves.len();
                let Some(index) = sequence.index else {
                    moves.push(None);
                    continue;
                };
                let is_taken = match table.order.indexes[index].ordered {
                    true => *range_scan.get_or_insert_with(|| self.add_range_scan(module)),
                    false => *point_scan.get_or_insert_with(|| self.add_point_scan(module)),
                };
                moves.push(Some(self.add_move(module, sequence, nth, is_taken)));
            }
        }
        moves
            .iter()
            .any(Option::is_some)
            .then(|| self.add_dispatch(module, &moves))
    }

    /// `again() -> changed`: by the way of each column in question.
    fn add_dispatch(&self, module: &mut Module, moves: &[Option<FunctionId>]) -> FunctionId {
        let memory = self.window.own.memory;
        function(module, [], &[I32], |code, [], locals| {
            let [entry, left, number, changed] = [(); 4].map(|()| locals.add(I32));
            self.window.own.at(code, self.layout.generated);
            code.local_set(entry);
            code.global_get(self.generated.count).local_set(left);
            code.repeat(
                |code| {
                    code.local_get(left);
                },
                |code| {
                    code.local_get(entry)
                        .read32(memory, GENERATED_SEQUENCE)
                        .local_set(number);
                    for (to_move, nth) in moves.iter().zip(0..) {
                        let Some(to_move) = to_move else { continue };
                        code.local_get(number).is(nth).when(|code| {
                            code.local_get(entry).read32(memory, 0);
                            code.call(*to_move).local_get(changed);
                            code.binop(BinaryOp::I32Or).local_set(changed);
                        });
                    }
                    code.advance(entry, GENERATED_BYTES);
                    code.local_get(left).i32_const(1).sub().local_set(left);
                },
            );
            code.local_get(changed);
        })
    }

    fn add_range_scan(&self, module: &mut Module) -> FunctionId {
        self.add_is_taken(module, |code, index, bytes| {
            code.local_get(index);
            self.window.seen.at(code, PROBE);
            code.i32_const(0).i32_const(0);
            for _ in 0..2 {
                self.window.seen.at(code, PROBE);
                code.local_get(bytes).plus(1);
            }
            self.window.seen.at(code, OUT);
            code.call(self.host.scan_range).must();
        })
    }

    fn add_point_scan(&self, module: &mut Module) -> FunctionId {
        let scan = host::add(module, abi::POINT_SCANS, "datastore_index_scan_point_bsatn", 4);
        self.add_is_taken(module, |code, index, bytes| {
            code.local_get(index);
            self.window.seen.at(code, PROBE + 1);
            code.local_get(bytes);
            self.window.seen.at(code, OUT);
            code.call(scan).must();
        })
    }

    /// `is_taken(index, number, bytes) -> i32`: whether a row has the number in the index's column, which has so many
    /// bytes. `scan` leaves an iterator in the window, where the number stands as a bound.
    fn add_is_taken(
        &self,
        module: &mut Module,
        scan: impl FnOnce(&mut Code<'_>, LocalId, LocalId),
    ) -> FunctionId {
        let seen = self.window.seen;
        function(
            module,
            [I32, I64, I32],
            &[I32],
            |code, [index, number, bytes], locals| {
                let is_taken = locals.add(I32);
                self.meter.charge_units(code, meter::PROBE);
                self.window.borrow(code, PROBE_END, |code| {
                    seen.at(code, PROBE);
                    code.i32_const(0).write8(seen.memory);
                    for word in 0..4 {
                        seen.set64(code, PROBE + 1 + 8 * word, |code| {
                            code.local_get(number);
                            if word > 0 {
                                code.i64_const(63).binop(BinaryOp::I64ShrS);
                            }
                        });
                    }
                    scan(code, index, bytes);
                    // There is no room for a row, and so it stays at its first one.
                    seen.at(code, LEN);
                    code.i32_const(0).write32(seen.memory, 0);
                    seen.get32(code, OUT);
                    seen.at(code, PROBE);
                    seen.at(code, LEN);
                    code.call(self.host.advance);
                    code.i32_const(abi::EXHAUSTED)
                        .binop(BinaryOp::I32Ne)
                        .local_tee(is_taken)
                        .when(|code| {
                            seen.get32(code, OUT);
                            code.call(self.host.close).must();
                        });
                });
                code.local_get(is_taken);
            },
        )
    }

    /// `move(at) -> changed`: if the number of the column at `at` is taken, the next one that is not; no change if none
    /// is found.
    fn add_move(
        &self,
        module: &mut Module,
        sequence: &Sequence,
        nth: usize,
        is_taken: FunctionId,
    ) -> FunctionId {
        let column = Column {
            memory: self.generated.rows,
            sequences: self.sequences,
            sequence,
            take: self.takes[nth],
            is_taken,
            window: self.window,
            index_at: self.layout.probes + 4 * nth as u32,
        };
        function(module, [I32], &[I32], |code, [at], locals| {
            let number = locals.add(I64);
            walk::get(code, column.memory, at, sequence.bytes);
            code.local_set(number);
            column.is_taken(code, number);
            code.is_zero().when(|code| {
                code.i32_const(0).return_();
            });
            let steps = sequence.tries.min(STEPS);
            column.step(code, at, number, steps, locals);
            if sequence.tries > steps {
                column.leap(code, at, number, locals);
                column.step(code, at, number, sequence.tries - steps, locals);
            }
            code.i32_const(0);
        })
    }
}

/// A generated column whose number is taken.
struct Column<'a> {
    /// The module's memory.
    memory: MemoryId,
    sequences: Sequences,
    sequence: &'a Sequence,
    take: FunctionId,
    is_taken: FunctionId,
    window: Window,
    /// Where the id of its index stands.
    index_at: u32,
}

impl Column<'_> {
    /// Pushes whether a number is taken.
    fn is_taken(&self, code: &mut Code<'_>, number: LocalId) {
        self.window.own.get32(code, self.index_at);
        code.local_get(number)
            .i32_const(self.sequence.bytes as i32)
            .call(self.is_taken);
    }

    /// Takes the next number, puts it into the column, and returns.
    fn settle(&self, code: &mut Code<'_>, at: LocalId, number: LocalId) {
        walk::set(code, self.memory, at, number, self.sequence);
        code.i32_const(1).return_();
    }

    /// Looks at the next numbers one by one, and returns with the first that is not taken.
    fn step(&self, code: &mut Code<'_>, at: LocalId, number: LocalId, tries: u32, locals: &mut ModuleLocals) {
        debug_assert!(tries <= TRIES_MAX);
        let left = locals.add(I32);
        code.i32_const(tries as i32).local_set(left);
        code.repeat(
            |code| {
                code.local_get(left);
            },
            |code| {
                code.call(self.take).local_set(number);
                self.is_taken(code, number);
                code.is_zero().when(|code| self.settle(code, at, number));
                code.local_get(left).i32_const(1).sub().local_set(left);
            },
        );
    }

    /// Looks at numbers ever farther from `number`, which is taken, within the bounds; once one is free, for where the
    /// taken ones before it end. Returns if there is one.
    fn leap(&self, code: &mut Code<'_>, at: LocalId, number: LocalId, locals: &mut ModuleLocals) {
        let unit = self.sequence.increment.unsigned_abs().cast_signed();
        let rising = self.sequence.increment > 0;
        // How far from `number`, all unsigned: the last number, one that is taken, one that may be free.
        let [room, low, high, there, middle] = [(); 5].map(|()| locals.add(I64));
        let place = |code: &mut Code<'_>, distance: LocalId| {
            code.local_get(number).local_get(distance);
            code.binop(if rising {
                BinaryOp::I64Add
            } else {
                BinaryOp::I64Sub
            });
            code.local_set(there);
        };
        code.local_get(number)
            .i64_const(self.sequence.last)
            .binop(beyond(self.sequence));
        code.is_zero().when(|code| {
            match rising {
                true => code.i64_const(self.sequence.last).local_get(number),
                false => code.local_get(number).i64_const(self.sequence.last),
            };
            code.binop(BinaryOp::I64Sub).local_set(room);
            code.i64_const(0).local_set(low).i64_const(unit).local_set(high);
            code.repeat(
                |code| {
                    code.local_get(high).local_get(room).binop(BinaryOp::I64LeU);
                },
                |code| {
                    place(code, high);
                    self.is_taken(code, there);
                    code.is_zero().when(|code| {
                        self.narrow(code, [low, high, middle, there], unit, &place);
                        place(code, high);
                        self.sequences.set_next(code, self.sequence, there);
                        code.call(self.take).local_set(there);
                        self.settle(code, at, there);
                    });
                    code.local_get(high).local_set(low);
                    // Twice as far, or out of all bounds: no number is as far away as all ones.
                    code.local_get(high).i64_const(1).binop(BinaryOp::I64Shl);
                    code.i64_const(-1);
                    code.local_get(high).i64_const(0).binop(BinaryOp::I64GeS);
                    code.select(Some(I64)).local_set(high);
                },
            );
        });
    }

    /// While there are numbers between one that is taken, at `low`, and one that is not, at `high`, looks at the one in
    /// the middle.
    fn narrow(
        &self,
        code: &mut Code<'_>,
        [low, high, middle, there]: [LocalId; 4],
        unit: i64,
        place: &impl Fn(&mut Code<'_>, LocalId),
    ) {
        let between = |code: &mut Code<'_>| {
            code.local_get(high).local_get(low).binop(BinaryOp::I64Sub);
        };
        code.repeat(
            |code| {
                between(code);
                code.i64_const(unit).binop(BinaryOp::I64GtU);
            },
            |code| {
                between(code);
                code.i64_const(unit).binop(BinaryOp::I64DivU);
                code.i64_const(1).binop(BinaryOp::I64ShrU);
                code.i64_const(unit).binop(BinaryOp::I64Mul);
                code.local_get(low).binop(BinaryOp::I64Add).local_set(middle);
                place(code, middle);
                self.is_taken(code, there);
                code.if_else(
                    None,
                    |code| {
                        code.local_get(middle).local_set(low);
                    },
                    |code| {
                        code.local_get(middle).local_set(high);
                    },
                );
            },
        );
    }
}
