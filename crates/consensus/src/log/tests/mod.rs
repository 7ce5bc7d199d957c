//! Tests of the store: on a disk in memory that crashes and rots, and on the real one, with real kills.

mod crashes;
mod disks;
mod store;
