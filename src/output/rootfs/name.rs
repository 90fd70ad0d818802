//! Names in layers, and their form in the tree.
//!
//! A [`Key`] is a path with a zero byte in place of each slash. No file name contains one, and it sorts before every other
//! byte, so the order of keys is that of a walk: a folder, everything below it, then its next sibling.

use super::limits::{NAME_BYTES, PATH_BYTES};

/// A path without a slash at either end, with zero bytes for slashes; empty for the root.
pub(super) type Key = Vec<u8>;

/// The key of a member's name, cleaned as by Go's `path.Clean`, which containerd applies. Absolute names begin at the root
/// of the image, and no name may leave it.
pub(super) fn clean(name: &[u8]) -> Result<Key, String> {
    let shown = || String::from_utf8_lossy(&name[..name.len().min(200)]).into_owned();
    let mut key = Key::with_capacity(name.len());
    for part in name.split(|&byte| byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." if key.is_empty() => return Err(format!("`{}` leads out of the image", shown())),
            b".." => key.truncate(parent(&key).len()),
            part => push(&mut key, part)?,
        }
    }
    Ok(key)
}

/// Adds a part to a key.
pub(super) fn push(key: &mut Key, part: &[u8]) -> Result<(), String> {
    if part.contains(&0) {
        return Err(format!("`{}` has a zero byte in its name", String::from_utf8_lossy(part)));
    }
    if part.len() > NAME_BYTES {
        return Err(format!("`{}…` has more than {NAME_BYTES} bytes", String::from_utf8_lossy(&part[..40])));
    }
    if key.len() + 1 + part.len() > PATH_BYTES {
        return Err(format!("the path of `{}` has more than {PATH_BYTES} bytes", String::from_utf8_lossy(part)));
    }
    if !key.is_empty() {
        key.push(0);
    }
    key.extend_from_slice(part);
    Ok(())
}

/// Its folder.
pub(super) fn parent(key: &[u8]) -> &[u8] {
    key.iter().rposition(|&byte| byte == 0).map_or(&[], |at| &key[..at])
}

/// Its last part.
pub(super) fn base(key: &[u8]) -> &[u8] {
    key.iter().rposition(|&byte| byte == 0).map_or(key, |at| &key[at + 1..])
}

/// Whether `key` is below `folder`.
pub(super) fn is_below(key: &[u8], folder: &[u8]) -> bool {
    folder.is_empty() || (key.get(folder.len()) == Some(&0) && key.starts_with(folder))
}

/// The range of the keys below `folder`: its first possible key, and the first one after it.
pub(super) fn below(folder: &[u8]) -> (Key, Key) {
    if folder.is_empty() {
        // No part of a name is as long as this one.
        return (Key::new(), vec![u8::MAX; NAME_BYTES + 1]);
    }
    ([folder, &[0]].concat(), [folder, &[1]].concat())
}

/// The path with slashes.
pub(super) fn path(key: &[u8]) -> Vec<u8> {
    key.iter().map(|&byte| if byte == 0 { b'/' } else { byte }).collect()
}

/// The path for a message.
pub(super) fn shown(key: &[u8]) -> String {
    String::from_utf8_lossy(&path(&key[..key.len().min(200)])).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_cleaned_as_go_does() {
        for (name, expected) in [
            ("a/b", "a/b"),
            ("./a//b/", "a/b"),
            ("/a", "a"),
            ("a/../b", "b"),
            ("a/b/../../c", "c"),
            (".", ""),
            ("/", ""),
            ("a/..", ""),
        ] {
            assert_eq!(path(&clean(name.as_bytes()).unwrap()), expected.as_bytes(), "{name}");
        }
        for name in ["..", "../a", "a/../../b", "/..", "a\0b"] {
            assert!(clean(name.as_bytes()).is_err(), "{name}");
        }
        assert!(clean(&[b'a'; 255]).is_ok());
        assert!(clean(&[b'a'; 256]).is_err());
        assert!(clean("ab/".repeat(1365).as_bytes()).is_ok());
        assert!(clean("ab/".repeat(1366).as_bytes()).is_err());
    }

    #[test]
    fn keys_sort_as_a_walk() {
        let mut keys: Vec<_> =
            ["a-b", "a", "a/z", "a/b/c", "a/b", "b"].iter().map(|name| clean(name.as_bytes()).unwrap()).collect();
        keys.sort();
        let walk: Vec<_> = keys.iter().map(|key| String::from_utf8(path(key)).unwrap()).collect();
        assert_eq!(walk, ["a", "a/b", "a/b/c", "a/z", "a-b", "b"]);
        let (low, high) = below(b"a");
        assert_eq!(keys.iter().filter(|key| **key >= low && **key < high).count(), 3);
        assert!(is_below(&keys[1], b"a") && !is_below(&keys[4], b"a") && !is_below(b"a", b"a"));
        assert_eq!((parent(&keys[2]), base(&keys[2]), parent(b"a")), (&keys[1][..], &b"c"[..], &b""[..]));
    }
}
