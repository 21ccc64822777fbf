use std::{
    fs::Permissions,
    os::{
        fd::AsRawFd as _,
        unix::fs::{PermissionsExt as _, symlink},
    },
};

use tempfile::TempDir;

use super::*;

/// A directory with a root key in it.
struct Place {
    directory: TempDir,
    id: RootKeyId,
}

impl Place {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let id = RootKeys::create(&directory.path().join("root.key")).expect("a root key");
        Self { directory, id }
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("root.key")
    }

    fn next(&self) -> PathBuf {
        self.directory.path().join("root.key.next")
    }

    fn keys(&self) -> RootKeys {
        RootKeys::new(RootKeySource::File(self.file()))
    }

    fn settle(&self, in_use: &[&RootKeyId]) -> Result<RootKeyId, RootKeyError> {
        let in_use = in_use.iter().map(|id| (*id).clone()).collect();
        self.keys().settle(&in_use).map(|key| key.id().clone())
    }

    fn write(&self, content: &[u8]) {
        fs::write(self.file(), content).expect("written");
    }
}

#[test]
fn a_new_root_key_is_one_line_that_only_its_owner_may_read() {
    let place = Place::new();
    let line = fs::read_to_string(place.file()).expect("text");
    assert!(line.starts_with("veribus-root-key-1 ") && line.ends_with("=\n") && line.len() == 64, "{line:?}");
    assert_eq!(fs::metadata(place.file()).expect("facts").mode() & 0o7777, 0o600);
    assert_eq!(place.settle(&[]).expect("the key"), place.id);
    assert_eq!(place.settle(&[&place.id]).expect("the key"), place.id);
    assert!(!line.contains(place.id.as_str()));
}

#[test]
fn a_root_key_is_never_made_over_another() {
    let place = Place::new();
    assert!(matches!(RootKeys::create(&place.file()), Err(RootKeyError::File { .. })));
    assert_eq!(place.settle(&[]).expect("the key"), place.id);
}

#[test]
fn a_root_key_that_others_may_use_is_refused() {
    let place = Place::new();
    for mode in [0o600, 0o400] {
        fs::set_permissions(place.file(), Permissions::from_mode(mode)).expect("changed");
        assert!(place.settle(&[]).is_ok(), "{mode:o}");
    }
    for mode in [0o640, 0o620, 0o610, 0o604, 0o602, 0o601, 0o700, 0o4600, 0o644] {
        fs::set_permissions(place.file(), Permissions::from_mode(mode)).expect("changed");
        assert!(matches!(place.settle(&[]), Err(RootKeyError::Mode { mode: told, .. }) if told == mode), "{mode:o}");
    }
}

#[test]
fn a_root_key_of_another_user_is_refused() {
    let place = Place::new();
    let metadata = fs::metadata(place.file()).expect("facts");
    assert!(check(&place.file(), &metadata, metadata.uid()).is_ok());
    let by_another = check(&place.file(), &metadata, metadata.uid() + 1);
    assert!(matches!(by_another, Err(RootKeyError::Owner(_))));
}

#[test]
fn what_is_no_regular_file_is_refused_without_waiting() {
    let place = Place::new();
    let real = place.directory.path().join("real.key");
    fs::rename(place.file(), &real).expect("moved");
    symlink(&real, place.file()).expect("a link");
    assert!(matches!(place.settle(&[]), Err(RootKeyError::NotRegular(_))), "a link");
    fs::remove_file(place.file()).expect("removed");
    fs::create_dir(place.file()).expect("a directory");
    assert!(matches!(place.settle(&[]), Err(RootKeyError::NotRegular(_))), "a directory");
    fs::remove_dir(place.file()).expect("removed");
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, place.file(), rustix::fs::FileType::Fifo, mode, 0).expect("a pipe");
    assert!(matches!(place.settle(&[]), Err(RootKeyError::NotRegular(_))), "a pipe that nobody writes");
    fs::remove_file(place.file()).expect("removed");
    assert!(matches!(place.settle(&[]), Err(RootKeyError::File { .. })), "nothing");
}

#[test]
fn what_is_not_exactly_one_line_with_a_key_is_refused() {
    let place = Place::new();
    let good = fs::read(place.file()).expect("a line");
    place.write(good.strip_suffix(b"\n").expect("a line end"));
    assert_eq!(place.settle(&[]).expect("without a line end"), place.id);
    let short = format!("{MARK}{}\n", BASE64.encode(&[1; 31]));
    let long = format!("{MARK}{}\n", BASE64.encode(&[1; 33]));
    let (doubled, unmarked) = (good.repeat(2), &good[MARK.len()..]);
    let spaced = [&good[..], b" "].concat();
    let newer = String::from_utf8(good.clone()).expect("text").replace("key-1", "key-2");
    let unpadded = String::from_utf8(good.clone()).expect("text").replace('=', "");
    let bad: [&[u8]; 11] = [
        b"",
        b"\n",
        MARK.as_bytes(),
        short.as_bytes(),
        long.as_bytes(),
        &doubled,
        unmarked,
        &spaced,
        newer.as_bytes(),
        unpadded.as_bytes(),
        &[0; 64],
    ];
    for content in bad {
        place.write(content);
        let said = place.settle(&[]).expect_err("not a key");
        assert!(matches!(said, RootKeyError::Format(_)), "{}: {said}", content.escape_ascii());
    }
    place.write(&[good.trim_ascii_end(), b"\r\n"].concat());
    let said = place.settle(&[]).expect_err("not as it was written");
    assert!(matches!(said, RootKeyError::CarriageReturn(_)) && said.to_string().contains("CRLF"), "{said}");
    for len in 0..good.len() - 1 {
        place.write(&good[..len]);
        assert!(place.settle(&[]).is_err(), "cut to {len}");
    }
}

#[test]
fn a_root_key_that_the_store_does_not_know_is_refused() {
    let (place, other) = (Place::new(), Place::new());
    assert!(matches!(place.settle(&[&other.id]), Err(RootKeyError::Other { .. })));
    assert!(matches!(place.settle(&[&place.id, &other.id]), Err(RootKeyError::Other { .. })), "a mixed store");
}

#[test]
fn a_change_that_is_carried_through_leaves_only_the_next_key() {
    let place = Place::new();
    fs::set_permissions(place.file(), Permissions::from_mode(0o400)).expect("read-only");
    let keys = place.keys();
    let old_inode = File::open(place.file()).expect("the old file");
    let next = keys.prepare_next().expect("the next key").id().clone();
    assert_eq!(fs::metadata(place.next()).expect("facts").mode() & 0o7777, 0o600);
    keys.adopt(&next).expect("adopted");
    assert!(!place.next().exists());
    assert_eq!(place.settle(&[&next]).expect("the next key"), next);
    assert_ne!(next, place.id);
    let mut left = Vec::new();
    (&old_inode).read_to_end(&mut left).expect("read");
    assert_eq!(left, [0; 64], "the old key was overwritten");
}

#[test]
fn a_crash_after_the_next_key_was_written_goes_back() {
    let place = Place::new();
    place.keys().prepare_next().expect("the next key");
    assert_eq!(place.settle(&[&place.id]).expect("the old key"), place.id);
    assert!(!place.next().exists());
    place.keys().prepare_next().expect("and another change can begin");
}

#[test]
fn a_crash_while_the_next_key_was_written_goes_back() {
    let place = Place::new();
    place.keys().prepare_next().expect("the next key");
    let line = fs::read(place.next()).expect("a line");
    for len in [0, 1, 30, 62] {
        let open = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(place.next());
        open.and_then(|mut file| file.write_all(&line[..len])).expect("half a line");
        assert_eq!(place.settle(&[&place.id]).expect("the old key"), place.id, "{len} bytes");
        assert!(!place.next().exists());
    }
}

#[test]
fn a_crash_after_the_commit_goes_on() {
    let place = Place::new();
    let next = place.keys().prepare_next().expect("the next key").id().clone();
    assert_eq!(place.settle(&[&next]).expect("the next key"), next);
    assert!(!place.next().exists());
    assert_eq!(place.settle(&[&next]).expect("once more"), next);
}

#[test]
fn a_crash_between_overwriting_and_renaming_goes_on() {
    let place = Place::new();
    let next = place.keys().prepare_next().expect("the next key").id().clone();
    overwrite_with_zeros(&place.file()).expect("zeros");
    assert_eq!(place.settle(&[&next]).expect("the next key"), next);
    assert!(!place.next().exists());
}

#[test]
fn such_a_crash_goes_on_without_any_key_in_the_store_too() {
    let place = Place::new();
    let next = place.keys().prepare_next().expect("the next key").id().clone();
    overwrite_with_zeros(&place.file()).expect("zeros");
    assert_eq!(place.settle(&[]).expect("the next key"), next);
    assert!(!place.next().exists());
}

#[test]
fn a_crash_after_renaming_finds_the_next_key_in_place() {
    let place = Place::new();
    let next = place.keys().prepare_next().expect("the next key").id().clone();
    fs::rename(place.next(), place.file()).expect("renamed");
    assert_eq!(place.settle(&[&next]).expect("the next key"), next);
}

#[test]
fn a_store_that_neither_file_belongs_to_is_refused_and_both_files_stay() {
    let (place, other) = (Place::new(), Place::new());
    let next = place.keys().prepare_next().expect("the next key").id().clone();
    let before = [place.file(), place.next()].map(|path| fs::read(path).expect("a key"));
    for in_use in [vec![&other.id], vec![&place.id, &next]] {
        assert!(matches!(place.settle(&in_use), Err(RootKeyError::Unsettled { .. })), "{in_use:?}");
        assert_eq!([place.file(), place.next()].map(|path| fs::read(path).expect("a key")), before);
    }
}

#[test]
fn a_store_without_keys_keeps_the_old_root_key() {
    let place = Place::new();
    place.keys().prepare_next().expect("the next key");
    assert_eq!(place.settle(&[]).expect("the old key"), place.id);
}

#[test]
fn no_second_change_begins_before_the_first_is_settled() {
    let place = Place::new();
    place.keys().prepare_next().expect("the next key");
    let line = fs::read(place.next()).expect("a line");
    assert!(matches!(place.keys().prepare_next(), Err(RootKeyError::Unfinished(_))));
    assert_eq!(fs::read(place.next()).expect("a line"), line);
    place.keys().abandon().expect("taken back");
    place.keys().prepare_next().expect("another");
}

#[test]
fn the_old_key_is_not_destroyed_for_one_that_the_store_is_not_under() {
    let place = Place::new();
    let keys = place.keys();
    keys.prepare_next().expect("the next key");
    assert!(matches!(keys.adopt(&place.id), Err(RootKeyError::NotAdopted { .. })));
    assert_eq!(place.settle(&[&place.id]).expect("the old key"), place.id);
    assert!(matches!(keys.adopt(&place.id), Err(RootKeyError::File { .. })), "nothing to adopt");
    assert_eq!(place.settle(&[&place.id]).expect("the old key"), place.id);
}

#[test]
fn a_next_key_that_others_could_have_written_is_refused() {
    let place = Place::new();
    let next = place.keys().prepare_next().expect("the next key").id().clone();
    fs::set_permissions(place.next(), Permissions::from_mode(0o666)).expect("changed");
    assert!(matches!(place.settle(&[&next]), Err(RootKeyError::Mode { .. })));
    assert!(matches!(place.keys().adopt(&next), Err(RootKeyError::Mode { .. })));
}

#[test]
fn a_root_key_comes_by_a_descriptor_and_cannot_be_changed_there() {
    let place = Place::new();
    let (reader, mut writer) = io::pipe().expect("a pipe");
    writer.write_all(&fs::read(place.file()).expect("a line")).expect("written");
    drop(writer);
    let number = u32::try_from(reader.as_raw_fd()).expect("a number");
    let keys = RootKeys::new(RootKeySource::Descriptor(number));
    let in_use = BTreeSet::from([place.id.clone()]);
    assert_eq!(keys.settle(&in_use).expect("the key").id(), &place.id);
    assert!(matches!(keys.settle(&in_use), Err(RootKeyError::Format(_))), "it is read once");
    assert!(matches!(keys.prepare_next(), Err(RootKeyError::Descriptor(told)) if told == number));
    assert!(matches!(keys.adopt(&place.id), Err(RootKeyError::Descriptor(_))));
    assert!(matches!(keys.abandon(), Err(RootKeyError::Descriptor(_))));
}

#[test]
fn a_descriptor_with_another_key_than_the_store_is_under_is_refused() {
    let (place, other) = (Place::new(), Place::new());
    let file = File::open(place.file()).expect("a file");
    let number = u32::try_from(file.as_raw_fd()).expect("a number");
    let keys = RootKeys::new(RootKeySource::Descriptor(number));
    assert!(matches!(keys.settle(&BTreeSet::from([other.id])), Err(RootKeyError::Other { .. })));
    assert!(keys.settle(&BTreeSet::new()).is_ok());
    assert!(matches!(
        RootKeys::new(RootKeySource::Descriptor(9_999)).settle(&BTreeSet::new()),
        Err(RootKeyError::File { .. })
    ));
}
