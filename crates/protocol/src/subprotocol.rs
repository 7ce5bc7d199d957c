use std::fmt;

/// A WebSocket subprotocol of SpacetimeDB, oldest first. `v1.json.spacetimedb` has v1's messages: whoever serves it translates
/// them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subprotocol {
    /// `v1.bsatn.spacetimedb`: all servers.
    V1,
    /// `v2.bsatn.spacetimedb`: since 2.0.
    V2,
    /// `v3.bsatn.spacetimedb`: since 2.2; v2's messages, one or more to a frame.
    V3,
}

impl Subprotocol {
    /// All of them, newest first: the order in which a server prefers them.
    pub const ALL: [Self; 3] = [Self::V3, Self::V2, Self::V1];

    /// The name in the `Sec-WebSocket-Protocol` header.
    pub const fn name(self) -> &'static str {
        match self {
            Self::V1 => "v1.bsatn.spacetimedb",
            Self::V2 => "v2.bsatn.spacetimedb",
            Self::V3 => "v3.bsatn.spacetimedb",
        }
    }

    /// The subprotocol of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.name() == name)
    }

    /// Chooses as SpacetimeDB does: the newest that the client offers, in whatever order it does.
    ///
    /// `offered` are the values of the client's `Sec-WebSocket-Protocol` headers, each a comma-separated list;
    /// `newest` is the newest that the local server speaks itself. `None` is answered with 400.
    pub fn negotiate<'a>(offered: impl IntoIterator<Item = &'a str>, newest: Self) -> Option<Self> {
        offered
            .into_iter()
            .flat_map(|header| header.split(','))
            .filter_map(|name| Self::from_name(name.trim()))
            .filter(|known| *known <= newest)
            .max()
    }
}

impl fmt::Display for Subprotocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_offered_is_chosen_up_to_what_the_server_speaks() {
        let offered = [
            "v1.bsatn.spacetimedb, v3.bsatn.spacetimedb",
            "v2.bsatn.spacetimedb",
        ];
        assert_eq!(
            Subprotocol::negotiate(offered, Subprotocol::V3),
            Some(Subprotocol::V3)
        );
        assert_eq!(
            Subprotocol::negotiate(offered, Subprotocol::V1),
            Some(Subprotocol::V1)
        );
        assert_eq!(
            Subprotocol::negotiate(["v1.json.spacetimedb"], Subprotocol::V3),
            None
        );
        assert_eq!(Subprotocol::negotiate([], Subprotocol::V3), None);
    }
}
