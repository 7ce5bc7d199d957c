//! A member of a group.

/// A member of a group, as its log names it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Member {
    /// Where the others reach it, `host:port`.
    pub addr: String,
    /// It only follows, for good. A member that is to vote follows until it has caught up.
    pub never_votes: bool,
}

impl Member {
    /// One that votes, now or soon.
    pub(crate) fn at(addr: impl Into<String>) -> Self {
        Self {
            addr: addr.into(),
            never_votes: false,
        }
    }
}
