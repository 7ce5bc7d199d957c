//! What instructions cost.

use std::collections::HashMap;

use walrus::ir::{BinaryOp, Instr, InstrSeqId, UnaryOp};
use walrus::{FunctionId, FunctionKind, LocalFunction, Module};

/// A call, besides what is called. Passing values, checking the stack.
const CALL: u32 = 5;
/// A call through a table: it may be one of a function that is free.
const CALL_INDIRECT: u32 = CALL + FREE_MAX;
/// A function that costs no more, with all that it calls, is free: its callers pay for it.
const FREE_MAX: u32 = 32;
const LOAD: u32 = 2;
const JUMP: u32 = 3;
const DIVISION: u32 = 10;
/// It may ask the operating system.
const GROW: u32 = 2_000;

/// What calls and instructions cost.
pub(super) struct Weights {
    /// The functions that are free, and what they cost their callers.
    free: HashMap<FunctionId, u32>,
}

impl Weights {
    pub(super) fn of(module: &Module, functions: &[FunctionId]) -> Self {
        let small = functions
            .iter()
            .filter_map(|id| match &module.funcs.get(*id).kind {
                FunctionKind::Local(function) => Some((*id, Small::new(function)?)),
                _ => None,
            });
        let mut small: HashMap<_, _> = small.collect();
        let metered = functions.iter().copied().collect();
        let mut free = HashMap::new();
        // With each round, calls are one deeper. Functions that call each other are never free.
        for _ in 0..=FREE_MAX / CALL {
            small.retain(|id, function| match function.inclusive(&free, &metered) {
                Some(units) if units <= FREE_MAX => free.insert(*id, units).is_some(),
                _ => true,
            });
        }
        Self { free }
    }

    pub(super) fn is_free(&self, function: FunctionId) -> bool {
        self.free.contains_key(&function)
    }

    pub(super) fn of_instr(&self, instr: &Instr) -> u32 {
        let called = match instr {
            Instr::Call(it) => Some(it.func),
            Instr::ReturnCall(it) => Some(it.func),
            _ => None,
        };
        let called = called.and_then(|function| self.free.get(&function));
        plain(instr) + called.copied().unwrap_or_default()
    }
}

/// A function that may be free.
struct Small {
    units: u32,
    calls: Vec<FunctionId>,
}

impl Small {
    /// `None` if it costs too much by itself, or has a loop.
    fn new(function: &LocalFunction) -> Option<Self> {
        let mut small = Self {
            units: 0,
            calls: Vec::new(),
        };
        let mut open: Vec<InstrSeqId> = vec![function.entry_block()];
        let mut seen = 0;
        while let Some(id) = open.pop() {
            for (instr, _) in &function.block(id).instrs {
                match instr {
                    Instr::Loop(_) => return None,
                    Instr::Block(it) => open.push(it.seq),
                    Instr::IfElse(it) => open.extend([it.consequent, it.alternative]),
                    Instr::Call(it) => small.calls.push(it.func),
                    Instr::ReturnCall(it) => small.calls.push(it.func),
                    _ => {}
                }
                small.units += plain(instr);
                seen += 1;
                if small.units > FREE_MAX || seen > FREE_MAX {
                    return None;
                }
            }
        }
        Some(small)
    }

    /// What it costs with all that it calls. Functions that are not metered charge by themselves; `None` as long as
    /// that is not known to hold.
    fn inclusive(
        &self,
        free: &HashMap<FunctionId, u32>,
        metered: &std::collections::HashSet<FunctionId>,
    ) -> Option<u32> {
        let calls = self.calls.iter().filter(|id| metered.contains(id));
        calls
            .map(|id| free.get(id))
            .try_fold(self.units, |sum, units| Some(sum + units?))
    }
}

/// What an instruction costs by itself.
fn plain(instr: &Instr) -> u32 {
    match instr {
        Instr::Block(_) | Instr::Loop(_) | Instr::Drop(_) | Instr::Unreachable(_) => 0,
        Instr::Call(_) | Instr::ReturnCall(_) => CALL,
        Instr::CallIndirect(_) | Instr::ReturnCallIndirect(_) => CALL_INDIRECT,
        Instr::Load(_) | Instr::LoadSimd(_) | Instr::TableGet(_) => LOAD,
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
