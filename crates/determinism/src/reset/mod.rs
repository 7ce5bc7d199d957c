//! Every call finds the instance as it was after start-up, and so sees nothing but the rows and its arguments.
//!
//! An instance keeps statics, caches, the allocator's lists, the seed of its hash maps from call to call, and loses
//! them when the server starts anew: without this, two servers that have the same rows give different answers. After
//! each call the module's memory and its globals are therefore put back, by the module itself, exactly:
//!
//! - `image` copies memory and globals once, at the end of `__describe_module__`, which the host runs in each instance.
//! - A second memory, the shim's own, holds the image and a byte for each block of memory: `dirty`.
//! - `marks` rewrites the module's code, so that each write to memory marks its block; `memory` does so for bulk
//!   operations, and `host` for what host functions write.
//! - After the call the marked blocks are copied back from the image, or filled with zeros beyond it.
//!
//! WebAssembly can't shrink a memory. `memory` therefore counts the pages that the module has grown by itself, and puts
//! the count back too; pages that an earlier call has grown are zeros when they are grown again. What is left: an access
//! beyond the module's size, within pages of an earlier call, does not trap. What it writes is undone like everything else. No
//! safe language makes such an access.
//!
//! The rest of an instance's state can't change, because modules that could change it are refused: see `refused`.

mod dirty;
mod host;
mod image;
mod known;
mod marks;
mod memory;
mod nan;
mod refused;
mod stack;
#[cfg(test)]
mod tests;

use walrus::{FunctionId, LocalId, MemoryId, Module};

use self::dirty::DirtyMap;
use self::image::Image;
use self::memory::VirtualMemory;
use crate::emit::Code;
use crate::meter::Meter;
use crate::{Options, PrepareError};

pub(crate) use self::host::wrap as wrap_host;

/// The size of a WASM page in bytes.
pub(crate) const PAGE_BYTES: u32 = 65_536;
/// Where the shim's memory is free: behind the map of dirty blocks.
pub(crate) const FREE: u32 = dirty::MAP_BYTES;
/// The most pages that a module's memory may have: one less than there are addresses for, so that no block of it is the
/// last one, which addresses below 0 mark.
const PAGES_MAX: u32 = 65_535;

/// What puts an instance back to its state after start-up.
#[derive(Clone, Copy)]
pub(crate) struct Reset {
    /// The shim's own memory.
    pub(crate) memory: MemoryId,
    /// What ends a call that runs for too long.
    pub(crate) meter: Meter,
    dirty: DirtyMap,
    virtual_memory: VirtualMemory,
    image: Image,
}

impl Reset {
    /// Rewrites all of the module's code, which also is metered. `own` is the module's memory. What is added to the module
    /// later is not rewritten, and has to tell itself what it writes.
    pub(crate) fn install(
        module: &mut Module,
        own: MemoryId,
        options: &Options,
    ) -> Result<Self, PrepareError> {
        refused::check(module, own)?;
        let functions: Vec<_> = module.funcs.iter_local().map(|(id, _)| id).collect();
        // What is added from here on is not the module's state.
        let globals = image::mutable_globals(module);
        let meter = Meter::add(module, own, options.call_units_max);
        let pages = FREE / PAGE_BYTES;
        let memory = module.memories.add_local(false, false, pages.into(), None, None);
        let dirty = DirtyMap::add(module, memory);
        let virtual_memory = VirtualMemory::add(module, own, dirty, meter);
        let image = Image::add(module, own, memory, virtual_memory.pages, globals);
        let rewrite = marks::Rewrite {
            dirty,
            memory: virtual_memory,
            meter,
            canonical_nan: options.canonical_nan,
        };
        rewrite.functions(module, &functions)?;
        meter.functions(module, &functions);
        Ok(Self {
            memory,
            meter,
            dirty,
            virtual_memory,
            image,
        })
    }

    /// The module's memory.
    fn own(self) -> MemoryId {
        self.virtual_memory.own
    }

    /// Reserves the first `bytes` of the shim's memory from [`FREE`] on.
    pub(crate) fn reserve(self, module: &mut Module, bytes: u32) {
        let pages = (FREE + bytes).div_ceil(PAGE_BYTES);
        module.memories.get_mut(self.memory).initial = pages.into();
    }

    /// Start-up is over: takes the image. If that has been done, puts the instance back.
    pub(crate) fn started(self, code: &mut Code<'_>) {
        code.call(self.image.started);
    }

    /// Traps if there is no image: the host must have run `__describe_module__`.
    pub(crate) fn require_image(self, code: &mut Code<'_>) {
        self.image.require(code);
    }

    /// Puts the instance back.
    pub(crate) fn reset(self, code: &mut Code<'_>) {
        code.call(self.image.reset);
    }

    /// Puts `bytes` of memory at `at` back, while they are the only ones that differ from the image.
    pub(crate) fn restore(self, code: &mut Code<'_>, at: u32, bytes: u32) {
        self.image.restore(code, at, bytes);
    }

    /// Marks a range of memory that locals tell.
    pub(crate) fn mark_range(self, code: &mut Code<'_>, at: LocalId, bytes: LocalId) {
        memory::mark_range(code, self.dirty, at, bytes);
    }

    /// Marks `bytes` of memory at `at`, so that they are put back after the call.
    pub(crate) fn mark(self, code: &mut Code<'_>, at: u32, bytes: u32) {
        self.dirty.mark_constant(code, at, bytes);
    }

    /// `room(at, bytes)`: makes memory reach to `at + bytes`, whatever the module's maximum, and marks these bytes. Traps
    /// if it can't. For calls in which the module does not run.
    pub(crate) fn add_room(self, module: &mut Module) -> FunctionId {
        self.virtual_memory.add_room(module, self.dirty)
    }
}
