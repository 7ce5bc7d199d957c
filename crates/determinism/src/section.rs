//! What a prepared module says of itself, in sections of its own: whoever feeds it finds out whichever version of this
//! program has prepared it.

use walrus::{Module, RawCustomSection};

/// Puts a section in the place of those of its name, whatever the module itself says there. No contents: no section.
pub(crate) fn put(module: &mut Module, name: &str, contents: Option<&[u8]>) {
    while module.customs.remove_raw(name).is_some() {}
    if let Some(contents) = contents {
        module.customs.add(RawCustomSection {
            name: name.to_owned(),
            data: contents.to_vec(),
        });
    }
}

/// The contents of the first section of that name.
pub(crate) fn of<'a>(wasm: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let mut rest = wasm.strip_prefix(b"\0asm\x01\0\0\0")?;
    while let Some((id, after)) = rest.split_first() {
        let (section, after) = counted(after)?;
        rest = after;
        if *id == 0
            && let Some((found, contents)) = counted(section)
            && found == name.as_bytes()
        {
            return Some(contents);
        }
    }
    None
}

/// Splits off so many bytes as a number says that stands before them.
fn counted(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut count = 0_u64;
    for (at, byte) in bytes.iter().enumerate().take(5) {
        count |= u64::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return bytes[at + 1..].split_at_checked(usize::try_from(count).ok()?);
        }
    }
    None
}
