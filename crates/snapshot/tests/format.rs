//! Snapshots as bytes: whole, changed, cut off.

use bytes::Bytes;
use proptest::prelude::*;
use rtdb_snapshot::{
    CLIENTS_MAX, Departed, FORMAT, Header, MAGIC, Owner, Piece, ROWS_MAX, Reader, Unreadable, Writer,
};
use std::collections::BTreeMap;

fn header() -> Header {
    Header {
        database: vec![1; 32].into(),
        owner: Some(Owner {
            identity: vec![2; 32].into(),
            ..Owner::default()
        }),
        module: Bytes::from_static(b"module"),
        ..Header::default()
    }
}

fn written(tables: &[(&str, Vec<Vec<u8>>)]) -> Vec<u8> {
    let (mut writer, mut all) = Writer::begin(header());
    let mut out = Vec::new();
    out.append(&mut all.to_vec());
    for (table, rows) in tables {
        for row in rows {
            all = writer.row(table, row.clone().into()).unwrap_or_default();
            out.extend_from_slice(&all);
        }
    }
    out.extend_from_slice(&writer.end());
    out
}

/// Reads it in steps of so many bytes; gives the rows by table.
fn read(bytes: &[u8], step: usize) -> Result<BTreeMap<String, Vec<Bytes>>, Unreadable> {
    let (mut reader, mut tables) = (Reader::default(), BTreeMap::<_, Vec<_>>::new());
    for part in bytes.chunks(step) {
        reader.push(part);
        while let Some(piece) = reader.piece()? {
            match piece {
                Piece::Header(header) => assert_eq!(header.format, FORMAT),
                Piece::Rows(rows) => tables.entry(rows.table).or_default().extend(rows.rows),
                Piece::End(_) | Piece::Clients(_) => {}
            }
        }
    }
    reader.finish()?;
    Ok(tables)
}

#[test]
fn what_was_written_is_read() {
    let many = (0..3 * ROWS_MAX as u32)
        .map(|row| row.to_le_bytes().to_vec())
        .collect();
    let large = vec![vec![7; 3 << 20], vec![8; 1 << 20], vec![9]];
    let bytes = written(&[("many", many), ("large", large.clone()), ("empty", vec![])]);
    for step in [1 << 16, usize::MAX] {
        let tables = read(&bytes, step).unwrap();
        assert_eq!(tables.len(), 2);
        assert_eq!(tables["many"].len(), 3 * ROWS_MAX);
        assert_eq!(tables["large"], large);
    }
    assert_eq!(read(&written(&[]), 1), Ok(BTreeMap::new()));
}

#[test]
fn many_clients_stand_in_many_pieces() {
    let client = |nth: usize, claims: usize| Departed {
        sender: vec![7; 32].into(),
        connection: (nth as u128).to_le_bytes().to_vec().into(),
        claims: "x".repeat(claims),
    };
    for (count, claims, pieces) in [
        (0, 0, 0),
        (1, 0, 1),
        (CLIENTS_MAX, 0, 1),
        (2 * CLIENTS_MAX + 1, 100, 3),
        (3, 1 << 20, 3),
    ] {
        let all: Vec<_> = (0..count).map(|nth| client(nth, claims)).collect();
        let (mut writer, head) = Writer::begin(header());
        let written = writer.clients(all.clone());
        assert_eq!(written.len(), pieces);
        let bytes = [vec![head], written, vec![writer.end()]].concat().concat();
        let (mut reader, mut found) = (Reader::default(), Vec::new());
        reader.push(&bytes);
        while let Some(piece) = reader.piece().unwrap() {
            if let Piece::Clients(clients) = piece {
                found.extend(clients.clients);
            }
        }
        reader.finish().unwrap();
        assert_eq!(found, all);
    }
    let (mut writer, head) = Writer::begin(header());
    let none = Departed {
        sender: vec![7; 31].into(),
        ..client(1, 0)
    };
    let bytes = [vec![head], writer.clients(vec![none]), vec![writer.end()]]
        .concat()
        .concat();
    assert!(matches!(read(&bytes, 1_000), Err(Unreadable::Misfit(_))));
}

#[test]
fn what_is_no_snapshot_is_refused() {
    assert_eq!(read(b"PK\x03\x04 something else", 4), Err(Unreadable::NoSnapshot));
    assert_eq!(read(b"", 1), Err(Unreadable::CutOff(0)));
    let newer = [&MAGIC[..], &(FORMAT + 1).to_le_bytes(), b"whatever"].concat();
    assert_eq!(read(&newer, 3), Err(Unreadable::Newer(FORMAT + 1)));
    let twice = [written(&[]), vec![0; 64]].concat();
    assert!(matches!(read(&twice, 1_000), Err(Unreadable::Misfit(_))));
    let (writer, _) = Writer::begin(Header::default());
    drop(writer);
    let (writer, head) = Writer::begin(Header::default());
    let bytes = [head, writer.end()].concat();
    assert!(matches!(read(&bytes, 1_000), Err(Unreadable::Misfit(_))));
}

proptest! {
    #[test]
    fn a_changed_byte_or_a_missing_one_is_noticed(
        rows in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 1..50),
        at in any::<prop::sample::Index>(),
        flip in 1..=255u8,
    ) {
        let bytes = written(&[("a", rows.clone()), ("b", rows)]);
        let place = at.index(bytes.len());
        prop_assert!(read(&bytes[..place], 100).is_err());
        let mut changed = bytes.clone();
        changed[place] ^= flip;
        prop_assert!(read(&changed, 100).is_err());
        prop_assert!(read(&bytes, 100).is_ok());
    }
}

/// What the sample holds.
fn sample() -> Vec<u8> {
    written(&[
        ("counter", vec![vec![1, 2, 3], vec![4, 5]]),
        ("rtdb_state", vec![vec![6; 121]]),
    ])
}

/// Written once, and never again.
#[test]
#[ignore = "writes the sample that the test below reads"]
fn write_sample() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/format-1");
    if !std::path::Path::new(path).exists() {
        std::fs::write(path, sample()).unwrap();
    }
}

#[test]
fn what_an_earlier_version_has_written_is_read() {
    let tables = read(include_bytes!("../testdata/format-1"), 7).unwrap();
    assert_eq!(tables["counter"], [vec![1, 2, 3], vec![4, 5]]);
    assert_eq!(tables["rtdb_state"], [vec![6; 121]]);
    assert_eq!(sample(), include_bytes!("../testdata/format-1"));
}
