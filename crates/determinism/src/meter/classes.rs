//! Where a function pays, and where it looks whether anything is left: on every way round, and else as rarely as may be.

use std::collections::{HashMap, HashSet};

use walrus::ir::{Instr, InstrSeqId};
use walrus::{ConstExpr, ElementItems, FunctionId, FunctionKind, GlobalKind, LocalFunction, Module};

use super::weights::{self, FREE_MAX};

/// A function that uses no more than so many units, with all that it calls, need not look: its callers do.
const QUIET_MAX: u32 = 4_096;

/// How a function pays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// Its callers pay so much for it.
    Free(u32),
    /// It pays, and does not look. So much may be used by it, and what it calls, without looking.
    Quiet(u32),
    /// It pays and looks.
    Looking,
}

/// The classes of a module's functions.
pub(super) fn of(module: &Module, functions: &[FunctionId]) -> HashMap<FunctionId, Class> {
    let local = |id: &FunctionId| match &module.funcs.get(*id).kind {
        FunctionKind::Local(function) => Some((*id, Facts::new(function))),
        _ => None,
    };
    let facts: HashMap<_, _> = functions.iter().filter_map(local).collect();
    let mut classes = HashMap::new();
    let mut open: HashSet<_> = facts.keys().copied().collect();
    for (id, _) in facts.iter().filter(|(_, facts)| facts.has_loop) {
        open.remove(id);
        classes.insert(*id, Class::Looking);
    }
    let mut calls = Vec::new();
    for (id, facts) in &facts {
        let known = facts.calls.iter().filter(|callee| open.contains(callee));
        calls.extend(known.map(|callee| (*id, *callee)).filter(|_| open.contains(id)));
    }
    let in_tables = in_tables(module);
    let class = |id: FunctionId, classes: &HashMap<FunctionId, Class>| {
        let facts = &facts[&id];
        let units = facts
            .calls
            .iter()
            .fold(facts.units, |units, callee| match classes.get(callee) {
                Some(Class::Free(more) | Class::Quiet(more)) => units.saturating_add(*more),
                _ => units,
            });
        let callees_are_free = facts
            .calls
            .iter()
            .all(|callee| matches!(classes.get(callee), None | Some(Class::Free(_))));
        match units {
            ..=FREE_MAX if callees_are_free => Class::Free(units),
            ..=QUIET_MAX if !in_tables.contains(&id) => Class::Quiet(units),
            _ => Class::Looking,
        }
    };
    // From those on that call no others; what is left calls itself by some way, or one that does.
    for id in peel(&mut open, calls.iter().copied()) {
        let class = class(id, &classes);
        classes.insert(id, class);
    }
    // Without those that are only called from there, from the other end.
    let mut round = open.clone();
    let within = calls
        .iter()
        .filter(|(one, other)| open.contains(one) && open.contains(other));
    let callers = peel(&mut round, within.map(|(caller, callee)| (*callee, *caller)));
    classes.extend(round.iter().map(|id| (*id, Class::Looking)));
    for id in callers.into_iter().rev() {
        let class = class(id, &classes);
        classes.insert(id, class);
    }
    classes
}

/// Takes out what needs nothing that is still there, one after the other. Each pair is of one and what it needs.
fn peel(
    open: &mut HashSet<FunctionId>,
    pairs: impl Iterator<Item = (FunctionId, FunctionId)>,
) -> Vec<FunctionId> {
    let (mut needs, mut needed_by) = (HashMap::new(), HashMap::<_, Vec<_>>::new());
    for (one, other) in pairs {
        *needs.entry(one).or_insert(0_u32) += 1;
        needed_by.entry(other).or_default().push(one);
    }
    let mut taken: Vec<_> = open
        .iter()
        .copied()
        .filter(|id| !needs.contains_key(id))
        .collect();
    let mut next = 0;
    while let Some(id) = taken.get(next).copied() {
        next += 1;
        open.remove(&id);
        for one in needed_by.remove(&id).unwrap_or_default() {
            if let Some(left) = needs.get_mut(&one) {
                *left -= 1;
                if *left == 0 {
                    taken.push(one);
                }
            }
        }
    }
    taken
}

/// The functions that are called through tables.
fn in_tables(module: &Module) -> HashSet<FunctionId> {
    let referred = |expression: &ConstExpr| match expression {
        ConstExpr::RefFunc(function) => Some(*function),
        _ => None,
    };
    let mut functions = HashSet::new();
    for element in module.elements.iter() {
        match &element.items {
            ElementItems::Functions(items) => functions.extend(items),
            ElementItems::Expressions(_, items) => functions.extend(items.iter().filter_map(referred)),
        }
    }
    for global in module.globals.iter() {
        if let GlobalKind::Local(expression) = &global.kind {
            functions.extend(referred(expression));
        }
    }
    functions
}

/// What a function does.
struct Facts {
    /// What its instructions cost, each of them once.
    units: u32,
    has_loop: bool,
    calls: Vec<FunctionId>,
}

impl Facts {
    fn new(function: &LocalFunction) -> Self {
        let mut facts = Self {
            units: 0,
            has_loop: false,
            calls: Vec::new(),
        };
        let mut open: Vec<InstrSeqId> = vec![function.entry_block()];
        while let Some(id) = open.pop() {
            for (instr, _) in &function.block(id).instrs {
                match instr {
                    Instr::Loop(it) => {
                        facts.has_loop = true;
                        open.push(it.seq);
                    }
                    Instr::Block(it) => open.push(it.seq),
                    Instr::IfElse(it) => open.extend([it.consequent, it.alternative]),
                    Instr::Call(it) => facts.calls.push(it.func),
                    Instr::ReturnCall(it) => facts.calls.push(it.func),
                    _ => {}
                }
                facts.units = facts.units.saturating_add(weights::of_instr(instr));
            }
        }
        facts
    }
}
