//! BLAKE3 of a sender: the hash by which the server finds the rows of a view's instance.

use walrus::ir::{BinaryOp, UnaryOp};
use walrus::{FunctionId, LocalId, Module};

use super::emit::{Code, Emit, I32, I64, function};
use super::layout::VIEW_HASH;
use super::scratch::Scratch;
use crate::views::DOMAIN;

const IV: [u32; 8] = [
    0x6a09_e667,
    0xbb67_ae85,
    0x3c6e_f372,
    0xa54f_f53a,
    0x510e_527f,
    0x9b05_688c,
    0x1f83_d9ab,
    0x5be0_cd19,
];
/// How the words of a block are put for the next round.
const PERMUTATION: [usize; 16] = [2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8];
const ROUNDS: usize = 7;
/// The only block of the only chunk: CHUNK_START, CHUNK_END and ROOT.
const FLAGS: u32 = 1 | 2 | 8;
const SENDER_BYTES: usize = 32;
const WORD_BYTES: usize = 4;
/// A mixing step: the state's columns, then its diagonals.
const QUARTERS: [[usize; 4]; 8] = [
    [0, 4, 8, 12],
    [1, 5, 9, 13],
    [2, 6, 10, 14],
    [3, 7, 11, 15],
    [0, 5, 10, 15],
    [1, 6, 11, 12],
    [2, 7, 8, 13],
    [3, 4, 9, 14],
];
const ROTATIONS: [i32; 4] = [16, 12, 8, 7];

/// A word of the block that is hashed.
#[derive(Clone, Copy)]
enum Word {
    Constant(u32),
    Of(LocalId),
}

/// `hash(sender)`: leaves the hash of 60 bytes, what the server puts before a sender and the sender, in the shim's memory.
pub(super) fn add(module: &mut Module, scratch: Scratch) -> FunctionId {
    function(module, [I64; 4], &[], |code, sender, locals| {
        let state: [LocalId; 16] = std::array::from_fn(|_| locals.add(I32));
        let mut block: Vec<_> = DOMAIN
            .chunks(WORD_BYTES)
            .map(|word| {
                let mut bytes = [0; WORD_BYTES];
                bytes[..word.len()].copy_from_slice(word);
                Word::Constant(u32::from_le_bytes(bytes))
            })
            .collect();
        for half in sender {
            for shift in [0, 32] {
                let word = locals.add(I32);
                code.local_get(half).i64_const(shift).binop(BinaryOp::I64ShrU);
                code.unop(UnaryOp::I32WrapI64).local_set(word);
                block.push(Word::Of(word));
            }
        }
        block.resize(state.len(), Word::Constant(0));

        let bytes = (DOMAIN.len() + SENDER_BYTES) as u32;
        let rest = [IV[0], IV[1], IV[2], IV[3], 0, 0, bytes, FLAGS];
        for (local, value) in state.iter().zip(IV.into_iter().chain(rest)) {
            code.i32_const(value.cast_signed()).local_set(*local);
        }
        for _ in 0..ROUNDS {
            for (quarter, words) in QUARTERS.into_iter().zip(block.chunks(2)) {
                mix(code, quarter.map(|at| state[at]), words);
            }
            block = PERMUTATION.map(|at| block[at]).to_vec();
        }
        for at in 0..IV.len() {
            code.i32_const(0)
                .local_get(state[at])
                .local_get(state[at + IV.len()])
                .binop(BinaryOp::I32Xor);
            code.write32(
                scratch.memory,
                scratch.base + VIEW_HASH + (at * WORD_BYTES) as u32,
            );
        }
    })
}

fn mix(code: &mut Code<'_>, [a, b, c, d]: [LocalId; 4], words: &[Word]) {
    let steps = [(a, b, d), (c, d, b), (a, b, d), (c, d, b)];
    for (step, ((sum, by, turned), rotation)) in steps.into_iter().zip(ROTATIONS).enumerate() {
        code.local_get(sum).local_get(by).add();
        if step % 2 == 0 {
            match words.get(step / 2) {
                Some(Word::Constant(word)) => code.i32_const(word.cast_signed()).add(),
                Some(Word::Of(word)) => code.local_get(*word).add(),
                None => code,
            };
        }
        code.local_tee(sum)
            .local_get(turned)
            .binop(BinaryOp::I32Xor)
            .i32_const(rotation)
            .binop(BinaryOp::I32Rotr)
            .local_set(turned);
    }
}

const _: () = assert!(DOMAIN.len().is_multiple_of(WORD_BYTES) && DOMAIN.len() + SENDER_BYTES <= 64);
