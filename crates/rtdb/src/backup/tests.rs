//! Backups in a directory: whole, damaged, broken off, newer.

use super::archive::{self, Backup, Found};
use super::manifest::{MANIFEST, folder_of, parse_moment};
use super::store::Store;
use super::{BackupError, Restore, find, thin_out};
use rtdb_snapshot::{Header, Owner, Writer};
use std::fs;
use std::io::{Cursor, Read};
use tempfile::TempDir;

const TAKEN_US: i64 = 1_795_000_000_123_456;

/// A snapshot with rows that fill more than a part.
fn snapshot(taken_us: i64) -> Vec<u8> {
    let header = Header {
        database: vec![1; 32].into(),
        owner: Some(Owner {
            identity: vec![2; 32].into(),
            ..Owner::default()
        }),
        names: vec!["shop".to_owned()],
        module: vec![3; 1 << 20].into(),
        taken_us,
        ..Header::default()
    };
    let (mut writer, head) = Writer::begin(header);
    let mut bytes = head.to_vec();
    for nth in 0..40_000_u32 {
        let noise = blake3::hash(&nth.to_le_bytes()).as_bytes().repeat(8);
        let row = [nth.to_le_bytes().as_slice(), &noise].concat();
        bytes.extend_from_slice(&writer.row("item", row.into()).unwrap_or_default());
    }
    bytes.extend_from_slice(&writer.end());
    bytes
}

fn place() -> (TempDir, Store) {
    let folder = TempDir::new().unwrap();
    let store = Store::new(folder.path().join("new").to_str().unwrap()).unwrap();
    (folder, store)
}

fn kept(store: &Store, taken_us: i64) -> Backup {
    archive::write(store, Cursor::new(snapshot(taken_us)), |_, _| {}).unwrap()
}

/// A directory, a bucket, and the one that `RTDB_TEST_S3` names, if one is to be tried.
fn places() -> Vec<(Option<TempDir>, Store)> {
    let (folder, directory) = place();
    let s3 = std::env::var("RTDB_TEST_S3").ok();
    let s3 = s3.map(|place| {
        let own = format!("{place}/{}", folder.path().display());
        (None, Store::new(&own).unwrap())
    });
    let places = [(Some(folder), directory), (None, Store::in_memory())];
    places.into_iter().chain(s3).collect()
}

#[test]
fn what_was_kept_is_what_was_sent() {
    for (_folder, store) in places() {
        what_was_kept_in(&store);
    }
}

fn what_was_kept_in(store: &Store) {
    let backup = kept(store, TAKEN_US);
    assert_eq!(
        backup.folder,
        format!("{}/20261118T110640.123456Z", "01".repeat(32))
    );
    assert!(backup.manifest.parts.len() > 2);
    assert_eq!(backup.manifest.rows(), 40_000);
    assert_eq!(backup.manifest.taken, "2026-11-18T11:06:40.123456Z");
    backup.verify(store, |_| {}).unwrap();
    let mut bytes = Vec::new();
    backup.bytes(store, |_| {}).read_to_end(&mut bytes).unwrap();
    assert!(bytes == snapshot(TAKEN_US));
    let Found { whole, half, .. } = Backup::all(store).unwrap();
    assert_eq!((whole.len(), half.len()), (1, 0));
    assert_eq!(whole[0].manifest, backup.manifest);
}

#[test]
fn what_is_cut_off_on_its_way_is_no_backup() {
    let (_folder, store) = place();
    let sent = snapshot(TAKEN_US);
    for len in [0, 7, 100, sent.len() / 2, sent.len() - 1] {
        let error = archive::write(&store, Cursor::new(&sent[..len]), |_, _| {}).unwrap_err();
        assert!(matches!(error, BackupError::Snapshot(_)), "{len}: {error}");
    }
    let mut changed = sent;
    let middle = changed.len() / 2;
    changed[middle] ^= 1;
    assert!(archive::write(&store, Cursor::new(changed), |_, _| {}).is_err());
    // Nothing of it stays.
    let Found { whole, half, .. } = Backup::all(&store).unwrap();
    assert!(whole.is_empty() && half.is_empty(), "{half:?}");
}

#[test]
fn a_rotted_byte_or_a_lost_part_is_found() {
    let (folder, store) = place();
    let backup = kept(&store, TAKEN_US);
    let part = &backup.manifest.parts[1].file;
    let path = folder.path().join("new").join(&backup.folder).join(part);
    let sound = fs::read(&path).unwrap();
    for at in [0, sound.len() / 2, sound.len() - 1] {
        let mut rotted = sound.clone();
        rotted[at] ^= 0x10;
        fs::write(&path, rotted).unwrap();
        assert!(backup.verify(&store, |_| {}).is_err(), "byte {at}");
    }
    fs::write(&path, &sound[..sound.len() - 1]).unwrap();
    assert!(matches!(
        backup.verify(&store, |_| {}),
        Err(BackupError::Part { .. })
    ));
    fs::remove_file(&path).unwrap();
    assert!(matches!(
        backup.verify(&store, |_| {}),
        Err(BackupError::Part { .. })
    ));
    fs::write(&path, sound).unwrap();
    backup.verify(&store, |_| {}).unwrap();
    // A part that is left out, or named twice, in the manifest.
    for change in [
        |backup: &mut Backup| drop(backup.manifest.parts.remove(1)),
        |backup: &mut Backup| {
            let again = backup.manifest.parts[1].clone();
            backup.manifest.parts.insert(1, again);
        },
    ] {
        let mut other = backup.clone();
        change(&mut other);
        assert!(other.verify(&store, |_| {}).is_err());
    }
    let mut elsewhere = backup.clone();
    elsewhere.manifest.parts[0].file = "../../../etc/passwd".into();
    assert!(matches!(
        elsewhere.verify(&store, |_| {}),
        Err(BackupError::Manifest { .. })
    ));
}

#[test]
fn a_newer_layout_is_left_to_a_newer_program() {
    let (_folder, store) = place();
    let backup = kept(&store, TAKEN_US);
    store
        .put(&backup.folder, MANIFEST, br#"{"layout": 2, "what": "else"}"#)
        .unwrap();
    let why = || Backup::all(&store).unwrap().unreadable.remove(0).1;
    assert!(matches!(why(), BackupError::Newer { layout: 2, .. }));
    store.put(&backup.folder, MANIFEST, b"{").unwrap();
    assert!(matches!(why(), BackupError::Manifest { .. }));
    assert!(Store::new("ftp://there").is_err());
}

#[test]
fn the_newest_ones_are_kept() {
    for (_folder, store) in places() {
        the_newest_are_kept_in(&store);
    }
}

fn the_newest_are_kept_in(store: &Store) {
    let folders: Vec<String> = (0..4)
        .map(|nth| kept(store, TAKEN_US + nth * 1_000_000).folder)
        .collect();
    // Broken off before the oldest that stays, and while the newest is made.
    let broken =
        [TAKEN_US + 500_000, TAKEN_US + 9_000_000].map(|us| format!("{}/{}", "01".repeat(32), folder_of(us)));
    for folder in &broken {
        store.put(folder, "000000.zst", b"half").unwrap();
    }
    let made = Backup::all(store).unwrap().whole.remove(3);
    thin_out(store, &made, 2).unwrap();
    let Found { whole, half, .. } = Backup::all(store).unwrap();
    let names: Vec<_> = whole.iter().map(|it| &it.folder).collect();
    assert_eq!(names, [&folders[2], &folders[3]]);
    assert_eq!(half, [broken[1].clone()]);
    thin_out(store, &made, 0).unwrap();
    assert_eq!(Backup::all(store).unwrap().whole.len(), 1, "the last one stays");
}

#[test]
fn a_backup_of_a_wrong_clock_does_not_push_out_what_comes_later() {
    let (_folder, store) = place();
    let ahead = kept(&store, TAKEN_US + 1_000_000_000_000);
    let made = kept(&store, TAKEN_US);
    thin_out(&store, &made, 1).unwrap();
    let all = Backup::all(&store).unwrap().whole;
    let folders: Vec<_> = all.iter().map(|it| &it.folder).collect();
    assert_eq!(folders, [&made.folder, &ahead.folder]);
}

#[test]
fn a_manifest_that_can_t_be_read_is_in_nobody_s_way_and_not_passed_over_either() {
    let (folder, store) = place();
    let [first, second] = [0, 60_000_000].map(|later| kept(&store, TAKEN_US + later));
    fs::create_dir_all(folder.path().join("new/lost+found/x")).unwrap();
    let restore = |at| Restore {
        from: "",
        database: "shop",
        name: None,
        replace: false,
        at,
    };
    store.put(&first.folder, MANIFEST, b"{").unwrap();
    assert_eq!(find(&store, &restore(None)).unwrap().folder, second.folder);
    thin_out(&store, &second, 1).unwrap();
    assert_eq!(Backup::all(&store).unwrap().half, [""; 0]);

    let third = kept(&store, TAKEN_US + 120_000_000);
    store.put(&third.folder, MANIFEST, b"{").unwrap();
    let error = find(&store, &restore(None)).unwrap_err();
    assert!(error.to_string().contains("--at"), "{error}");
    let at = Some(second.manifest.taken.as_str());
    assert_eq!(find(&store, &restore(at)).unwrap().folder, second.folder);
}

#[test]
fn a_backup_is_found_by_name_identity_and_time() {
    let (_folder, store) = place();
    let folders: Vec<String> = (0..3)
        .map(|nth| kept(&store, TAKEN_US + nth * 60_000_000).folder)
        .collect();
    let restore = |database, at| Restore {
        from: "",
        database,
        name: None,
        replace: false,
        at,
    };
    let identity = "01".repeat(32);
    let of = |database, at| find(&store, &restore(database, at)).map(|it| it.folder);
    assert_eq!(of("shop", None).unwrap(), folders[2]);
    assert_eq!(of(&identity, None).unwrap(), folders[2]);
    assert_eq!(of("shop", Some("2026-11-18T11:07:50Z")).unwrap(), folders[1]);
    assert!(matches!(
        of("shop", Some("2026-11-18T11:00:00Z")),
        Err(BackupError::None { .. })
    ));
    assert!(matches!(of("shoes", None), Err(BackupError::None { .. })));
    assert!(parse_moment("yesterday").is_err());
}
