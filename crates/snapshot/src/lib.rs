//! A database at one position of its log: its module and all of its rows, as they travel between processes and lie in backups.
//!
//! A snapshot is a [`Header`], [`Rows`] in pieces, and an [`End`], which says what each table holds. [`Writer`] and [`Reader`] make
//! bytes of it and take them apart; each piece carries a hash of all before it, so that nothing can be lost, changed or exchanged
//! on the way. Pure: no I/O.

mod piece;
mod reader;
mod sum;
mod writer;

pub use piece::{Clients, Departed, End, Header, Owner, Piece, Rows, TableSum};
pub use reader::{Reader, Unreadable};
pub use sum::Sum;
pub use writer::Writer;

/// The version that this program writes, and the newest that it reads.
pub const FORMAT: u32 = 1;

/// What the bytes of a snapshot begin with.
pub const MAGIC: [u8; 8] = *b"rtdbsnap";

/// The most bytes of a piece: a header with the largest module.
pub const PIECE_BYTES_MAX: usize = 160 << 20;

/// How many bytes of rows a piece is to have, if no row is larger.
pub const ROWS_BYTES: usize = 1 << 20;

/// The most rows of a piece: more of them make loading no faster.
pub const ROWS_MAX: usize = 5_000;

/// The most clients of a piece.
pub const CLIENTS_MAX: usize = 1_000;

/// The bytes of the hash behind each piece.
const HASH_BYTES: usize = 16;
