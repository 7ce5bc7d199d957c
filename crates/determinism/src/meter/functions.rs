//! The module's own code, charged by what is written in it.
//!
//! A *point* pays for what follows it up to the next one, whether all of that runs or not. There is one at the beginning
//! of a function and of a loop, and where code may be passed over that would make the last one pay for too much. A loop
//! must pay in each round; since many loops have few instructions, it counts in a local, and pays when that has become
//! much, or when the function ends. A function looks whether anything is left as often as it must, see `classes`: in its
//! loops and where it ends if it has any, else where it begins.

use std::collections::HashMap;
use std::vec::IntoIter;

use walrus::ir::{
    BinaryOp, Block, Br, BrTable, Const, Instr, InstrLocId, InstrSeqId, InstrSeqType, Loop, UnaryOp, Value,
};
use walrus::{FunctionId, FunctionKind, LocalFunction, LocalId, Module};

use super::classes::Class;
use super::{Meter, weights};
use crate::emit::{Code, Emit, I32};

/// A point pays for code that may be passed over if it pays for no more than so many units then.
const POINT_MAX: u32 = 256;
/// A loop pays when it has counted so many units.
const COUNTED_MAX: i32 = 4_096;
/// What paying costs by itself: the server counts these instructions, too, and must not be the first to end a call.
const PAYING: u32 = 8;
/// The most that a point can pay: all of the largest module's code costs less.
const UNITS_MAX: u32 = 1 << 30;

/// Rewrites a function. `looks`: whether it looks if anything is left.
pub(super) fn rewrite(
    module: &mut Module,
    meter: Meter,
    classes: &HashMap<FunctionId, Class>,
    id: FunctionId,
    looks: bool,
) {
    let Module {
        funcs, locals, types, ..
    } = module;
    let FunctionKind::Local(function) = &mut funcs.get_mut(id).kind else {
        return;
    };
    let entry = function.entry_block();
    let counter = has_loop(function).then(|| {
        let results = types.get(function.ty()).results().to_vec();
        Counter {
            local: locals.add(I32),
            entry,
            body: function
                .builder_mut()
                .dangling_instr_seq(InstrSeqType::new(types, &[], &results))
                .id(),
        }
    });
    let rewriter = Rewriter {
        meter,
        classes,
        function,
        looks_first: looks && counter.is_none(),
        counter,
        points: Vec::new(),
    };
    rewriter.run(entry);
}

/// Whether what follows an instruction may be passed over.
fn may_leave(instr: &Instr) -> bool {
    matches!(
        instr,
        Instr::Block(_) | Instr::Loop(_) | Instr::IfElse(_) | Instr::BrIf(_)
    )
}

fn has_loop(function: &LocalFunction) -> bool {
    let mut open = vec![function.entry_block()];
    while let Some(id) = open.pop() {
        for (instr, _) in &function.block(id).instrs {
            match instr {
                Instr::Loop(_) => return true,
                Instr::Block(it) => open.push(it.seq),
                Instr::IfElse(it) => open.extend([it.consequent, it.alternative]),
                _ => {}
            }
        }
    }
    false
}

/// What loops count with. The function's body becomes a block, behind which the rest is paid.
#[derive(Clone, Copy)]
struct Counter {
    local: LocalId,
    entry: InstrSeqId,
    body: InstrSeqId,
}

/// Where is paid: a constant that is not known before all is that it pays for.
struct Point {
    sequence: InstrSeqId,
    at: usize,
    units: u32,
    /// Whether it counts, instead of paying.
    is_counted: bool,
}

/// A sequence that is being rewritten.
struct Sequence {
    id: InstrSeqId,
    rest: IntoIter<(Instr, InstrLocId)>,
    /// What pays for the next instruction.
    point: usize,
    /// Whether that may be passed over, and was not looked at yet.
    may_be_passed_over: bool,
    /// The other alternative, and what pays where it begins.
    alternative: Option<(InstrSeqId, usize)>,
}

struct Rewriter<'a> {
    meter: Meter,
    classes: &'a HashMap<FunctionId, Class>,
    function: &'a mut LocalFunction,
    looks_first: bool,
    counter: Option<Counter>,
    points: Vec<Point>,
}

impl Rewriter<'_> {
    /// Nested sequences are kept on a stack of our own: a hostile module nests them as deep as it likes.
    fn run(mut self, entry: InstrSeqId) {
        let instrs = std::mem::take(&mut self.function.block_mut(entry).instrs);
        let (mut body, point) = (entry, self.points.len());
        if let Some(counter) = self.counter {
            body = counter.body;
            self.begin_counting(entry, counter.local);
            self.code(entry).instr(Block { seq: body });
            self.pay_counted(entry, counter.local);
        } else {
            self.point(entry);
            if self.looks_first {
                let meter = self.meter;
                meter.look(&mut self.code(entry));
            }
        }
        let mut open = vec![Sequence {
            id: body,
            rest: instrs.into_iter(),
            point,
            may_be_passed_over: false,
            alternative: None,
        }];
        while let Some(mut sequence) = open.pop() {
            match sequence.rest.next() {
                Some((instr, at)) => {
                    let inner = self.instruction(&mut sequence, instr, at);
                    open.push(sequence);
                    open.extend(inner);
                }
                None => {
                    let alternative = sequence.alternative;
                    open.extend(alternative.map(|(id, point)| self.open(id, point, None)));
                }
            }
        }
        self.settle();
    }

    fn open(&mut self, id: InstrSeqId, point: usize, alternative: Option<(InstrSeqId, usize)>) -> Sequence {
        let instrs = std::mem::take(&mut self.function.block_mut(id).instrs);
        Sequence {
            id,
            rest: instrs.into_iter(),
            point,
            may_be_passed_over: true,
            alternative,
        }
    }

    /// Rewrites an instruction. Returns the sequence that it begins.
    fn instruction(&mut self, sequence: &mut Sequence, instr: Instr, at: InstrLocId) -> Option<Sequence> {
        let weight = self.weight(&instr);
        if std::mem::take(&mut sequence.may_be_passed_over) {
            let ahead = match may_leave(&instr) {
                true => 0,
                false => self.ahead(sequence.rest.as_slice()),
            };
            if self.points[sequence.point].units + weight + ahead > POINT_MAX {
                sequence.point = self.point(sequence.id);
            }
        }
        let point = sequence.point;
        let units = &mut self.points[point].units;
        *units = (*units + weight).min(UNITS_MAX);
        let inner = match &instr {
            Instr::Block(it) => Some(self.open(it.seq, point, None)),
            Instr::IfElse(it) => Some(self.open(it.consequent, point, Some((it.alternative, point)))),
            Instr::Loop(Loop { seq }) => Some(self.open_loop(*seq)),
            Instr::ReturnCall(_) | Instr::ReturnCallIndirect(_) => {
                if let Some(counter) = self.counter {
                    self.pay_counted(sequence.id, counter.local);
                }
                None
            }
            _ => None,
        };
        sequence.may_be_passed_over = may_leave(&instr);
        let instr = self.within_body(instr);
        self.function.block_mut(sequence.id).instrs.push((instr, at));
        inner
    }

    /// What an instruction costs, with what is called if that is free.
    fn weight(&self, instr: &Instr) -> u32 {
        let called = match instr {
            Instr::Call(it) => self.classes.get(&it.func),
            Instr::ReturnCall(it) => self.classes.get(&it.func),
            _ => None,
        };
        match called {
            Some(Class::Free(units)) => weights::of_instr(instr) + units,
            _ => weights::of_instr(instr),
        }
    }

    /// What the instructions cost up to where the rest may be passed over, as far as it matters.
    fn ahead(&self, instrs: &[(Instr, InstrLocId)]) -> u32 {
        let mut units = 0;
        for (instr, _) in instrs {
            units += self.weight(instr);
            if may_leave(instr) || units > POINT_MAX {
                break;
            }
        }
        units
    }

    fn open_loop(&mut self, id: InstrSeqId) -> Sequence {
        let sequence = self.open(id, self.points.len(), None);
        self.round(id);
        sequence
    }

    /// What leaves the function leaves its body instead.
    fn within_body(&self, mut instr: Instr) -> Instr {
        let Some(counter) = self.counter else {
            return instr;
        };
        let retarget = |block: &mut InstrSeqId| {
            if *block == counter.entry {
                *block = counter.body;
            }
        };
        match &mut instr {
            Instr::Return(_) => return Br { block: counter.body }.into(),
            Instr::Br(it) => retarget(&mut it.block),
            Instr::BrIf(it) => retarget(&mut it.block),
            Instr::BrTable(BrTable { blocks, default }) => {
                blocks.iter_mut().chain([default]).for_each(retarget)
            }
            _ => {}
        }
        instr
    }

    fn code(&mut self, sequence: InstrSeqId) -> Code<'_> {
        self.function.builder_mut().instr_seq(sequence)
    }

    /// A point here.
    fn point(&mut self, sequence: InstrSeqId) -> usize {
        let meter = self.meter;
        let begin = self.function.block(sequence).instrs.len();
        meter.pay_units(&mut self.code(sequence), 0);
        self.add(sequence, begin + 1, false, PAYING)
    }

    /// The point at the beginning of a function that counts.
    fn begin_counting(&mut self, entry: InstrSeqId, local: LocalId) {
        self.code(entry).i32_const(0).local_set(local);
        self.add(entry, 0, true, 2 * PAYING);
    }

    /// The point at the beginning of a loop.
    fn round(&mut self, sequence: InstrSeqId) {
        let Some(Counter { local, .. }) = self.counter else {
            return;
        };
        let (meter, begin) = (self.meter, self.function.block(sequence).instrs.len());
        let mut code = self.code(sequence);
        code.local_get(local).i32_const(0).add().local_tee(local);
        code.i32_const(COUNTED_MAX).binop(BinaryOp::I32GtU).when(|code| {
            meter.charge(code, |code| {
                code.local_get(local).unop(UnaryOp::I64ExtendUI32);
            });
            code.i32_const(0).local_set(local);
        });
        self.add(sequence, begin + 1, true, PAYING);
    }

    fn add(&mut self, sequence: InstrSeqId, at: usize, is_counted: bool, units: u32) -> usize {
        self.points.push(Point {
            sequence,
            at,
            units,
            is_counted,
        });
        self.points.len() - 1
    }

    /// Pays what has been counted, where the function is left.
    fn pay_counted(&mut self, sequence: InstrSeqId, local: LocalId) {
        let meter = self.meter;
        meter.charge(&mut self.code(sequence), |code| {
            code.local_get(local).unop(UnaryOp::I64ExtendUI32);
        });
    }

    /// Fills in what each point pays.
    fn settle(self) {
        for point in self.points {
            let value = match point.is_counted {
                true => Value::I32(point.units as i32),
                false => Value::I64(point.units.into()),
            };
            let (instr, _) = &mut self.function.block_mut(point.sequence).instrs[point.at];
            *instr = Const { value }.into();
        }
    }
}
