//! `table_id_from_name` and `index_id_from_name`, which ask the host once for each name, and give the module [an id of
//! its own](super::ids); what the module does not define, there is not. The module's bindings keep ids too, but in statics,
//! which are as new in every call. An instance serves one version of a module, and sees no id change.

use walrus::ir::{BinaryOp, UnaryOp};
use walrus::{FunctionId, LocalId, MemoryId, Module};

use super::emit::{Code, Emit, I32, I64, function};
use super::host::{self, Imported};
use super::scratch::Scratch;
use crate::PrepareError;

/// A slot: `bytes: u32, id: u32`, and a name of so many bytes, or its short form. Of names that share a slot, the last
/// one has it.
const SLOT_BYTES: u32 = 64;
const SLOT_ID: u32 = 4;
const SLOT_NAME: u32 = 8;
const SLOTS: u32 = 256;
/// How many bytes a cache takes.
pub(super) const CACHE_BYTES: u32 = SLOTS * SLOT_BYTES;
/// The longest name that is kept. Nothing is wrong with asking for others again.
const NAME_BYTES_MAX: u32 = SLOT_BYTES - SLOT_NAME;
const WORD_BYTES: u32 = 8;
const HALF_BYTES: u32 = 4;
const MULTIPLIER: i64 = 0x9e37_79b9_7f4a_7c15_u64.cast_signed();

/// Puts a cache at `at` before a host function that looks up an id by name.
pub(super) fn wrap(
    module: &mut Module,
    import: &Imported,
    own: MemoryId,
    scratch: Scratch,
    at: u32,
    known: Known,
) -> Result<(), PrepareError> {
    let cache = Cache {
        own,
        scratch,
        at,
        known,
    };
    host::wrap(module, import, 3, |module, real| cache.add(module, real))
}

/// What the module defines.
#[derive(Clone, Copy)]
pub(super) struct Known {
    /// `id(id) -> id`: the module's in the place of the server's; 0 if it has none.
    pub(super) id: FunctionId,
    /// The error if there is none.
    pub(super) none: i32,
}

/// What a cache is made from.
struct Cache {
    /// The module's memory.
    own: MemoryId,
    scratch: Scratch,
    at: u32,
    known: Known,
}

/// The locals of a look-up.
#[derive(Clone, Copy)]
struct LookUp {
    name: LocalId,
    bytes: LocalId,
    /// The name's first word; of a short name, all of it.
    first: LocalId,
    slot: LocalId,
}

impl Cache {
    /// `id(name, bytes, out) -> errno`.
    fn add(&self, module: &mut Module, real: FunctionId) -> FunctionId {
        let memory = self.scratch.memory;
        let short = self.add_short(module);
        let compare = self.add_compare(module);
        let ask = self.add_ask(module, real);
        function(module, [I32; 3], &[I32], |code, [name, bytes, out], locals| {
            let (first, slot, errno) = (locals.add(I64), locals.add(I32), locals.add(I32));
            let it = LookUp {
                name,
                bytes,
                first,
                slot,
            };
            code.local_get(bytes)
                .i32_const(1)
                .binop(BinaryOp::I32Sub)
                .i32_const(NAME_BYTES_MAX as i32)
                .binop(BinaryOp::I32GeU)
                .when(|code| {
                    code.local_get(name)
                        .local_get(bytes)
                        .local_get(out)
                        .call(ask)
                        .return_();
                });
            is_short(code, bytes);
            code.if_else(
                I64,
                |code| {
                    code.local_get(name).local_get(bytes).call(short);
                },
                |code| {
                    code.local_get(name).read64(self.own, 0);
                },
            );
            code.local_set(first);
            self.find_slot(code, it);
            code.local_get(slot)
                .read32(memory, 0)
                .local_get(bytes)
                .binop(BinaryOp::I32Eq);
            code.local_get(slot)
                .read64(memory, SLOT_NAME)
                .local_get(first)
                .binop(BinaryOp::I64Eq)
                .binop(BinaryOp::I32And);
            code.when(|code| {
                code.local_get(name)
                    .local_get(slot)
                    .local_get(bytes)
                    .call(compare)
                    .when(|code| {
                        code.local_get(out)
                            .local_get(slot)
                            .read32(memory, SLOT_ID)
                            .write32(self.own, 0)
                            .i32_const(0)
                            .return_();
                    });
            });
            self.take_slot(code, it);
            code.local_get(name)
                .local_get(bytes)
                .local_get(out)
                .call(ask)
                .local_tee(errno)
                .is_zero()
                .when(|code| {
                    code.local_get(slot).local_get(bytes).write32(memory, 0);
                    code.local_get(slot)
                        .local_get(out)
                        .read32(self.own, 0)
                        .write32(memory, SLOT_ID);
                });
            code.local_get(errno);
        })
    }

    /// `ask(name, bytes, out) -> errno`: the host.
    fn add_ask(&self, module: &mut Module, real: FunctionId) -> FunctionId {
        let Known { id, none } = self.known;
        function(module, [I32; 3], &[I32], |code, [name, bytes, out], locals| {
            let (errno, known) = (locals.add(I32), locals.add(I32));
            code.local_get(name)
                .local_get(bytes)
                .local_get(out)
                .call(real)
                .local_tee(errno)
                .when(|code| {
                    code.local_get(errno).return_();
                });
            code.local_get(out)
                .local_get(out)
                .read32(self.own, 0)
                .call(id)
                .local_tee(known)
                .write32(self.own, 0);
            code.i32_const(0).i32_const(none).local_get(known).select(None);
        })
    }

    /// Sets the name's slot: by its length, its first and its last word.
    fn find_slot(&self, code: &mut Code<'_>, it: LookUp) {
        is_short(code, it.bytes);
        code.if_else(
            I64,
            |code| {
                code.i64_const(0);
            },
            |code| {
                code.local_get(it.name)
                    .local_get(it.bytes)
                    .add()
                    .i32_const(WORD_BYTES as i32)
                    .binop(BinaryOp::I32Sub)
                    .read64(self.own, 0);
            },
        );
        code.i64_const(i64::from(u64::BITS / 3))
            .binop(BinaryOp::I64Rotl)
            .local_get(it.first)
            .binop(BinaryOp::I64Xor)
            .local_get(it.bytes)
            .unop(UnaryOp::I64ExtendUI32)
            .binop(BinaryOp::I64Xor)
            .i64_const(MULTIPLIER)
            .binop(BinaryOp::I64Mul)
            .i64_const((u64::BITS - SLOTS.ilog2()).into())
            .binop(BinaryOp::I64ShrU)
            .unop(UnaryOp::I32WrapI64)
            .i32_const(SLOT_BYTES as i32)
            .binop(BinaryOp::I32Mul)
            .plus(self.scratch.base + self.at)
            .local_set(it.slot);
    }

    /// Gives the slot to a name whose id is not known yet: the id may be put where the name stands.
    fn take_slot(&self, code: &mut Code<'_>, it: LookUp) {
        let memory = self.scratch.memory;
        code.local_get(it.slot).i32_const(0).write32(memory, 0);
        is_short(code, it.bytes);
        code.if_else(
            None,
            |code| {
                code.local_get(it.slot)
                    .local_get(it.first)
                    .write64(memory, SLOT_NAME);
            },
            |code| {
                code.local_get(it.slot)
                    .plus(SLOT_NAME)
                    .local_get(it.name)
                    .local_get(it.bytes)
                    .memory_copy(self.own, memory);
            },
        );
    }

    /// `short(name, bytes) -> i64`: a name of 1 to 7 bytes as one word. Two names of one length never have the same: the
    /// pieces overlap, but leave nothing out.
    fn add_short(&self, module: &mut Module) -> FunctionId {
        function(module, [I32, I32], &[I64], |code, [name, bytes], _| {
            let shifted = |code: &mut Code<'_>, bits: i64| {
                code.unop(UnaryOp::I64ExtendUI32)
                    .i64_const(bits)
                    .binop(BinaryOp::I64Shl);
            };
            code.local_get(bytes)
                .i32_const(HALF_BYTES as i32)
                .binop(BinaryOp::I32GeU);
            code.if_else(
                I64,
                |code| {
                    code.local_get(name)
                        .read32(self.own, 0)
                        .unop(UnaryOp::I64ExtendUI32);
                    code.local_get(name)
                        .local_get(bytes)
                        .add()
                        .i32_const(HALF_BYTES as i32)
                        .binop(BinaryOp::I32Sub)
                        .read32(self.own, 0);
                    shifted(code, 32);
                    code.binop(BinaryOp::I64Or);
                },
                |code| {
                    // The first, the last, and the one between them.
                    code.local_get(name).read8(self.own).unop(UnaryOp::I64ExtendUI32);
                    code.local_get(name)
                        .local_get(bytes)
                        .add()
                        .i32_const(1)
                        .binop(BinaryOp::I32Sub)
                        .read8(self.own);
                    shifted(code, 8);
                    code.binop(BinaryOp::I64Or);
                    code.local_get(name)
                        .local_get(bytes)
                        .i32_const(1)
                        .binop(BinaryOp::I32ShrU)
                        .add()
                        .read8(self.own);
                    shifted(code, 16);
                    code.binop(BinaryOp::I64Or);
                },
            );
        })
    }

    /// `is_equal(name, slot, bytes) -> i32`: whether a name of this length is the slot's, beyond its first word.
    fn add_compare(&self, module: &mut Module) -> FunctionId {
        function(module, [I32; 3], &[I32], |code, [name, slot, bytes], _| {
            // Word by word from the end; the first words may overlap.
            code.repeat(
                |code| {
                    code.local_get(bytes)
                        .i32_const(WORD_BYTES as i32)
                        .binop(BinaryOp::I32GtU);
                },
                |code| {
                    code.local_get(bytes)
                        .i32_const(WORD_BYTES as i32)
                        .binop(BinaryOp::I32Sub)
                        .local_set(bytes);
                    code.local_get(name).local_get(bytes).add().read64(self.own, 0);
                    code.local_get(slot)
                        .local_get(bytes)
                        .add()
                        .read64(self.scratch.memory, SLOT_NAME);
                    code.binop(BinaryOp::I64Ne).when(|code| {
                        code.i32_const(0).return_();
                    });
                },
            );
            code.i32_const(1);
        })
    }
}

/// Pushes whether a name is shorter than a word.
fn is_short(code: &mut Code<'_>, bytes: LocalId) {
    code.local_get(bytes)
        .i32_const(WORD_BYTES as i32)
        .binop(BinaryOp::I32LtU);
}
