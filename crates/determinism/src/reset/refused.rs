//! What a module may not do: change parts of its instance that can't be put back, or depend on the processor.

use walrus::ir::{BinaryOp, Instr, UnaryOp};
use walrus::{MemoryId, Module, ValType};

use super::PAGES_MAX;
use crate::PrepareError;

/// Refuses what a module declares.
pub(super) fn check(module: &Module, own: MemoryId) -> Result<(), PrepareError> {
    let initial = module.memories.get(own).initial;
    if !(1..=u64::from(PAGES_MAX)).contains(&initial) {
        return Err(PrepareError::WrongAbi(format!(
            "its memory begins with {initial} pages; it must have at least 1, and at most {PAGES_MAX}"
        )));
    }
    let reference = |ty| matches!(ty, ValType::Ref(_));
    if module.globals.iter().any(|it| it.mutable && reference(it.ty)) {
        return Err(PrepareError::Feature("mutable globals of reference type"));
    }
    Ok(())
}

/// Refuses an instruction.
pub(super) fn instruction(instr: &Instr) -> Result<(), PrepareError> {
    match feature(instr) {
        Some(feature) => Err(PrepareError::Feature(feature)),
        None => Ok(()),
    }
}

/// The feature that an instruction is refused for.
fn feature(instr: &Instr) -> Option<&'static str> {
    let atomic = match instr {
        Instr::Load(it) => it.kind.atomic(),
        Instr::Store(it) => it.kind.atomic(),
        Instr::AtomicRmw(_)
        | Instr::Cmpxchg(_)
        | Instr::AtomicNotify(_)
        | Instr::AtomicWait(_)
        | Instr::AtomicFence(_) => true,
        _ => false,
    };
    if atomic {
        return Some("atomic instructions");
    }
    match instr {
        Instr::TernOp(_) => Some("relaxed SIMD"),
        Instr::Binop(it) if is_relaxed_binary(it.op) => Some("relaxed SIMD"),
        Instr::Unop(it) if is_relaxed_unary(it.op) => Some("relaxed SIMD"),
        Instr::TableSet(_)
        | Instr::TableGrow(_)
        | Instr::TableFill(_)
        | Instr::TableInit(_)
        | Instr::TableCopy(_)
        | Instr::ElemDrop(_) => Some("tables that change"),
        Instr::Try(_) | Instr::TryTable(_) | Instr::Throw(_) | Instr::ThrowRef(_) | Instr::Rethrow(_) => {
            Some("exceptions")
        }
        Instr::CallRef(_)
        | Instr::ReturnCallRef(_)
        | Instr::RefAsNonNull(_)
        | Instr::BrOnNull(_)
        | Instr::BrOnNonNull(_) => Some("typed function references"),
        _ => None,
    }
}

fn is_relaxed_binary(op: BinaryOp) -> bool {
    use BinaryOp::*;
    matches!(
        op,
        I8x16RelaxedSwizzle
            | F32x4RelaxedMin
            | F32x4RelaxedMax
            | F64x2RelaxedMin
            | F64x2RelaxedMax
            | I16x8RelaxedQ15mulrS
            | I16x8RelaxedDotI8x16I7x16S
    )
}

fn is_relaxed_unary(op: UnaryOp) -> bool {
    use UnaryOp::*;
    matches!(
        op,
        I32x4RelaxedTruncF32x4S
            | I32x4RelaxedTruncF32x4U
            | I32x4RelaxedTruncF64x2SZero
            | I32x4RelaxedTruncF64x2UZero
    )
}
