//! Which folders of a layer its archive describes, and which containerd made because an entry needed them.
//!
//! The archive alone decides that. So its headers are gone through as containerd goes through them (`pkg/archive/tar.go`,
//! `applyNaive`): names are resolved by the links that the layer itself has by then, missing folders come into being, and
//! what is replaced takes with it what was below. Only folders and links are kept, for nothing else is in the way.

use std::collections::BTreeMap;
use std::ops::Bound;

use crate::image::Descriptor;
use crate::output::member::Body;
use crate::output::rootfs::{Layer, RootfsError};
use crate::source::Source;
use crate::tar::{OPAQUE_WHITEOUT, WHITEOUT_PREFIX};

/// How many bytes are kept at most; a layer with more of them is unpacked after those below it.
const KEPT_BYTES: usize = 64 << 20;
/// What a folder or link takes beside its names.
const NODE_BYTES: usize = 128;
/// How many of them are kept at most while other layers are unpacked; beyond that the layer is read again.
const UNDESCRIBED_BYTES: usize = 1 << 20;
/// How many links are followed for one name, as by containerd (continuity `fs/path.go`).
const LINKS: usize = 255;

/// How a folder came to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// An entry made it.
    Described,
    /// An entry below it made it.
    Implied,
    /// It was there for an entry below it before its own came.
    DescribedLater,
}

/// A folder of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Folder {
    pub(super) origin: Origin,
    /// Whether anything was made in it since, which is what changes its modification time.
    pub(super) filled: bool,
    /// Whether the folder around it was not described either when this one came to be.
    pub(super) below_implied: bool,
}

#[derive(Debug)]
enum Node {
    Folder(Folder),
    Link(Box<[u8]>),
}

/// The folders and links of a layer, by their paths without a slash at either end.
#[derive(Debug, Default)]
pub(super) struct Described {
    nodes: BTreeMap<Vec<u8>, Node>,
    /// Also of what was removed since.
    kept_bytes: usize,
    /// Whether folders that are not here are known to be described.
    rest_described: bool,
}

/// Reads the headers of a layer. What cannot be read as containerd did it is an error.
pub(super) async fn read(source: &dyn Source, blob: &Descriptor) -> Result<Described, RootfsError> {
    let mut layer = Layer::of_engine(source, blob).await?;
    let mut described = Described::default();
    while let Some(member) = layer.next().await? {
        described.apply(&member.path, &member.body).map_err(|reason| layer.wrong(reason.to_owned()))?;
    }
    Ok(described)
}

impl Described {
    /// That of a layer with these entries.
    #[cfg(test)]
    pub(super) fn of(entries: &[(&str, Body)]) -> Self {
        let mut described = Self::default();
        for (name, body) in entries {
            described.apply(name.as_bytes(), body).unwrap();
        }
        described
    }

    /// The folder of this path.
    pub(super) fn folder(&self, path: &[u8]) -> Option<Folder> {
        match self.nodes.get(path) {
            Some(Node::Folder(folder)) => Some(*folder),
            None if self.rest_described => {
                Some(Folder { origin: Origin::Described, filled: false, below_implied: false })
            }
            _ => None,
        }
    }

    /// Does what containerd does with an entry.
    fn apply(&mut self, name: &[u8], body: &Body) -> Result<(), &'static str> {
        let mut parts = clean(name);
        // The root has no entry.
        let Some(base) = parts.pop() else { return Ok(()) };
        let parent = self.resolve(parts, LINKS)?;
        self.imply(&parent)?;
        self.record(&parent, base, body)
    }

    /// Records the entry `base` of the folder `parent`.
    pub(super) fn record(&mut self, parent: &[u8], base: &[u8], body: &Body) -> Result<(), &'static str> {
        if base == OPAQUE_WHITEOUT {
            return Ok(());
        }
        if base.starts_with(WHITEOUT_PREFIX) {
            self.fill(parent);
            return Ok(());
        }
        let path = join(parent, base);
        if let (Body::Folder, Some(Node::Folder(folder))) = (body, self.nodes.get_mut(&path)) {
            if folder.origin == Origin::Implied {
                folder.origin = Origin::DescribedLater;
            }
            return Ok(());
        }
        self.remove(&path);
        self.fill(parent);
        match body {
            Body::Folder => {
                let folder = Folder { origin: Origin::Described, filled: false, below_implied: false };
                self.insert(path, Node::Folder(folder))
            }
            Body::Symlink { target } => self.insert(path, Node::Link(target.clone())),
            Body::Link { target } => {
                let mut parts = clean(target);
                let Some(base) = parts.pop() else { return Ok(()) };
                let target = join(&self.resolve(parts, LINKS)?, base);
                // Another name of a link is a link.
                match self.nodes.get(&target) {
                    Some(Node::Link(target)) => {
                        let target = target.clone();
                        self.insert(path, Node::Link(target))
                    }
                    _ => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }

    /// The path that `parts` lead to, by at most `limit` of the links that there are.
    pub(super) fn resolve(&self, parts: Vec<&[u8]>, limit: usize) -> Result<Vec<u8>, &'static str> {
        let mut left: Vec<Vec<u8>> = parts.into_iter().rev().map(<[u8]>::to_vec).collect();
        let (mut path, mut links) = (Vec::new(), 0);
        while let Some(part) = left.pop() {
            match &part[..] {
                b"" | b"." => continue,
                b".." => {
                    path.truncate(parent(&path).len());
                    continue;
                }
                _ => {}
            }
            let next = join(&path, &part);
            let Some(Node::Link(target)) = self.nodes.get(&next) else {
                path = next;
                continue;
            };
            links += 1;
            if links > limit {
                return Err("it has too many links on one way");
            }
            if target.starts_with(b"/") {
                path.clear();
            }
            left.extend(target.split(|&byte| byte == b'/').rev().map(<[u8]>::to_vec));
        }
        Ok(path)
    }

    /// Makes the folders on the way to `path`, and that itself, as far as there are none.
    pub(super) fn imply(&mut self, path: &[u8]) -> Result<(), &'static str> {
        for path in self.missing(path) {
            let around = self.folder(parent(path));
            let below_implied = around.is_some_and(|around| around.origin == Origin::Implied);
            self.fill(parent(path));
            let folder = Folder { origin: Origin::Implied, filled: false, below_implied };
            self.insert(path.to_vec(), Node::Folder(folder))?;
        }
        Ok(())
    }

    /// Those folders on the way to `path`, and that itself, that there are not yet.
    pub(super) fn missing<'a>(&self, path: &'a [u8]) -> Vec<&'a [u8]> {
        let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
        let ends = ends.chain((!path.is_empty()).then_some(path.len()));
        ends.map(|end| &path[..end]).filter(|path| !self.nodes.contains_key(*path)).collect()
    }

    /// Whether there are neither folders nor links.
    pub(super) fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Whether there is a symbolic link.
    pub(super) fn is_link(&self, path: &[u8]) -> bool {
        matches!(self.nodes.get(path), Some(Node::Link(_)))
    }

    /// Forgets everything but the folders that were not described, because nothing else is asked for any more. Every other
    /// folder counts as described from now on. `None` if there is still much to keep.
    pub(super) fn undescribed(mut self) -> Option<Self> {
        self.nodes.retain(|_, node| matches!(node, Node::Folder(folder) if folder.origin != Origin::Described));
        self.rest_described = true;
        let bytes: usize = self.nodes.keys().map(|path| path.len() + NODE_BYTES).sum();
        (bytes <= UNDESCRIBED_BYTES).then_some(self)
    }

    fn fill(&mut self, path: &[u8]) {
        if let Some(Node::Folder(folder)) = self.nodes.get_mut(path) {
            folder.filled = true;
        }
    }

    /// Counts what is kept under names of so many bytes. Fails if it is too much.
    pub(super) fn charge(&mut self, names: usize) -> Result<(), &'static str> {
        self.kept_bytes += names + NODE_BYTES;
        if self.kept_bytes > KEPT_BYTES { Err("it has more folders and links than are kept") } else { Ok(()) }
    }

    fn insert(&mut self, path: Vec<u8>, node: Node) -> Result<(), &'static str> {
        let link = if let Node::Link(target) = &node { target.len() } else { 0 };
        self.charge(path.len() + link)?;
        self.nodes.insert(path, node);
        Ok(())
    }

    /// Removes `path` with all that is below it.
    fn remove(&mut self, path: &[u8]) {
        if let Some(Node::Folder(_)) = self.nodes.remove(path) {
            // What comes after a slash is a zero.
            let (first, end) = ([path, b"/"].concat(), [path, b"0"].concat());
            let below = (Bound::Included(first), Bound::Excluded(end));
            let gone: Vec<_> = self.nodes.range(below).map(|(path, _)| path.clone()).collect();
            for path in gone {
                self.nodes.remove(&path);
            }
        }
    }
}

/// The parts of a name, by the rules of Go's `filepath.Clean`; none leads out of the root.
fn clean(name: &[u8]) -> Vec<&[u8]> {
    let mut parts = Vec::new();
    for part in name.split(|&byte| byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts
}

pub(super) fn join(parent: &[u8], base: &[u8]) -> Vec<u8> {
    if parent.is_empty() { base.to_vec() } else { [parent, b"/", base].concat() }
}

pub(super) fn parent(path: &[u8]) -> &[u8] {
    path.iter().rposition(|&byte| byte == b'/').map_or(&[], |at| &path[..at])
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: Body = Body::File { size: 0 };

    fn described(entries: &[(&str, Body)]) -> Described {
        Described::of(entries)
    }

    fn link(target: &str) -> Body {
        Body::Symlink { target: target.as_bytes().into() }
    }

    fn origin(described: &Described, path: &str) -> Option<Origin> {
        described.folder(path.as_bytes()).map(|folder| folder.origin)
    }

    #[test]
    fn entries_describe_and_imply() {
        let found = described(&[
            ("./", Body::Folder),
            ("./told/", Body::Folder),
            ("told/file", FILE),
            ("/implied/deep/file", FILE),
            ("late/file", FILE),
            ("late", Body::Folder),
            ("../outside/file", FILE),
        ]);
        for (path, expected) in [
            ("told", Origin::Described),
            ("implied", Origin::Implied),
            ("implied/deep", Origin::Implied),
            ("late", Origin::DescribedLater),
            ("outside", Origin::Implied),
        ] {
            assert_eq!(origin(&found, path), Some(expected), "{path}");
        }
        assert_eq!(origin(&found, ""), None);
        assert!(found.folder(b"implied/deep").unwrap().below_implied);
        assert!(!found.folder(b"implied").unwrap().below_implied);
    }

    #[test]
    fn links_lead_where_containerd_goes() {
        let found = described(&[
            ("lib", link("usr/lib")),
            ("lib/a/file", FILE),
            ("var/run", link("/run")),
            ("var/run/lock/file", FILE),
            ("hard", Body::Link { target: b"lib".as_slice().into() }),
            ("hard/b/file", FILE),
            ("up", link("../../../x")),
            ("up/c/file", FILE),
        ]);
        for path in ["usr", "usr/lib", "usr/lib/a", "usr/lib/b", "var", "run", "run/lock", "x", "x/c"] {
            assert_eq!(origin(&found, path), Some(Origin::Implied), "{path}");
        }
        assert!(described(&[("a", link("b")), ("b", link("a"))]).resolve(vec![b"a"], LINKS).is_err());
    }

    #[test]
    fn what_is_replaced_goes_with_what_is_below() {
        let found = described(&[
            ("a/b/file", FILE),
            ("a-b/file", FILE),
            ("a", FILE),
            ("a", Body::Folder),
            ("c/d/file", FILE),
            ("c", link("e")),
            ("c/f/file", FILE),
        ]);
        assert_eq!((origin(&found, "a"), origin(&found, "a/b")), (Some(Origin::Described), None));
        assert_eq!(origin(&found, "a-b"), Some(Origin::Implied));
        assert_eq!((origin(&found, "c"), origin(&found, "c/d")), (None, None));
        assert_eq!(origin(&found, "e/f"), Some(Origin::Implied));
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let (mut found, name) = (Described::default(), vec![b'b'; 4000]);
        // What comes again is kept once.
        for _ in 0..1000 {
            found.apply(b"a", &Body::Folder).unwrap();
        }
        let mut kept = 0;
        while found.apply(&name, &Body::Folder).and_then(|()| found.apply(&name, &FILE)).is_ok() {
            kept += 1;
        }
        assert_eq!(kept, KEPT_BYTES / (NODE_BYTES + name.len()));
    }

    #[test]
    fn marks_of_what_is_gone_are_no_files() {
        let found = described(&[("opaque/.wh..wh..opq", FILE), ("gone/.wh.file", FILE)]);
        let filled = |path: &[u8]| found.folder(path).unwrap().filled;
        assert_eq!(origin(&found, "opaque"), Some(Origin::Implied));
        assert!(!filled(b"opaque") && filled(b"gone"));
    }
}
