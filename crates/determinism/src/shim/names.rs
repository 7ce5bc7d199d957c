//! `table_id_from_name` and `index_id_from_name`, which ask the host once for each name. The module's bindings keep ids
//! too, but in statics, which are as new in every call. An instance serves one version of a module, and sees no id change.

use walrus::ir::{BinaryOp, UnaryOp};
use walrus::{FunctionId, LocalId, MemoryId, Module};

use super::emit::{Code, Emit, I32, function};
use super::host::{self, Imported};
use super::scratch::Scratch;
use crate::PrepareError;

/// A slot: `bytes: u32, id: u32`, and a name of so many bytes. Of names that share a slot, the last one has it.
const SLOT_BYTES: u32 = 64;
const SLOT_ID: u32 = 4;
const SLOT_NAME: u32 = 8;
const SLOTS: u32 = 256;
/// How many bytes a cache takes.
pub(super) const CACHE_BYTES: u32 = SLOTS * SLOT_BYTES;
/// The names that are kept: those that words of [`WORD_BYTES`] cover. Nothing is wrong with asking for others again.
const NAME_BYTES_MAX: u32 = SLOT_BYTES - SLOT_NAME;
const WORD_BYTES: u32 = 8;
const MULTIPLIER: i64 = 0x9e37_79b9_7f4a_7c15_u64.cast_signed();

/// Puts a cache at `at` before a host function that looks up an id by name.
pub(super) fn wrap(
    module: &mut Module,
    import: &Imported,
    own: MemoryId,
    scratch: Scratch,
    at: u32,
) -> Result<(), PrepareError> {
    let real = host::add(module, &import.from, &import.name, 3);
    let cached = Cache { own, scratch, at }.add(module, real);
    host::replace(module, import, 3, |code| {
        code.call(cached);
    })
}

/// What a cache is made from.
struct Cache {
    /// The module's memory.
    own: MemoryId,
    scratch: Scratch,
    at: u32,
}

impl Cache {
    /// `id(name, bytes, out) -> errno`.
    fn add(&self, module: &mut Module, real: FunctionId) -> FunctionId {
        let memory = self.scratch.memory;
        function(module, [I32; 3], &[I32], |code, [name, bytes, out], locals| {
            let (slot, at, errno) = (locals.add(I32), locals.add(I32), locals.add(I32));
            code.local_get(bytes)
                .i32_const(WORD_BYTES as i32)
                .binop(BinaryOp::I32Sub)
                .i32_const((NAME_BYTES_MAX - WORD_BYTES) as i32)
                .binop(BinaryOp::I32GtU)
                .when(|code| {
                    code.local_get(name)
                        .local_get(bytes)
                        .local_get(out)
                        .call(real)
                        .return_();
                });
            self.slot(code, name, bytes);
            code.local_set(slot);
            code.block(None, |code| {
                let miss = code.id();
                code.local_get(slot)
                    .read32(memory, 0)
                    .local_get(bytes)
                    .binop(BinaryOp::I32Ne)
                    .br_if(miss);
                // Word by word from the end; the first word overlaps the second one.
                code.local_get(bytes).local_set(at);
                code.loop_(None, |code| {
                    let again = code.id();
                    previous_word(code, at);
                    self.is_word_equal(code, name, slot, at);
                    code.is_zero().br_if(miss).local_get(at).br_if(again);
                });
                code.local_get(out)
                    .local_get(slot)
                    .read32(memory, SLOT_ID)
                    .write32(self.own, 0)
                    .i32_const(0)
                    .return_();
            });
            code.local_get(name)
                .local_get(bytes)
                .local_get(out)
                .call(real)
                .local_tee(errno)
                .is_zero()
                .when(|code| {
                    code.local_get(slot).local_get(bytes).write32(memory, 0);
                    code.local_get(slot)
                        .local_get(out)
                        .read32(self.own, 0)
                        .write32(memory, SLOT_ID);
                    code.local_get(slot)
                        .plus(SLOT_NAME)
                        .local_get(name)
                        .local_get(bytes)
                        .memory_copy(self.own, memory);
                });
            code.local_get(errno);
        })
    }

    /// Pushes the address of a name's slot: by its length, its first and its last word.
    fn slot(&self, code: &mut Code<'_>, name: LocalId, bytes: LocalId) {
        code.local_get(name).read64(self.own, 0);
        code.local_get(name)
            .local_get(bytes)
            .add()
            .i32_const(WORD_BYTES as i32)
            .binop(BinaryOp::I32Sub)
            .read64(self.own, 0);
        code.i64_const(i64::from(u64::BITS / 3))
            .binop(BinaryOp::I64Rotl)
            .binop(BinaryOp::I64Xor)
            .local_get(bytes)
            .unop(UnaryOp::I64ExtendUI32)
            .binop(BinaryOp::I64Xor)
            .i64_const(MULTIPLIER)
            .binop(BinaryOp::I64Mul)
            .i64_const((u64::BITS - SLOTS.ilog2()).into())
            .binop(BinaryOp::I64ShrU)
            .unop(UnaryOp::I32WrapI64)
            .i32_const(SLOT_BYTES as i32)
            .binop(BinaryOp::I32Mul)
            .plus(self.scratch.base + self.at);
    }

    /// Pushes whether the words at an offset of a name and of a slot's name are equal.
    fn is_word_equal(&self, code: &mut Code<'_>, name: LocalId, slot: LocalId, at: LocalId) {
        code.local_get(name).local_get(at).add().read64(self.own, 0);
        code.local_get(slot)
            .local_get(at)
            .add()
            .read64(self.scratch.memory, SLOT_NAME);
        code.binop(BinaryOp::I64Eq);
    }
}

/// Moves an offset one word back, to 0 at the least.
fn previous_word(code: &mut Code<'_>, at: LocalId) {
    code.local_get(at)
        .i32_const(WORD_BYTES as i32)
        .binop(BinaryOp::I32Sub)
        .i32_const(0)
        .local_get(at)
        .i32_const(WORD_BYTES as i32)
        .binop(BinaryOp::I32GtU)
        .select(None)
        .local_set(at);
}
