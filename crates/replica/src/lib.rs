//! The local SpacetimeDB.
