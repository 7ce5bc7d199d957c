//! Names, as the server would check them. It refuses a bad one too, but quotes it, and what a module puts into the
//! server's words might be taken for something that the server says of itself.

use std::collections::HashSet;

use spacetimedb_sats::ProductType;

use crate::PrepareError;

/// Refuses what is no identifier. Not all of the server's rule: it also wants Unicode's normalization form C.
pub(super) fn check(mut names: impl Iterator<Item = impl AsRef<str>>) -> Result<(), PrepareError> {
    names.try_for_each(|name| {
        let name = name.as_ref();
        let mut chars = name.chars();
        let starts = chars
            .next()
            .is_some_and(|first| first == '_' || unicode_ident::is_xid_start(first));
        match starts && chars.all(unicode_ident::is_xid_continue) {
            true => Ok(()),
            false => Err(PrepareError::Name(name.to_owned())),
        }
    })
}

/// Refuses two functions of one name. SpacetimeDB 1.2.0 keeps only one of them, and so gives other numbers to those behind.
pub(super) fn check_functions(names: impl Iterator<Item = impl Into<String>>) -> Result<(), PrepareError> {
    let mut seen = HashSet::new();
    for name in names {
        let name = name.into();
        if !seen.insert(name.clone()) {
            return Err(PrepareError::Definition(format!(
                "there are two functions called `{name}`"
            )));
        }
    }
    Ok(())
}

/// The names of a product's elements.
pub(super) fn of_elements(product: &ProductType) -> impl Iterator<Item = &str> {
    product
        .elements
        .iter()
        .filter_map(|element| element.name().map(|name| &**name))
}
