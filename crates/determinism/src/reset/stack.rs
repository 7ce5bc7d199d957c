//! What instructions take from the stack, and what they leave on it.

use std::collections::HashMap;

use walrus::ir::{Instr, InstrSeqType, LoadSimdKind};
use walrus::{FunctionId, Module, ModuleTypes, TypeId};

/// How many values an instruction pops, and then pushes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Effect {
    pub(super) pops: usize,
    pub(super) pushes: usize,
}

/// The types of a module's functions.
pub(super) struct Signatures(HashMap<FunctionId, TypeId>);

impl Signatures {
    pub(super) fn of(module: &Module) -> Self {
        Self(module.funcs.iter().map(|it| (it.id(), it.ty())).collect())
    }

    /// The effect of an instruction after which the next one runs. Blocks have that of their sequences.
    pub(super) fn effect(&self, instr: &Instr, types: &ModuleTypes) -> Effect {
        let (pops, pushes) = match instr {
            Instr::Call(it) => return of_type(types, self.0[&it.func], 0),
            Instr::CallIndirect(it) => return of_type(types, it.ty, 1),
            Instr::MemoryCopy(_) | Instr::MemoryFill(_) | Instr::MemoryInit(_) => (3, 0),
            Instr::Select(_) | Instr::V128Bitselect(_) => (3, 1),
            Instr::Store(_) => (2, 0),
            Instr::Binop(_) | Instr::I8x16Swizzle(_) | Instr::I8x16Shuffle(_) => (2, 1),
            Instr::LoadSimd(it) => simd(it.kind),
            Instr::LocalSet(_) | Instr::GlobalSet(_) | Instr::Drop(_) | Instr::BrIf(_) => (1, 0),
            Instr::LocalTee(_)
            | Instr::Unop(_)
            | Instr::Load(_)
            | Instr::MemoryGrow(_)
            | Instr::TableGet(_)
            | Instr::RefIsNull(_) => (1, 1),
            Instr::Const(_)
            | Instr::LocalGet(_)
            | Instr::GlobalGet(_)
            | Instr::MemorySize(_)
            | Instr::TableSize(_)
            | Instr::RefNull(_)
            | Instr::RefFunc(_) => (0, 1),
            // Those that leave the sequence are its last; the others are refused.
            _ => (0, 0),
        };
        Effect { pops, pushes }
    }
}

/// The effect of a sequence.
pub(super) fn of_sequence(ty: InstrSeqType, types: &ModuleTypes) -> Effect {
    match ty {
        InstrSeqType::Simple(result) => Effect {
            pops: 0,
            pushes: usize::from(result.is_some()),
        },
        InstrSeqType::MultiValue(ty) => of_type(types, ty, 0),
    }
}

fn of_type(types: &ModuleTypes, ty: TypeId, besides: usize) -> Effect {
    let ty = types.get(ty);
    Effect {
        pops: ty.params().len() + besides,
        pushes: ty.results().len(),
    }
}

fn simd(kind: LoadSimdKind) -> (usize, usize) {
    use LoadSimdKind::*;
    match kind {
        V128Store8Lane(_) | V128Store16Lane(_) | V128Store32Lane(_) | V128Store64Lane(_) => (2, 0),
        V128Load8Lane(_) | V128Load16Lane(_) | V128Load32Lane(_) | V128Load64Lane(_) => (2, 1),
        _ => (1, 1),
    }
}
