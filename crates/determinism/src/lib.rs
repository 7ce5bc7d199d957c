//! Module in, prepared module out.
