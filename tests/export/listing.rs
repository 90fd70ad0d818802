//! What is in a tar archive, entry by entry, so that two can be compared.

use std::collections::BTreeMap;

use linkspan::image::Digest;
use tar_core::parse::{ParseEvent, Parser};

/// One entry; its name is the key of a [`Listing`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) kind: char,
    pub(crate) mode: u32,
    pub(crate) uid: u64,
    pub(crate) gid: u64,
    pub(crate) mtime: u64,
    pub(crate) link: String,
    pub(crate) device: (u32, u32),
    pub(crate) xattrs: BTreeMap<String, Vec<u8>>,
    pub(crate) content: Option<Digest>,
}

pub(crate) type Listing = BTreeMap<String, Entry>;

/// Reads an archive to its end; every name is there once, after the folder that it is in and what it links to.
pub(crate) fn listing(mut tar: &[u8]) -> Listing {
    let mut found = Listing::new();
    loop {
        let mut parser = Parser::with_defaults();
        let entry = match parser.parse(tar).unwrap() {
            ParseEvent::End { .. } => return found,
            ParseEvent::GlobalExtensions { consumed, .. } => {
                tar = &tar[consumed..];
                continue;
            }
            ParseEvent::Entry { consumed, entry } => {
                tar = &tar[consumed..];
                entry
            }
            event => panic!("{event:?}"),
        };
        let name = entry.path_lossy().trim_start_matches("./").trim_end_matches('/').to_owned();
        let size = entry.size as usize;
        let link = entry.link_target_lossy().unwrap_or_default();
        let is_link = entry.is_hard_link();
        let link = if is_link { link.trim_start_matches("./").to_owned() } else { link.into_owned() };
        let is_device = matches!(entry.entry_type.to_byte(), b'3' | b'4');
        let listed = Entry {
            kind: char::from(entry.entry_type.to_byte()),
            mode: entry.mode & 0o7777,
            uid: entry.uid,
            gid: entry.gid,
            mtime: entry.mtime,
            device: if is_device { (entry.dev_major.unwrap(), entry.dev_minor.unwrap()) } else { (0, 0) },
            xattrs: entry
                .xattrs
                .iter()
                .map(|(key, value)| (String::from_utf8_lossy(key).into_owned(), value.to_vec()))
                .collect(),
            content: entry.is_file().then(|| Digest::sha256(&tar[..size])),
            link,
        };
        tar = &tar[size.next_multiple_of(512)..];
        if name.is_empty() || name == "." {
            continue;
        }
        if is_link {
            assert!(found.contains_key(&listed.link), "{name} comes before {}", listed.link);
        }
        assert!(!found.contains_key(&name), "{name} is there twice");
        found.insert(name, listed);
    }
}

/// Whether every folder comes before what is in it.
pub(crate) fn has_folders(found: &Listing) -> bool {
    let folder = |name: &String| name.rsplit_once('/').map(|(folder, _)| folder.to_owned());
    found.keys().filter_map(folder).all(|folder| found.get(&folder).is_some_and(|entry| entry.kind == '5'))
}

/// Compares two listings entry by entry, and says which differ.
#[track_caller]
pub(crate) fn same(ours: &Listing, theirs: &Listing) {
    let names: std::collections::BTreeSet<_> = ours.keys().chain(theirs.keys()).collect();
    let different: Vec<_> = names
        .into_iter()
        .filter(|name| ours.get(*name) != theirs.get(*name))
        .map(|name| format!("{name}\n  ours:   {:?}\n  theirs: {:?}", ours.get(name), theirs.get(name)))
        .collect();
    assert!(different.is_empty(), "{}", different.join("\n"));
}
