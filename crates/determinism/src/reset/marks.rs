//! The rewriting of the module's own code: each store marks the block that it writes to, unless a mark that was made on
//! every way there covers it.
//!
//! Most stores need none of their own. A function's stack frame (`local = stack pointer - n`) is marked once, where it
//! begins. Stores at small offsets from one pointer need one mark, since a block is put back with what hangs over it. To
//! see that two addresses have one base, the stack is followed through each sequence of instructions, and locals through
//! their assignments.

use std::collections::{HashMap, HashSet};
use std::vec::IntoIter;

use walrus::ir::{
    BinaryOp, Binop, Call, Const, GlobalGet, Instr, InstrLocId, InstrSeqId, LoadSimd, LoadSimdKind, LocalGet,
    LocalSet, LocalTee, StoreKind,
};
use walrus::{FunctionId, FunctionKind, LocalFunction, LocalId, Module, ModuleLocals, ModuleTypes, ValType};

use super::dirty::{BLOCK_BYTES, BLOCK_SHIFT, DirtyMap, OVERHANG_BYTES};
use super::known::{Known, Place, Value, Version};
use super::memory::VirtualMemory;
use super::nan::Float;
use super::refused;
use super::stack::{self, Signatures};
use crate::PrepareError;
use crate::emit::I32;
use crate::meter::Meter;

/// The largest frame in bytes.
const FRAME_BYTES_MAX: i64 = 65_535;
/// A frame of up to so many blocks is marked block by block.
const FRAME_BLOCKS_MAX: i64 = 8;

/// How the code is rewritten.
#[derive(Clone, Copy)]
pub(super) struct Rewrite {
    pub(super) dirty: DirtyMap,
    pub(super) memory: VirtualMemory,
    pub(super) meter: Meter,
    /// Whether all NaNs are made one.
    pub(super) canonical_nan: bool,
}

impl Rewrite {
    pub(super) fn functions(self, module: &mut Module, functions: &[FunctionId]) -> Result<(), PrepareError> {
        let signatures = Signatures::of(module);
        for id in functions {
            let Module {
                funcs, locals, types, ..
            } = &mut *module;
            let FunctionKind::Local(function) = &mut funcs.get_mut(*id).kind else {
                continue;
            };
            let known = Known::new(function.size() as usize);
            let mut rewriter = Rewriter {
                how: self,
                signatures: &signatures,
                function,
                locals,
                types,
                spare: HashMap::new(),
                known,
            };
            rewriter.run()?;
        }
        Ok(())
    }
}

/// An instruction, and where it was.
type Located = (Instr, InstrLocId);

/// A sequence of instructions that is being rewritten.
struct Sequence {
    id: InstrSeqId,
    kind: Kind,
    /// When it began.
    place: Place,
    rest: IntoIter<Located>,
    written: Vec<Located>,
    /// What is on the stack, of what the sequence may see of it.
    stack: Vec<Value>,
}

/// What follows a sequence.
enum Kind {
    /// What follows the block.
    Block,
    /// The other alternative.
    Then(InstrSeqId),
}

/// An address.
#[derive(Clone, Copy)]
struct Address {
    base: Value,
    offset: u32,
}

struct Rewriter<'a> {
    how: Rewrite,
    signatures: &'a Signatures,
    function: &'a mut LocalFunction,
    locals: &'a mut ModuleLocals,
    types: &'a ModuleTypes,
    /// Locals to put values aside, by type.
    spare: HashMap<(Spare, ValType), LocalId>,
    known: Known,
}

/// What is put aside.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Spare {
    Address,
    Value,
    Bytes,
}

impl Rewriter<'_> {
    /// Nested sequences are kept on a stack of our own: a hostile module nests them as deep as it likes.
    fn run(&mut self) -> Result<(), PrepareError> {
        let entry = self.function.entry_block();
        let mut open = vec![self.open(entry, Kind::Block, 0)];
        while let Some(mut sequence) = open.pop() {
            match sequence.rest.next() {
                Some(located) => {
                    let inner = self.instruction(&mut sequence, located)?;
                    open.push(sequence);
                    open.extend(inner);
                }
                None => open.extend(self.close(sequence)),
            }
        }
        Ok(())
    }

    fn open(&mut self, id: InstrSeqId, kind: Kind, params: usize) -> Sequence {
        let instrs = std::mem::take(&mut self.function.block_mut(id).instrs);
        Sequence {
            id,
            kind,
            place: self.known.place(),
            written: Vec::with_capacity(instrs.len() * 2),
            rest: instrs.into_iter(),
            stack: vec![Value::Unknown; params],
        }
    }

    /// Ends a sequence; returns the one that is to be rewritten next in its place.
    fn close(&mut self, sequence: Sequence) -> Option<Sequence> {
        self.function.block_mut(sequence.id).instrs = sequence.written;
        match sequence.kind {
            Kind::Block => {
                self.known.leave(sequence.place);
                None
            }
            Kind::Then(alternative) => {
                self.known.back(sequence.place);
                let params = self.effect_of(alternative).pops;
                let mut other = self.open(alternative, Kind::Block, params);
                // In the end, what either has assigned to is unknown.
                other.place = sequence.place;
                Some(other)
            }
        }
    }

    fn effect_of(&self, sequence: InstrSeqId) -> stack::Effect {
        stack::of_sequence(self.function.block(sequence).ty, self.types)
    }

    /// Rewrites an instruction. Returns the sequence that it begins.
    fn instruction(
        &mut self,
        sequence: &mut Sequence,
        (instr, at): Located,
    ) -> Result<Option<Sequence>, PrepareError> {
        refused::instruction(&instr)?;
        let inner = match &instr {
            Instr::Block(it) => Some((it.seq, Kind::Block, 0)),
            Instr::Loop(it) => Some((it.seq, Kind::Block, 0)),
            Instr::IfElse(it) => Some((it.consequent, Kind::Then(it.alternative), 1)),
            _ => None,
        };
        if let Some((id, kind, besides)) = inner {
            let effect = self.effect_of(id);
            sequence.pop(effect.pops + besides);
            sequence.push_unknown(effect.pushes);
            let place = self.known.place();
            if matches!(instr, Instr::Loop(_)) {
                let assigned = self.assigned_in(id);
                self.known.enter_loop(assigned);
            }
            sequence.written.push((instr, at));
            let mut inner = self.open(id, kind, effect.pops);
            inner.place = place;
            return Ok(Some(inner));
        }
        self.plain(sequence, instr, at);
        Ok(None)
    }

    /// Rewrites an instruction that begins no sequence.
    fn plain(&mut self, sequence: &mut Sequence, instr: Instr, at: InstrLocId) {
        let effect = self.signatures.effect(&instr, self.types);
        let float = Float::of(&instr).filter(|_| self.how.canonical_nan);
        match &instr {
            Instr::LocalGet(it) => {
                let value = Value::Local(self.known.version(it.local), 0);
                sequence.keep(instr, at);
                sequence.stack.push(value);
            }
            Instr::LocalSet(it) => {
                let (local, value) = (it.local, sequence.pop_one());
                sequence.keep(instr, at);
                self.assign(sequence, local, value);
            }
            Instr::LocalTee(it) => {
                let (local, value) = (it.local, sequence.pop_one());
                sequence.keep(instr, at);
                self.assign(sequence, local, value);
                sequence.stack.push(Value::Local(self.known.version(local), 0));
            }
            Instr::GlobalGet(it) => {
                let value = Value::Global(it.global, 0);
                sequence.keep(instr, at);
                sequence.stack.push(value);
            }
            Instr::Const(Const {
                value: walrus::ir::Value::I32(value),
            }) => {
                let value = Value::Const(*value);
                sequence.keep(instr, at);
                sequence.stack.push(value);
            }
            Instr::Binop(Binop { op }) => {
                let (right, left) = (sequence.pop_one(), sequence.pop_one());
                let value = sum(*op, left, right);
                sequence.keep(instr, at);
                sequence.stack.push(value);
            }
            Instr::Store(it) => {
                let (offset, kind) = (it.arg.offset, it.kind);
                sequence.pop(1);
                let base = sequence.pop_one();
                self.store(
                    sequence,
                    instr,
                    at,
                    Address { base, offset },
                    kind.width(),
                    stored(kind),
                );
            }
            Instr::LoadSimd(LoadSimd { kind, arg, .. }) if lane_bytes(*kind).is_some() => {
                let (offset, bytes) = (arg.offset, lane_bytes(*kind).unwrap_or_default());
                sequence.pop(1);
                let base = sequence.pop_one();
                self.store(
                    sequence,
                    instr,
                    at,
                    Address { base, offset },
                    bytes,
                    ValType::V128,
                );
            }
            Instr::MemorySize(_) => {
                sequence.add(GlobalGet {
                    global: self.how.memory.pages,
                });
                sequence.push_unknown(1);
            }
            Instr::MemoryGrow(_) => self.call_instead(sequence, self.how.memory.grow, effect),
            Instr::MemoryCopy(_) => self.call_instead(sequence, self.how.memory.copy, effect),
            Instr::MemoryFill(_) => self.call_instead(sequence, self.how.memory.fill, effect),
            Instr::MemoryInit(_) => {
                sequence.pop(effect.pops);
                self.memory_init(sequence, instr, at);
            }
            // A segment that is gone would be a state of the instance.
            Instr::DataDrop(_) => {}
            _ => {
                sequence.pop(effect.pops);
                sequence.keep(instr, at);
                sequence.push_unknown(effect.pushes);
            }
        }
        if let Some(float) = float {
            let spare = self.spare(Spare::Value, float.ty());
            float.canonical(spare).into_iter().for_each(|it| sequence.add(it));
        }
    }

    fn call_instead(&self, sequence: &mut Sequence, func: FunctionId, effect: stack::Effect) {
        sequence.pop(effect.pops);
        sequence.add(Call { func });
        sequence.push_unknown(effect.pushes);
    }

    /// The locals that are assigned to in a loop; `None` if it is too much to look for them.
    fn assigned_in(&mut self, body: InstrSeqId) -> Option<HashSet<LocalId>> {
        let (mut assigned, mut open) = (HashSet::new(), vec![body]);
        while let Some(id) = open.pop() {
            let instrs = &self.function.block(id).instrs;
            if !self.known.spend(instrs.len()) {
                return None;
            }
            for (instr, _) in instrs {
                match instr {
                    Instr::LocalSet(LocalSet { local }) | Instr::LocalTee(LocalTee { local }) => {
                        assigned.insert(*local);
                    }
                    Instr::Block(it) => open.push(it.seq),
                    Instr::Loop(it) => open.push(it.seq),
                    Instr::IfElse(it) => open.extend([it.consequent, it.alternative]),
                    _ => {}
                }
            }
        }
        Some(assigned)
    }

    /// A local has got a value. If that makes it the beginning of a stack frame, the frame is marked.
    fn assign(&mut self, sequence: &mut Sequence, local: LocalId, value: Value) {
        self.known.assign(local, value);
        if let Value::Global(_, offset) = value
            && (-FRAME_BYTES_MAX..0).contains(&offset)
        {
            self.mark_frame(sequence, local, -offset);
        }
    }

    fn mark_frame(&mut self, sequence: &mut Sequence, local: LocalId, bytes: i64) {
        let block = i64::from(BLOCK_BYTES);
        self.known.set_marked(self.known.version(local), 0, bytes);
        if bytes > FRAME_BLOCKS_MAX * block {
            sequence.add(LocalGet { local });
            sequence.add(i32_const(bytes));
            sequence.add(Call {
                func: self.how.dirty.mark_range,
            });
            return;
        }
        let mut last = 0;
        self.mark(sequence, local, 0);
        while last + block < bytes {
            last += block;
            self.mark(sequence, local, last);
        }
        if bytes - last > i64::from(OVERHANG_BYTES) {
            self.mark(sequence, local, bytes - 1);
        }
    }

    /// Marks the block of `local + offset`.
    fn mark(&self, sequence: &mut Sequence, local: LocalId, offset: i64) {
        sequence.add(LocalGet { local });
        if offset != 0 {
            sequence.add(i32_const(offset));
            sequence.add(Binop { op: BinaryOp::I32Add });
        }
        self.how.dirty.mark().into_iter().for_each(|it| sequence.add(it));
    }

    /// Rewrites a store of so many bytes.
    fn store(
        &mut self,
        sequence: &mut Sequence,
        instr: Instr,
        at: InstrLocId,
        address: Address,
        bytes: u32,
        ty: ValType,
    ) {
        match address.base {
            Value::Const(base) => {
                sequence.keep(instr, at);
                let block = base.cast_unsigned().wrapping_add(address.offset) >> BLOCK_SHIFT;
                if self.known.set_block(block) {
                    self.how
                        .dirty
                        .mark_block(block)
                        .into_iter()
                        .for_each(|it| sequence.add(it));
                }
            }
            Value::Local(version, offset) => {
                let offset = offset + i64::from(address.offset);
                let bases = self.known.bases(version, offset);
                let end = |offset: i64| offset + i64::from(bytes);
                if bases
                    .iter()
                    .any(|&(base, offset)| self.known.is_marked(base, offset, end(offset)))
                {
                    return sequence.keep(instr, at);
                }
                match self.farthest_live(&bases) {
                    Some((base, offset)) => {
                        sequence.keep(instr, at);
                        let from = mark_from(offset, bytes);
                        self.known.set_marked_at(base, from);
                        self.mark(sequence, base.local, from);
                    }
                    None => self.store_aside(sequence, instr, at, address.offset, bytes, ty),
                }
            }
            Value::Unknown | Value::Global(..) => {
                self.store_aside(sequence, instr, at, address.offset, bytes, ty);
            }
        }
    }

    /// The base farthest from the address whose local still has that value: the most addresses share it.
    fn farthest_live(&self, bases: &[(Version, i64)]) -> Option<(Version, i64)> {
        let live = |it: &&(Version, i64)| self.known.version(it.0.local) == it.0;
        bases.iter().rev().find(live).copied()
    }

    /// Rewrites a store whose address is only on the stack, below the value.
    fn store_aside(
        &mut self,
        sequence: &mut Sequence,
        instr: Instr,
        at: InstrLocId,
        offset: u32,
        bytes: u32,
        ty: ValType,
    ) {
        let address = self.spare(Spare::Address, I32);
        let value = self.spare(Spare::Value, ty);
        sequence.add(LocalSet { local: value });
        sequence.add(LocalTee { local: address });
        sequence.add(LocalGet { local: value });
        sequence.keep(instr, at);
        self.mark(sequence, address, mark_from(offset.into(), bytes));
    }

    /// `memory.init`, with its range marked.
    fn memory_init(&mut self, sequence: &mut Sequence, instr: Instr, at: InstrLocId) {
        let [to, from, bytes] =
            [Spare::Address, Spare::Value, Spare::Bytes].map(|what| self.spare(what, I32));
        sequence.add(LocalTee { local: bytes });
        sequence.add(Call {
            func: self.how.meter.copied,
        });
        sequence.add(LocalSet { local: from });
        sequence.add(LocalTee { local: to });
        sequence.add(LocalGet { local: from });
        sequence.add(LocalGet { local: bytes });
        sequence.keep(instr, at);
        sequence.add(LocalGet { local: to });
        sequence.add(LocalGet { local: bytes });
        sequence.add(Call {
            func: self.how.dirty.mark_range,
        });
    }

    fn spare(&mut self, what: Spare, ty: ValType) -> LocalId {
        let locals = &mut *self.locals;
        *self.spare.entry((what, ty)).or_insert_with(|| locals.add(ty))
    }
}

impl Sequence {
    fn pop_one(&mut self) -> Value {
        self.stack.pop().unwrap_or(Value::Unknown)
    }

    fn pop(&mut self, count: usize) {
        self.stack.truncate(self.stack.len().saturating_sub(count));
    }

    fn push_unknown(&mut self, count: usize) {
        self.stack.resize(self.stack.len() + count, Value::Unknown);
    }

    /// An instruction that stays.
    fn keep(&mut self, instr: Instr, at: InstrLocId) {
        self.written.push((instr, at));
    }

    /// A new instruction.
    fn add(&mut self, instr: impl Into<Instr>) {
        self.written.push((instr.into(), InstrLocId::default()));
    }
}

/// What is known of the result of an operation.
fn sum(op: BinaryOp, left: Value, right: Value) -> Value {
    match (op, left, right) {
        (BinaryOp::I32Add, value, Value::Const(n)) | (BinaryOp::I32Add, Value::Const(n), value) => {
            value.plus(n.into())
        }
        (BinaryOp::I32Sub, value, Value::Const(n)) => value.plus(-i64::from(n)),
        _ => Value::Unknown,
    }
}

/// Where to mark for a store: at the base itself if that covers it, since other stores are likely to need that too.
fn mark_from(offset: i64, bytes: u32) -> i64 {
    let covered = (0..=i64::from(OVERHANG_BYTES - bytes)).contains(&offset);
    if covered { 0 } else { offset }
}

/// The type of what is stored.
fn stored(kind: StoreKind) -> ValType {
    match kind {
        StoreKind::I32 { .. } | StoreKind::I32_8 { .. } | StoreKind::I32_16 { .. } => I32,
        StoreKind::F32 => ValType::F32,
        StoreKind::F64 => ValType::F64,
        StoreKind::V128 => ValType::V128,
        StoreKind::I64 { .. }
        | StoreKind::I64_8 { .. }
        | StoreKind::I64_16 { .. }
        | StoreKind::I64_32 { .. } => ValType::I64,
    }
}

/// How many bytes are stored, if it is a store.
fn lane_bytes(kind: LoadSimdKind) -> Option<u32> {
    match kind {
        LoadSimdKind::V128Store8Lane(_) => Some(1),
        LoadSimdKind::V128Store16Lane(_) => Some(2),
        LoadSimdKind::V128Store32Lane(_) => Some(4),
        LoadSimdKind::V128Store64Lane(_) => Some(8),
        _ => None,
    }
}

fn i32_const(value: i64) -> Const {
    Const {
        value: walrus::ir::Value::I32(value as i32),
    }
}
