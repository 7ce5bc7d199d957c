//! Which versions of the protocol nodes can talk in.

use super::PeerError;
use super::wire::Header;

/// The newest version of the protocol that this node speaks.
pub const PROTOCOL: u32 = 2;

/// The oldest version that it still understands. A version is understood for as long as nodes that speak no newer one
/// may be met, so that a cluster is updated node by node.
pub const PROTOCOL_MIN: u32 = 2;

/// A node's versions of the protocol, from the oldest that it understands to the newest that it speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Versions {
    oldest: u32,
    newest: u32,
}

impl Versions {
    /// This node's.
    pub(crate) const OURS: Self = Self {
        oldest: PROTOCOL_MIN,
        newest: PROTOCOL,
    };

    /// The newest version that both understand, and so talk in; `None` if there is none.
    fn common(self, other: Self) -> Option<u32> {
        let newest = self.newest.min(other.newest);
        let understood = |versions: Self| (versions.oldest..=versions.newest).contains(&newest);
        (understood(self) && understood(other)).then_some(newest)
    }

    /// Checks that the sender of a message, and this node, which are `self`, can talk.
    pub(crate) fn check(self, header: &Header) -> Result<(), PeerError> {
        let theirs = Self::from(header);
        match self.common(theirs) {
            Some(_) => Ok(()),
            // To the sender, who is told, it is the other way round.
            None => Err(PeerError::OtherProtocol {
                ours: theirs.newest,
                theirs: self.newest,
            }),
        }
    }
}

impl From<&Header> for Versions {
    fn from(header: &Header) -> Self {
        Self {
            // Version 1 knew no range.
            oldest: match header.protocol_min {
                0 => header.protocol,
                oldest => oldest,
            },
            newest: header.protocol,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn versions(oldest: u32, newest: u32) -> Versions {
        Versions { oldest, newest }
    }

    #[test]
    fn nodes_talk_in_the_newest_version_that_both_understand() {
        for (one, other, common) in [
            ((2, 2), (2, 2), Some(2)),
            // An update, node by node.
            ((2, 2), (2, 3), Some(2)),
            ((2, 3), (2, 3), Some(3)),
            ((2, 3), (3, 4), Some(3)),
            ((2, 9), (4, 5), Some(5)),
            // One step too many.
            ((2, 2), (3, 3), None),
            ((2, 3), (4, 9), None),
            ((1, 1), (2, 2), None),
            ((0, u32::MAX), (2, 2), Some(2)),
            // No range at all.
            ((3, 2), (2, 2), None),
            ((3, 2), (2, 3), None),
            ((0, 0), (2, 2), None),
        ] {
            let (one, other) = (versions(one.0, one.1), versions(other.0, other.1));
            assert_eq!(one.common(other), common, "{one:?} and {other:?}");
            assert_eq!(other.common(one), common, "{other:?} and {one:?}");
        }
    }

    #[test]
    fn a_header_without_a_range_is_of_its_one_version() {
        let header = |protocol_min, protocol| Header {
            protocol,
            protocol_min,
            ..Header::default()
        };
        let refused = |newest| {
            Err(PeerError::OtherProtocol {
                ours: newest,
                theirs: 3,
            })
        };
        let ours = versions(2, 3);
        assert_eq!(ours.check(&header(0, 1)), refused(1));
        assert_eq!(ours.check(&header(0, 2)), Ok(()));
        assert_eq!(ours.check(&header(0, 4)), refused(4));
        assert_eq!(ours.check(&header(3, 4)), Ok(()));
        assert_eq!(ours.check(&header(4, 5)), refused(5));
        assert_eq!(ours.check(&Header::default()), refused(0));
    }
}
