//! SpacetimeDB's wire formats.
