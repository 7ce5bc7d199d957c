//! What instructions cost.

use walrus::ir::{BinaryOp, Instr, UnaryOp};

/// A call, besides what is called. Passing values, checking the stack.
const CALL: u32 = 8;
/// A call through a table: it may be one of a function that is free.
const CALL_INDIRECT: u32 = CALL + FREE_MAX;
/// A function that costs no more, with all that it calls, is free: its callers pay for it.
pub(super) const FREE_MAX: u32 = 64;
/// Memory is slower than the processor, if what is read is not near: sometimes by far.
const LOAD: u32 = 6;
const STORE: u32 = 3;
const JUMP: u32 = 3;
const DIVISION: u32 = 25;
/// It may ask the operating system.
const GROW: u32 = 2_000;

/// What an instruction costs by itself. What is called pays for itself, or is [free](super::classes::Class::Free).
pub(super) fn of_instr(instr: &Instr) -> u32 {
    match instr {
        Instr::Block(_) | Instr::Loop(_) | Instr::Drop(_) | Instr::Unreachable(_) => 0,
        Instr::Call(_) | Instr::ReturnCall(_) => CALL,
        Instr::CallIndirect(_) | Instr::ReturnCallIndirect(_) => CALL_INDIRECT,
        Instr::Load(_) | Instr::LoadSimd(_) | Instr::TableGet(_) => LOAD,
        Instr::Store(_) => STORE,
        Instr::BrTable(_) => JUMP,
        Instr::Binop(it) if is_division(it.op) => DIVISION,
        Instr::Unop(it) if is_root(it.op) => DIVISION,
        Instr::MemoryGrow(_) => GROW,
        _ => 1,
    }
}

fn is_division(op: BinaryOp) -> bool {
    use BinaryOp::*;
    matches!(
        op,
        I32DivS
            | I32DivU
            | I32RemS
            | I32RemU
            | I64DivS
            | I64DivU
            | I64RemS
            | I64RemU
            | F32Div
            | F64Div
            | F32x4Div
            | F64x2Div
    )
}

fn is_root(op: UnaryOp) -> bool {
    use UnaryOp::*;
    matches!(op, F32Sqrt | F64Sqrt | F32x4Sqrt | F64x2Sqrt)
}
