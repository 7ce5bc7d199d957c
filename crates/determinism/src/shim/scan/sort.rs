//! Sorting entries by their rows' hashes, and by the rows' bytes where the hashes are the same. Hashes are spread
//! evenly, so the entries are dealt out by their first bits to as many buckets as give each a few. A Shell sort does the
//! rest, because it stays fast enough when somebody makes up rows that all fall into one bucket. Such a call pays for it by
//! what is in the bucket: how long it takes depends on how the rows stood.

use walrus::ir::{BinaryOp, UnaryOp};
use walrus::{FunctionId, LocalId, Module};

use super::super::emit::{Code, Emit, I32, I64, function};
use super::arena::{Arena, ENTRY_BYTES, ENTRY_LEN};
use crate::meter::{CROWDED_BYTE, Meter};

/// Up to so many entries are not dealt out.
const BUCKETLESS_MAX: u32 = 32;
/// Buckets are a power of two, with two to four entries in each: so many bits less than the number of entries.
const BITS_LESS: i32 = 1;

const MULTIPLIER: i64 = 0x9e37_79b9_7f4a_7c15_u64 as i64;
const ROTATION: i64 = 29;

/// Pops a hash and a word; pushes the hash of both.
fn mix(code: &mut Code<'_>) {
    code.binop(BinaryOp::I64Xor)
        .i64_const(ROTATION)
        .binop(BinaryOp::I64Rotl)
        .i64_const(MULTIPLIER)
        .binop(BinaryOp::I64Mul);
}

/// `hash(row, len) -> i64`. Reads up to 7 bytes behind the row.
pub(super) fn add_hash(module: &mut Module, arena: Arena) -> FunctionId {
    let memory = arena.memory;
    function(module, [I32, I32], &[I64], |code, [row, len], locals| {
        let hash = locals.add(I64);
        code.local_get(len).unop(UnaryOp::I64ExtendUI32).local_set(hash);
        code.repeat(
            |code| {
                code.local_get(len).i32_const(8).binop(BinaryOp::I32GeU);
            },
            |code| {
                code.local_get(hash).local_get(row).read64(memory, 0);
                mix(code);
                code.local_set(hash)
                    .advance(row, 8)
                    .local_get(len)
                    .i32_const(8)
                    .sub()
                    .local_set(len);
            },
        );
        code.local_get(len).when(|code| {
            code.local_get(hash).local_get(row).read64(memory, 0);
            code.i32_const(8)
                .local_get(len)
                .sub()
                .i32_const(3)
                .binop(BinaryOp::I32Shl)
                .unop(UnaryOp::I64ExtendUI32)
                .binop(BinaryOp::I64Shl);
            mix(code);
            code.local_set(hash);
        });
        code.local_get(hash);
    })
}

/// `sort(from, to)`: the entries from here to there. Uses memory behind them.
pub(super) fn add_sort(module: &mut Module, arena: Arena, meter: Meter) -> FunctionId {
    let memory = arena.memory;
    let tidy = add_tidy(module, arena);
    let crowded = add_crowded(module, arena, meter);
    function(module, [I32, I32], &[], |code, [from, to], locals| {
        let [bytes, bits, counts, end] = [(); 4].map(|()| locals.add(I32));
        let (shift, at, count, sum) = (locals.add(I64), locals.add(I32), locals.add(I32), locals.add(I32));
        code.local_get(to).local_get(from).sub().local_tee(bytes);
        code.i32_const((BUCKETLESS_MAX * ENTRY_BYTES) as i32)
            .binop(BinaryOp::I32LeU)
            .when(|code| {
                code.local_get(from).local_get(to).call(tidy).return_();
            });

        // A copy of the entries behind them, then a counter for each bucket.
        let entry_bits = ENTRY_BYTES.ilog2() as i32;
        code.i32_const(31 - entry_bits - BITS_LESS)
            .local_get(bytes)
            .unop(UnaryOp::I32Clz)
            .sub()
            .local_tee(bits);
        code.unop(UnaryOp::I64ExtendUI32).local_set(shift);
        code.i64_const(64)
            .local_get(shift)
            .binop(BinaryOp::I64Sub)
            .local_set(shift);
        code.local_get(to).local_get(bytes).add().local_tee(counts);
        code.i32_const(4)
            .local_get(bits)
            .binop(BinaryOp::I32Shl)
            .add()
            .local_tee(end)
            .call(arena.reserve);
        code.local_get(to).local_get(from).local_get(bytes);
        code.memory_copy(memory, memory);
        code.local_get(counts).i32_const(0);
        code.local_get(end).local_get(counts).sub().memory_fill(memory);

        let bucket = |code: &mut Code<'_>| {
            code.local_get(counts)
                .local_get(at)
                .read64(memory, 0)
                .local_get(shift)
                .binop(BinaryOp::I64ShrU)
                .unop(UnaryOp::I32WrapI64)
                .i32_const(2)
                .binop(BinaryOp::I32Shl)
                .add()
                .local_tee(count);
        };
        code.local_get(to).local_set(at);
        up_to(code, at, counts, ENTRY_BYTES, |code| {
            bucket(code);
            code.local_get(count).read32(memory, 0).plus(ENTRY_BYTES);
            code.write32(memory, 0);
        });
        code.local_get(counts)
            .local_set(at)
            .local_get(from)
            .local_set(sum);
        up_to(code, at, end, 4, |code| {
            code.local_get(at).read32(memory, 0).local_set(count);
            code.local_get(at).local_get(sum).write32(memory, 0);
            code.local_get(sum).local_get(count).add().local_set(sum);
        });
        code.local_get(to).local_set(at);
        up_to(code, at, counts, ENTRY_BYTES, |code| {
            bucket(code);
            code.read32(memory, 0).local_set(sum);
            for offset in [0, 8] {
                code.local_get(sum).local_get(at).read64(memory, offset);
                code.write64(memory, offset);
            }
            code.local_get(count).local_get(sum).plus(ENTRY_BYTES);
            code.write32(memory, 0);
        });

        // A counter is now its bucket's end.
        code.local_get(counts).local_set(at);
        up_to(code, at, end, 4, |code| {
            code.local_get(at).read32(memory, 0).local_tee(sum);
            code.local_get(from)
                .sub()
                .i32_const(ENTRY_BYTES as i32)
                .binop(BinaryOp::I32GtU)
                .when(|code| {
                    code.local_get(from).local_get(sum).call(crowded);
                    code.local_get(from).local_get(sum).call(tidy);
                });
            code.local_get(sum).local_set(from);
        });
    })
}

/// `crowded(from, to)`: charges for a bucket that has more entries than chance puts there.
fn add_crowded(module: &mut Module, arena: Arena, meter: Meter) -> FunctionId {
    function(module, [I32, I32], &[], |code, [from, to], locals| {
        let bytes = locals.add(I32);
        code.local_get(to).local_get(from).sub();
        code.i32_const((BUCKETLESS_MAX * ENTRY_BYTES) as i32)
            .binop(BinaryOp::I32LeU)
            .when(|code| {
                code.return_();
            });
        up_to(code, from, to, ENTRY_BYTES, |code| {
            code.local_get(bytes).plus(ENTRY_BYTES);
            code.local_get(from).read32(arena.memory, ENTRY_LEN).add();
            code.local_set(bytes);
        });
        meter.charge_each(code, CROWDED_BYTE, bytes);
    })
}

/// Runs `body` for each `at` before `end`.
fn up_to(code: &mut Code<'_>, at: LocalId, end: LocalId, step: u32, body: impl FnOnce(&mut Code<'_>)) {
    code.repeat(
        |code| {
            code.local_get(at).local_get(end).less();
        },
        |code| {
            body(code);
            code.advance(at, step);
        },
    );
}

/// `tidy(from, to)`: a Shell sort of a few entries.
fn add_tidy(module: &mut Module, arena: Arena) -> FunctionId {
    let memory = arena.memory;
    let row_before = add_row_before(module, arena);
    function(module, [I32, I32], &[], |code, [from, to], locals| {
        let [gap, at, hole, other] = [(); 4].map(|()| locals.add(I32));
        let (hash, row, other_hash) = (locals.add(I64), locals.add(I64), locals.add(I64));
        code.i32_const(ENTRY_BYTES as i32).local_set(gap);
        let wider = |code: &mut Code<'_>| {
            code.local_get(gap).i32_const(3).binop(BinaryOp::I32Mul);
            code.plus(ENTRY_BYTES);
        };
        code.repeat(
            |code| {
                wider(code);
                code.local_get(to).local_get(from).sub().less();
            },
            |code| {
                wider(code);
                code.local_set(gap);
            },
        );
        code.loop_(None, |code| {
            let narrower = code.id();
            code.local_get(from).local_get(gap).add().local_set(at);
            up_to(code, at, to, ENTRY_BYTES, |code| {
                code.local_get(at)
                    .local_tee(hole)
                    .read64(memory, 0)
                    .local_set(hash);
                code.local_get(at).read64(memory, 8).local_set(row);
                // Entries that come after this one move up.
                code.block(None, |code| {
                    let found = code.id();
                    code.loop_(None, |code| {
                        let further = code.id();
                        code.local_get(hole).local_get(from).sub();
                        code.local_get(gap).less().br_if(found);
                        code.local_get(hole)
                            .local_get(gap)
                            .sub()
                            .local_tee(other)
                            .read64(memory, 0)
                            .local_tee(other_hash);
                        code.local_get(hash).binop(BinaryOp::I64LtU).br_if(found);
                        code.local_get(other_hash).local_get(hash).binop(BinaryOp::I64Eq);
                        code.when(|code| {
                            code.local_get(row).local_get(other).read64(memory, 8);
                            code.call(row_before).is_zero().br_if(found);
                        });
                        code.local_get(hole).local_get(other_hash).write64(memory, 0);
                        code.local_get(hole)
                            .local_get(other)
                            .read64(memory, 8)
                            .write64(memory, 8);
                        code.local_get(other).local_set(hole).br(further);
                    });
                });
                code.local_get(hole).local_get(hash).write64(memory, 0);
                code.local_get(hole).local_get(row).write64(memory, 8);
            });
            code.local_get(gap).is(ENTRY_BYTES as i32).when(|code| {
                code.return_();
            });
            code.local_get(gap)
                .i32_const(ENTRY_BYTES as i32)
                .sub()
                .i32_const(3)
                .binop(BinaryOp::I32DivU)
                .local_set(gap)
                .br(narrower);
        });
    })
}

/// `row_before(a, b) -> bool`: whether the bytes of one row come before those of another. Rows are given as entries hold
/// them: the address, and the length above it.
fn add_row_before(module: &mut Module, arena: Arena) -> FunctionId {
    let memory = arena.memory;
    function(module, [I64, I64], &[I32], |code, [a, b], locals| {
        let [at_a, at_b, end_a, end_b, byte_a, byte_b] = [(); 6].map(|()| locals.add(I32));
        for (row, at, end) in [(a, at_a, end_a), (b, at_b, end_b)] {
            code.local_get(row).unop(UnaryOp::I32WrapI64).local_tee(at);
            code.local_get(row)
                .i64_const(32)
                .binop(BinaryOp::I64ShrU)
                .unop(UnaryOp::I32WrapI64)
                .add()
                .local_set(end);
        }
        code.repeat(
            |code| {
                code.local_get(at_a).local_get(end_a).less();
                code.local_get(at_b).local_get(end_b).less();
                code.binop(BinaryOp::I32And);
            },
            |code| {
                code.local_get(at_a).read8(memory).local_tee(byte_a);
                code.local_get(at_b).read8(memory).local_tee(byte_b);
                code.binop(BinaryOp::I32Ne).when(|code| {
                    code.local_get(byte_a).local_get(byte_b).less().return_();
                });
                code.advance(at_a, 1).advance(at_b, 1);
            },
        );
        // One begins with the other: the shorter one is first.
        code.local_get(at_b).local_get(end_b).less();
    })
}

/// `same(a, b, len) -> bool`: whether as many bytes are the same.
pub(super) fn add_same(module: &mut Module, arena: Arena) -> FunctionId {
    let memory = arena.memory;
    function(module, [I32, I32, I32], &[I32], |code, [a, b, len], _| {
        code.repeat(
            |code| {
                code.local_get(len).i32_const(8).binop(BinaryOp::I32GeU);
            },
            |code| {
                code.local_get(a).read64(memory, 0).local_get(b).read64(memory, 0);
                code.binop(BinaryOp::I64Ne).when(|code| {
                    code.i32_const(0).return_();
                });
                code.advance(a, 8).advance(b, 8);
                code.local_get(len).i32_const(8).sub().local_set(len);
            },
        );
        code.repeat(
            |code| {
                code.local_get(len);
            },
            |code| {
                code.local_get(a).read8(memory).local_get(b).read8(memory);
                code.binop(BinaryOp::I32Ne).when(|code| {
                    code.i32_const(0).return_();
                });
                code.advance(a, 1).advance(b, 1);
                code.local_get(len).i32_const(1).sub().local_set(len);
            },
        );
        code.i32_const(1);
    })
}
