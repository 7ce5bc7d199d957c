//! The call header: what a replicated call knows of its caller and of its place in the log.

use spacetimedb_sats::{AlgebraicType, ProductTypeElement};

/// The header's length in bytes.
pub const LEN: usize = 72;

pub(crate) const SENDER_AT: u32 = 0;
pub(crate) const CONNECTION_AT: u32 = 32;
pub(crate) const TIMESTAMP_AT: u32 = 48;
pub(crate) const INDEX_AT: u32 = 56;
pub(crate) const SESSION_AT: u32 = 64;

/// The values that stand before every reducer's own arguments, little endian and in this order. BSATN products
/// concatenate, so `header ++ arguments` is again a valid argument list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CallHeader {
    /// The caller's identity, as in BSATN (little endian).
    pub sender: [u8; 32],
    /// The caller's connection id, as in BSATN; all zeros for none.
    pub connection: [u8; 16],
    /// The call's time in microseconds since the Unix epoch.
    pub timestamp_us: i64,
    /// The call's position in the log: a call at or below the last one applied has no effect.
    pub index: u64,
    /// The session that wants a receipt; 0 for none. With [`NO_RECEIPT`] added, the session of a call that wants none: its
    /// claims are found all the same.
    pub session: u64,
}

/// A session's call that wants no receipt. No session has the bit itself, as long as it is of a generation below 128.
pub const NO_RECEIPT: u64 = 1 << 63;

impl CallHeader {
    /// The header's bytes.
    pub fn encode(&self) -> [u8; LEN] {
        let mut bytes = [0; LEN];
        let mut put = |at: u32, part: &[u8]| bytes[at as usize..][..part.len()].copy_from_slice(part);
        put(SENDER_AT, &self.sender);
        put(CONNECTION_AT, &self.connection);
        put(TIMESTAMP_AT, &self.timestamp_us.to_le_bytes());
        put(INDEX_AT, &self.index.to_le_bytes());
        put(SESSION_AT, &self.session.to_le_bytes());
        bytes
    }

    /// Reads the header off the front of a replicated call's arguments; `None` if they are too short.
    pub fn decode(args: &[u8]) -> Option<Self> {
        Some(Self {
            sender: array(args, SENDER_AT)?,
            connection: array(args, CONNECTION_AT)?,
            timestamp_us: i64::from_le_bytes(array(args, TIMESTAMP_AT)?),
            index: u64::from_le_bytes(array(args, INDEX_AT)?),
            session: u64::from_le_bytes(array(args, SESSION_AT)?),
        })
    }
}

/// The header as a reducer's leading parameters.
pub(crate) fn params() -> [ProductTypeElement; 5] {
    [
        ("rtdb_sender", AlgebraicType::U256),
        ("rtdb_connection", AlgebraicType::U128),
        ("rtdb_timestamp", AlgebraicType::I64),
        ("rtdb_index", AlgebraicType::U64),
        ("rtdb_session", AlgebraicType::U64),
    ]
    .map(|(name, ty)| ProductTypeElement::new(ty, Some(name.into())))
}

fn array<const N: usize>(args: &[u8], at: u32) -> Option<[u8; N]> {
    args.get(at as usize..)?.first_chunk().copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_survives_the_round_trip() {
        let header = CallHeader {
            sender: [1; 32],
            connection: [2; 16],
            timestamp_us: -3,
            index: 4,
            session: 5,
        };
        let args = [header.encode().as_slice(), b"own"].concat();
        assert_eq!(CallHeader::decode(&args), Some(header));
    }

    #[test]
    fn what_is_too_short_is_no_header() {
        assert_eq!(CallHeader::decode(&[0; LEN - 1]), None);
    }
}
