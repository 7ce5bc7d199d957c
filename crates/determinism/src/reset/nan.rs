//! One NaN for all processors.
//!
//! WebAssembly leaves open which NaN an operation gives: its sign differs between x86-64 and ARM, and where an operand
//! is a NaN, its payload may pass through or not. After each operation that may give one, any NaN is replaced by the
//! positive quiet one without payload. Operations that only move bits (negation, `copysign`, `pmin`, loads) need nothing.

use walrus::LocalId;
use walrus::ValType;
use walrus::ir::{BinaryOp, Binop, Const, Instr, LocalGet, LocalTee, Select, UnaryOp, V128Bitselect, Value};

const NAN_F32: u32 = 0x7fc0_0000;
const NAN_F64: u64 = 0x7ff8_0000_0000_0000;

/// What an operation gives that may be a NaN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Float {
    F32,
    F64,
    F32x4,
    F64x2,
}

impl Float {
    /// What `instr` gives, if it leaves open which NaN.
    pub(super) fn of(instr: &Instr) -> Option<Self> {
        match instr {
            Instr::Binop(it) => binary(it.op),
            Instr::Unop(it) => unary(it.op),
            _ => None,
        }
    }

    pub(super) fn ty(self) -> ValType {
        match self {
            Self::F32 => ValType::F32,
            Self::F64 => ValType::F64,
            Self::F32x4 | Self::F64x2 => ValType::V128,
        }
    }

    /// Replaces the value on the stack by the one NaN if, or in each lane where, it is one. `spare` is a local of its
    /// type.
    pub(super) fn canonical(self, spare: LocalId) -> [Instr; 6] {
        let select: Instr = match self {
            Self::F32 | Self::F64 => Select { ty: None }.into(),
            Self::F32x4 | Self::F64x2 => V128Bitselect {}.into(),
        };
        // What equals itself is no NaN.
        [
            LocalTee { local: spare }.into(),
            Const { value: self.nan() }.into(),
            LocalGet { local: spare }.into(),
            LocalGet { local: spare }.into(),
            Binop { op: self.equal() }.into(),
            select,
        ]
    }

    fn nan(self) -> Value {
        let wide = |low: u128, bits: u32| low | low << bits;
        match self {
            Self::F32 => Value::F32(f32::from_bits(NAN_F32)),
            Self::F64 => Value::F64(f64::from_bits(NAN_F64)),
            Self::F32x4 => Value::V128(wide(wide(NAN_F32.into(), 32), 64)),
            Self::F64x2 => Value::V128(wide(NAN_F64.into(), 64)),
        }
    }

    fn equal(self) -> BinaryOp {
        match self {
            Self::F32 => BinaryOp::F32Eq,
            Self::F64 => BinaryOp::F64Eq,
            Self::F32x4 => BinaryOp::F32x4Eq,
            Self::F64x2 => BinaryOp::F64x2Eq,
        }
    }
}

fn binary(op: BinaryOp) -> Option<Float> {
    use BinaryOp::*;
    match op {
        F32Add | F32Sub | F32Mul | F32Div | F32Min | F32Max => Some(Float::F32),
        F64Add | F64Sub | F64Mul | F64Div | F64Min | F64Max => Some(Float::F64),
        F32x4Add | F32x4Sub | F32x4Mul | F32x4Div | F32x4Min | F32x4Max => Some(Float::F32x4),
        F64x2Add | F64x2Sub | F64x2Mul | F64x2Div | F64x2Min | F64x2Max => Some(Float::F64x2),
        _ => None,
    }
}

fn unary(op: UnaryOp) -> Option<Float> {
    use UnaryOp::*;
    match op {
        F32Ceil | F32Floor | F32Trunc | F32Nearest | F32Sqrt | F32DemoteF64 => Some(Float::F32),
        F64Ceil | F64Floor | F64Trunc | F64Nearest | F64Sqrt | F64PromoteF32 => Some(Float::F64),
        F32x4Ceil | F32x4Floor | F32x4Trunc | F32x4Nearest | F32x4Sqrt | F32x4DemoteF64x2Zero => {
            Some(Float::F32x4)
        }
        F64x2Ceil | F64x2Floor | F64x2Trunc | F64x2Nearest | F64x2Sqrt | F64x2PromoteLowF32x4 => {
            Some(Float::F64x2)
        }
        _ => None,
    }
}
