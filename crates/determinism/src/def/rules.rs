//! Rules of row-level security: SQL, which the server reads by recursion and without a limit of its own, so that a long
//! rule overflows its stack and ends it.

use crate::PrepareError;

/// How long a rule may be, in bytes.
const RULE_BYTES_MAX: usize = 2048;
/// How many signs, negations and parentheses a rule may hold: each may be a level of its own.
const OPERATORS_MAX: usize = 64;

/// Refuses rules that a server might not survive.
pub(super) fn check<'a>(mut rules: impl Iterator<Item = &'a str>) -> Result<(), PrepareError> {
    rules.try_for_each(|rule| {
        let signs = rule.bytes().filter(|byte| b"+-~!@#|&^(".contains(byte)).count();
        let words = rule.split(|c: char| !c.is_alphanumeric());
        let negations = words.filter(|word| word.eq_ignore_ascii_case("not")).count();
        match rule.len() <= RULE_BYTES_MAX && signs + negations <= OPERATORS_MAX {
            true => Ok(()),
            false => Err(PrepareError::Definition(format!(
                "a rule of row-level security has more than {RULE_BYTES_MAX} bytes, or more than {OPERATORS_MAX} signs, \
                 negations and parentheses"
            ))),
        }
    })
}
