//! What is known while the code of a function is read from top to bottom: what values are made of, and which addresses
//! have been marked on the way.

use std::collections::{HashMap, HashSet};

use walrus::{GlobalId, LocalId};

use super::dirty::OVERHANG_BYTES;

/// The most marks that are remembered for one base, and the longest way from an address to its base. Code that has more
/// makes some marks twice.
const WINDOWS_MAX: usize = 32;
const ALIASES_MAX: usize = 8;
/// How much is spent on remembering, as a multiple of the function's length. Beyond it everything is forgotten at the end
/// of each block: a hostile module can't take all day.
const WORK_PER_INSTRUCTION: usize = 64;

/// A value that a local had. Each assignment makes a new version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Version {
    pub(super) local: LocalId,
    number: u32,
}

/// What a value on the stack is made of. Sums are modulo 2^32, as addresses are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Value {
    Unknown,
    Const(i32),
    /// Some global's value and a constant: in practice the stack pointer's.
    Global(GlobalId, i64),
    Local(Version, i64),
}

impl Value {
    /// The value plus a constant.
    pub(super) fn plus(self, n: i64) -> Self {
        match self {
            Self::Unknown => Self::Unknown,
            Self::Const(value) => Self::Const(value.wrapping_add(n as i32)),
            Self::Global(global, offset) => Self::Global(global, offset + n),
            Self::Local(version, offset) => Self::Local(version, offset + n),
        }
    }
}

/// A place in the history of [`Known`].
#[derive(Clone, Copy)]
pub(super) struct Place {
    assigned: usize,
    marked: usize,
    floor: u32,
}

/// A range of offsets that are marked.
#[derive(Clone, Copy)]
struct Window {
    from: i64,
    to: i64,
}

/// What has been marked.
enum Marked {
    Window(Version),
    Block(u32),
}

/// What is known at a point of a function. Nothing takes a mark away, so that what was marked before a block is entered
/// is so within it; what is marked within it may have been jumped over, and is forgotten at its end.
pub(super) struct Known {
    numbers: HashMap<LocalId, u32>,
    /// The version of all locals that have not been assigned to since everything was forgotten.
    floor: u32,
    next: u32,
    /// What locals were copied from.
    aliases: HashMap<Version, (Version, i64)>,
    windows: HashMap<Version, Vec<Window>>,
    blocks: HashSet<u32>,
    /// The locals that have been assigned to, each with its number before.
    assigned: Vec<(LocalId, u32)>,
    marked: Vec<Marked>,
    work_left: usize,
}

impl Known {
    pub(super) fn new(instructions: usize) -> Self {
        Self {
            numbers: HashMap::new(),
            floor: 0,
            next: 0,
            aliases: HashMap::new(),
            windows: HashMap::new(),
            blocks: HashSet::new(),
            assigned: Vec::new(),
            marked: Vec::new(),
            work_left: instructions.saturating_mul(WORK_PER_INSTRUCTION),
        }
    }

    pub(super) fn place(&self) -> Place {
        Place {
            assigned: self.assigned.len(),
            marked: self.marked.len(),
            floor: self.floor,
        }
    }

    /// The version of a local here.
    pub(super) fn version(&self, local: LocalId) -> Version {
        let number = self.numbers.get(&local).copied().unwrap_or(0).max(self.floor);
        Version { local, number }
    }

    /// The local is assigned to.
    pub(super) fn assign(&mut self, local: LocalId, value: Value) {
        self.renew(local);
        if let Value::Local(of, offset) = value {
            self.aliases.insert(self.version(local), (of, offset));
        }
    }

    fn renew(&mut self, local: LocalId) {
        let before = self.version(local).number;
        self.assigned.push((local, before));
        self.next += 1;
        self.numbers.insert(local, self.next);
    }

    /// A loop begins, in which these locals are assigned to.
    pub(super) fn enter_loop(&mut self, assigned: Option<HashSet<LocalId>>) {
        match assigned {
            Some(locals) => locals.into_iter().for_each(|local| self.renew(local)),
            None => self.forget(),
        }
    }

    /// Takes from what may be spent. `false` if there is not so much left.
    pub(super) fn spend(&mut self, work: usize) -> bool {
        let left = self.work_left.checked_sub(work);
        self.work_left = left.unwrap_or(0);
        left.is_some()
    }

    /// A block that began at `place` is over. Whoever jumped here has seen other values.
    pub(super) fn leave(&mut self, place: Place) {
        self.forget_marks(place);
        if !self.spend(self.assigned.len() - place.assigned) {
            return self.forget();
        }
        let mut seen = HashSet::new();
        let firsts = self.assigned.split_off(place.assigned);
        for (local, before) in firsts.into_iter().filter(|(local, _)| seen.insert(*local)) {
            self.assigned.push((local, before));
            self.next += 1;
            self.numbers.insert(local, self.next);
        }
    }

    /// The first of two alternatives is over; the other one begins as that did, at `place`.
    pub(super) fn back(&mut self, place: Place) {
        self.forget_marks(place);
        for &(local, before) in self.assigned[place.assigned..].iter().rev() {
            self.numbers.insert(local, before);
        }
        if self.floor != place.floor {
            self.forget();
        }
    }

    fn forget(&mut self) {
        self.next += 1;
        self.floor = self.next;
    }

    fn forget_marks(&mut self, place: Place) {
        for marked in self.marked.drain(place.marked..) {
            match marked {
                Marked::Window(version) => {
                    self.windows.get_mut(&version).and_then(Vec::pop);
                }
                Marked::Block(block) => {
                    self.blocks.remove(&block);
                }
            }
        }
    }

    /// An address as offsets from the locals that it was made from, the nearest one first.
    pub(super) fn bases(&self, version: Version, offset: i64) -> Vec<(Version, i64)> {
        let mut bases = vec![(version, offset)];
        while let Some(&(version, offset)) = bases.last() {
            match self.aliases.get(&version) {
                Some(&(of, more)) if bases.len() < ALIASES_MAX => bases.push((of, offset + more)),
                _ => break,
            }
        }
        bases
    }

    /// Whether the bytes from `offset` to `end` are marked.
    pub(super) fn is_marked(&self, base: Version, offset: i64, end: i64) -> bool {
        let windows = self.windows.get(&base);
        windows.is_some_and(|all| all.iter().any(|it| it.from <= offset && end <= it.to))
    }

    /// The bytes from `from` to `to` are marked now.
    pub(super) fn set_marked(&mut self, base: Version, from: i64, to: i64) {
        let windows = self.windows.entry(base).or_default();
        if windows.len() < WINDOWS_MAX {
            windows.push(Window { from, to });
            self.marked.push(Marked::Window(base));
        }
    }

    /// The [`OVERHANG_BYTES`] from `from` on are marked now.
    pub(super) fn set_marked_at(&mut self, base: Version, from: i64) {
        self.set_marked(base, from, from + i64::from(OVERHANG_BYTES));
    }

    /// A block is marked now. Says whether it was not.
    pub(super) fn set_block(&mut self, block: u32) -> bool {
        let new = self.blocks.insert(block);
        if new {
            self.marked.push(Marked::Block(block));
        }
        new
    }
}
