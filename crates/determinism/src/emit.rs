//! A thin vocabulary over walrus, so that generated code reads like the code it stands for.

use walrus::ir::{BinaryOp, LoadKind, MemArg, StoreKind, UnaryOp};
use walrus::{
    ConstExpr, FunctionBuilder, FunctionId, GlobalId, InstrSeqBuilder, LocalId, MemoryId, Module,
    ModuleLocals, ValType,
};

pub(crate) use ValType::{I32, I64};

/// A function's body under construction.
pub(crate) type Code<'a> = InstrSeqBuilder<'a>;

/// Adds a function to the module.
pub(crate) fn function<const N: usize>(
    module: &mut Module,
    params: [ValType; N],
    results: &[ValType],
    body: impl FnOnce(&mut Code<'_>, [LocalId; N], &mut ModuleLocals),
) -> FunctionId {
    let locals = params.map(|ty| module.locals.add(ty));
    let mut builder = FunctionBuilder::new(&mut module.types, &params, results);
    body(&mut builder.func_body(), locals, &mut module.locals);
    builder.finish(locals.to_vec(), &mut module.funcs)
}

/// Adds a global that begins at 0 in every instance.
pub(crate) fn global(module: &mut Module, ty: ValType) -> GlobalId {
    let zero = if ty == I64 {
        walrus::ir::Value::I64(0)
    } else {
        walrus::ir::Value::I32(0)
    };
    module.globals.add_local(ty, true, false, ConstExpr::Value(zero))
}

/// What all of the shim's code does.
pub(crate) trait Emit {
    /// Pops a host function's result: traps unless it is 0, so that the host rolls the call back.
    fn must(&mut self) -> &mut Self;
    /// Pops a condition and traps if it holds.
    fn trap_if(&mut self) -> &mut Self;
    /// Pops a condition; runs `then` if it holds.
    fn when(&mut self, then: impl FnOnce(&mut Code<'_>)) -> &mut Self;
    /// Runs `body` while `condition`, which pushes an i32, holds.
    fn repeat(
        &mut self,
        condition: impl FnOnce(&mut Code<'_>),
        body: impl FnOnce(&mut Code<'_>),
    ) -> &mut Self;
    /// Adds a constant to the i32 on the stack.
    fn plus(&mut self, n: u32) -> &mut Self;
    /// `local += n`.
    fn advance(&mut self, local: LocalId, n: u32) -> &mut Self;
    /// Pops two i32, pushes their sum.
    fn add(&mut self) -> &mut Self;
    /// Pops two i32, pushes their difference.
    fn sub(&mut self) -> &mut Self;
    /// Pops two i32, pushes whether the first is less than the second, both unsigned.
    fn less(&mut self) -> &mut Self;
    /// Pops an i32, pushes whether it is 0.
    fn is_zero(&mut self) -> &mut Self;
    /// Pops an i32, pushes whether it is `n`.
    fn is(&mut self, n: i32) -> &mut Self;
    /// Pops an address, pushes the i32 at `address + offset`.
    fn read32(&mut self, memory: MemoryId, offset: u32) -> &mut Self;
    /// Pops an address, pushes the i64 at `address + offset`.
    fn read64(&mut self, memory: MemoryId, offset: u32) -> &mut Self;
    /// Pops an address, pushes the byte at it.
    fn read8(&mut self, memory: MemoryId) -> &mut Self;
    /// Pops an i32 and an address, writes the lowest byte of the one at the other.
    fn write8(&mut self, memory: MemoryId) -> &mut Self;
    /// Pops an i32 and an address, writes the one at the other plus `offset`.
    fn write32(&mut self, memory: MemoryId, offset: u32) -> &mut Self;
    /// Pops an i64 and an address, writes the one at the other plus `offset`.
    fn write64(&mut self, memory: MemoryId, offset: u32) -> &mut Self;
}

/// Rows and arguments stand anywhere.
fn unaligned(offset: u32) -> MemArg {
    MemArg { align: 1, offset }
}

impl Emit for Code<'_> {
    fn must(&mut self) -> &mut Self {
        self.trap_if()
    }

    fn trap_if(&mut self) -> &mut Self {
        self.when(|code| {
            code.unreachable();
        })
    }

    fn when(&mut self, then: impl FnOnce(&mut Code<'_>)) -> &mut Self {
        self.if_else(None, then, |_| {})
    }

    fn repeat(
        &mut self,
        condition: impl FnOnce(&mut Code<'_>),
        body: impl FnOnce(&mut Code<'_>),
    ) -> &mut Self {
        self.loop_(None, |code| {
            let again = code.id();
            condition(code);
            code.when(|code| {
                body(code);
                code.br(again);
            });
        })
    }

    fn plus(&mut self, n: u32) -> &mut Self {
        if n == 0 {
            self
        } else {
            self.i32_const(n as i32).add()
        }
    }

    fn advance(&mut self, local: LocalId, n: u32) -> &mut Self {
        if n == 0 {
            self
        } else {
            self.local_get(local).plus(n).local_set(local)
        }
    }

    fn add(&mut self) -> &mut Self {
        self.binop(BinaryOp::I32Add)
    }

    fn sub(&mut self) -> &mut Self {
        self.binop(BinaryOp::I32Sub)
    }

    fn less(&mut self) -> &mut Self {
        self.binop(BinaryOp::I32LtU)
    }

    fn is_zero(&mut self) -> &mut Self {
        self.unop(UnaryOp::I32Eqz)
    }

    fn is(&mut self, n: i32) -> &mut Self {
        self.i32_const(n).binop(BinaryOp::I32Eq)
    }

    fn read32(&mut self, memory: MemoryId, offset: u32) -> &mut Self {
        self.load(memory, LoadKind::I32 { atomic: false }, unaligned(offset))
    }

    fn read64(&mut self, memory: MemoryId, offset: u32) -> &mut Self {
        self.load(memory, LoadKind::I64 { atomic: false }, unaligned(offset))
    }

    fn read8(&mut self, memory: MemoryId) -> &mut Self {
        self.load(
            memory,
            LoadKind::I32_8 {
                kind: walrus::ir::ExtendedLoad::ZeroExtend,
            },
            unaligned(0),
        )
    }

    fn write8(&mut self, memory: MemoryId) -> &mut Self {
        self.store(memory, StoreKind::I32_8 { atomic: false }, unaligned(0))
    }

    fn write32(&mut self, memory: MemoryId, offset: u32) -> &mut Self {
        self.store(memory, StoreKind::I32 { atomic: false }, unaligned(offset))
    }

    fn write64(&mut self, memory: MemoryId, offset: u32) -> &mut Self {
        self.store(memory, StoreKind::I64 { atomic: false }, unaligned(offset))
    }
}
