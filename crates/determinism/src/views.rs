//! How a view's instances are named: one for each sender, or one for all if it does not know its sender.

use crate::section;
use spacetimedb_lib::Identity;
use spacetimedb_lib::view_args::{VIEW_ARGS_HASH_DOMAIN, hash_empty_view_args, hash_sender_view_args};

/// What [`REFRESH`](crate::REFRESH) takes for all instances that calls have outdated.
pub const REFRESH_ALL: u64 = 0;
/// The same for a refresh that calls wait for: all views together may use a fiftieth of what one may else, and it fails if they
/// use more. To modules that do not say that they know it ([`refreshes_briefly`]) it means nothing.
pub const REFRESH_BRIEFLY: u64 = 1;
/// In a key: the instance is put aside.
pub(crate) const PAUSE: u64 = 1;
/// The key in the place of 0, which is [`REFRESH_ALL`].
pub(crate) const KEY_MIN: u64 = 2;
/// What a view's number is spread by.
pub(crate) const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;
/// What the server hashes before a sender.
pub(crate) const DOMAIN: &[u8] = VIEW_ARGS_HASH_DOMAIN;

/// The section by which a prepared module says that it knows [`REFRESH_BRIEFLY`]. Its contents are one byte.
pub(crate) const SECTION: &str = "rtdb_views";
pub(crate) const BRIEF: u8 = 1;

/// Whether a prepared module knows [`REFRESH_BRIEFLY`].
pub fn refreshes_briefly(wasm: &[u8]) -> bool {
    section::of(wasm, SECTION) == Some(&[BRIEF])
}

/// The key of an instance of the view `id`: that of `sender`, or of everybody if the view is anonymous. As an argument of
/// [`REFRESH`](crate::REFRESH) it evaluates this instance, if calls have outdated it or it was put aside.
pub fn view_key(id: u32, sender: Option<[u8; 32]>) -> u64 {
    let hash = arg_hash(sender);
    let (word, _) = hash.split_first_chunk().unwrap_or((&[0; 8], &[]));
    let number = (u64::from(id) + 1).wrapping_mul(MULTIPLIER);
    ((u64::from_le_bytes(*word) ^ number) & !PAUSE).max(KEY_MIN)
}

/// As an argument of [`REFRESH`](crate::REFRESH): the instance of this key is left as it is from now on, and
/// [`REFRESH_ALL`] passes over it, until it is evaluated by its key.
pub fn view_pause(key: u64) -> u64 {
    key | PAUSE
}

/// The hash by which the server finds an instance's rows.
pub(crate) fn arg_hash(sender: Option<[u8; 32]>) -> [u8; 32] {
    match sender {
        Some(sender) => hash_sender_view_args(Identity::from_byte_array(sender)).data,
        None => hash_empty_view_args().data,
    }
}
