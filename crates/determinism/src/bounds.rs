//! How much of everything a module may declare, counted in one pass over its bytes before anything is built from it: a few
//! kilobytes can declare millions of locals, and each takes memory of its own while the module is rewritten.

use wasmparser::{Operator, Parser, Payload};

use crate::PrepareError;

/// The most code, in bytes. Rewriting takes some 70 times as much memory.
const CODE_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// The most functions with code.
const FUNCTIONS_MAX: u64 = 200_000;
/// The most locals that all functions declare together. Each takes some 60 bytes.
const LOCALS_MAX: u64 = 4_000_000;
/// The most loops and tail calls. Each pays for itself: some twenty instructions, which take 2 KiB while the module is
/// rewritten. A hundred bytes of usual code have no more than one.
const PAYING_MAX: u64 = 200_000;
/// The most imports. The server has less than a hundred functions, and compilers import each of them once; but each import
/// gets a wrapper of its own.
const IMPORTS_MAX: u64 = 512;

/// Refuses a module that declares too much. What is no module at all is for its readers to say.
pub(crate) fn check(wasm: &[u8]) -> Result<(), PrepareError> {
    let (mut locals, mut paying) = (0, 0);
    for payload in Parser::new(0).parse_all(wasm) {
        match payload {
            Ok(Payload::ImportSection(imports)) => limit("imports", imports.count().into(), IMPORTS_MAX)?,
            Ok(Payload::CodeSectionStart { count, size, .. }) => {
                limit("functions", count.into(), FUNCTIONS_MAX)?;
                limit("bytes of code", size.into(), CODE_BYTES_MAX)?;
            }
            Ok(Payload::CodeSectionEntry(body)) => {
                let groups = body.get_locals_reader().into_iter().flatten();
                locals += groups
                    .map_while(Result::ok)
                    .map(|(count, _)| u64::from(count))
                    .sum::<u64>();
                limit("local variables", locals, LOCALS_MAX)?;
                let operators = body.get_operators_reader().into_iter().flatten();
                paying += operators.map_while(Result::ok).filter(pays).count() as u64;
                limit("loops and tail calls", paying, PAYING_MAX)?;
            }
            Ok(_) => {}
            Err(_) => break,
        }
    }
    Ok(())
}

/// Whether an instruction pays for itself.
fn pays(operator: &Operator<'_>) -> bool {
    matches!(
        operator,
        Operator::Loop { .. } | Operator::ReturnCall { .. } | Operator::ReturnCallIndirect { .. }
    )
}

fn limit(what: &'static str, count: u64, max: u64) -> Result<(), PrepareError> {
    match count <= max {
        true => Ok(()),
        false => Err(PrepareError::TooMuch { what, count, max }),
    }
}
