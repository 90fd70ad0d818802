//! The file system that layers make, one laid over the other: names, and what they stand for.
//!
//! The rules are those of image-spec `layer.md`, and where it is silent those of containerd (`pkg/archive/tar.go`): parents
//! are found through symbolic links, within the image; a folder over a folder changes what is known of it, everything
//! else replaces what was there; the header of a hard link counts for the file that it is another name of, which must
//! be in the same layer: containerd unpacks each into a folder of its own, where it finds no other.

mod resolve;
#[cfg(test)]
mod tests;
mod whiteout;

use std::collections::BTreeMap;
use std::ops::Bound;

use super::limits::Limits;
use super::name::{self, Key};
use super::{RootfsError, name::shown};
use crate::output::member::{Body, Member, Meta, Xattrs};

/// A member of a layer: which layer it is in, and which of its members it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub(super) struct Place {
    pub(super) layer: u32,
    pub(super) ordinal: u32,
}

/// Why a member cannot be taken in.
#[derive(Debug)]
pub(super) enum Refused {
    /// It is wrong; which layer it is in is for the caller to say.
    Member(String),
    /// It is one too many.
    Limit(RootfsError),
}

impl From<String> for Refused {
    fn from(reason: String) -> Self {
        Self::Member(reason)
    }
}

/// The file system.
#[derive(Debug)]
pub(super) struct Tree {
    /// Every parent of a name is itself one, of a folder: no name leads through a symbolic link.
    names: BTreeMap<Box<[u8]>, Name>,
    inodes: Vec<Inode>,
    /// Inodes that no name stands for, to be used again.
    free: Vec<u32>,
    layer: u32,
    limits: Limits,
    text_bytes: usize,
    steps: u64,
}

#[derive(Debug, Clone, Copy)]
struct Name {
    inode: u32,
    /// The layer that said so last.
    layer: u32,
}

/// What one or several names stand for.
#[derive(Debug)]
pub(super) struct Inode {
    pub(super) names: u32,
    /// Never a link.
    pub(super) body: Body,
    pub(super) meta: Meta,
    /// Where its content is.
    pub(super) place: Place,
}

impl Inode {
    /// What it takes beside its names, however many it has.
    pub(super) fn text_bytes(&self) -> usize {
        let target = if let Body::Symlink { target } = &self.body { target.len() } else { 0 };
        target + self.meta.xattr_bytes()
    }
}

impl Tree {
    pub(super) fn new(limits: Limits) -> Self {
        let (names, inodes, free) = Default::default();
        Self { names, inodes, free, layer: 0, limits, text_bytes: 0, steps: 0 }
    }

    /// Lays a member over what is there. Its layer must not be lower than those before.
    pub(super) fn apply(&mut self, member: Member, place: Place) -> Result<(), Refused> {
        self.layer = place.layer;
        let key = name::clean(&member.path)?;
        let base = name::base(&key);
        if base.is_empty() {
            // The root itself, of which neither an archive nor a folder has an entry.
            return Ok(());
        }
        let parent = self.resolve(name::parent(&key))?;
        self.make_folders(&parent)?;
        if self.whiteout(&parent, base)? {
            return Ok(());
        }
        let mut found = parent;
        name::push(&mut found, base)?;
        self.put(found, member, place)
    }

    fn put(&mut self, key: Key, member: Member, place: Place) -> Result<(), Refused> {
        let Member { body, meta, .. } = member;
        if body == Body::Folder
            && let Some(name) = self.names.get_mut(&key[..])
            && self.inodes[name.inode as usize].body == Body::Folder
        {
            name.layer = place.layer;
            let inode = name.inode;
            return self.change(inode, meta);
        }
        self.remove(&key);
        let Body::Link { target } = body else {
            let inode = self.add(Inode { names: 0, body, meta, place })?;
            return self.name(key, inode);
        };
        let inode = self.target(&key, &target)?;
        self.name(key, inode)?;
        // As containerd, which changes what was linked by the header of the link. Attributes are added.
        let had = self.inodes[inode as usize].meta.xattrs.clone();
        let meta = Meta { xattrs: merged(had, meta.xattrs.clone()), ..meta };
        self.change(inode, meta)
    }

    /// What the hard link `key` is another name of.
    fn target(&mut self, key: &[u8], target: &[u8]) -> Result<u32, Refused> {
        let link = shown(key);
        let cleaned = name::clean(target).map_err(|reason| format!("the hard link `{link}`: {reason}"))?;
        let mut to = self.resolve(name::parent(&cleaned))?;
        name::push(&mut to, name::base(&cleaned))?;
        let Some(name) = self.names.get(&to[..]) else {
            return Err(format!("`{link}` is a hard link to `{}`, which is not there", shown(&to)).into());
        };
        if self.inodes[name.inode as usize].body == Body::Folder {
            return Err(format!("`{link}` is a hard link to the folder `{}`", shown(&to)).into());
        }
        if name.layer != self.layer {
            let what = "which is in a lower layer; no engine can unpack that, so the file must be in this layer, too";
            return Err(format!("`{link}` is a hard link to `{}`, {what}", shown(&to)).into());
        }
        Ok(name.inode)
    }

    /// Makes the folders that lead to `key`, and `key` itself, where they are missing.
    fn make_folders(&mut self, key: &[u8]) -> Result<(), Refused> {
        let mut missing = Vec::new();
        let mut at = key;
        while !at.is_empty() && !self.names.contains_key(at) {
            missing.push(at);
            at = name::parent(at);
        }
        for folder in missing.into_iter().rev() {
            let place = Place { layer: self.layer, ordinal: 0 };
            let inode = self.add(Inode { names: 0, body: Body::Folder, meta: Meta::FOLDER, place })?;
            self.name(folder.to_vec(), inode)?;
        }
        Ok(())
    }

    fn add(&mut self, inode: Inode) -> Result<u32, Refused> {
        self.text_bytes += inode.text_bytes();
        self.check()?;
        if let Some(at) = self.free.pop() {
            self.inodes[at as usize] = inode;
            return Ok(at);
        }
        let at = u32::try_from(self.inodes.len()).map_err(|_| self.too_many())?;
        self.inodes.push(inode);
        Ok(at)
    }

    /// Lets a name that nothing has stand for `inode`.
    fn name(&mut self, key: Key, inode: u32) -> Result<(), Refused> {
        if self.names.len() >= self.limits.names {
            return Err(self.too_many());
        }
        self.text_bytes += key.len();
        self.inodes[inode as usize].names += 1;
        self.names.insert(key.into(), Name { inode, layer: self.layer });
        self.check()
    }

    fn change(&mut self, inode: u32, meta: Meta) -> Result<(), Refused> {
        let inode = &mut self.inodes[inode as usize];
        self.text_bytes -= inode.text_bytes();
        inode.meta = meta;
        self.text_bytes += inode.text_bytes();
        self.check()
    }

    /// Removes a name and everything below it, if it is there.
    fn remove(&mut self, key: &[u8]) {
        let Some(name) = self.names.get(key) else { return };
        if self.inodes[name.inode as usize].body == Body::Folder {
            let below: Vec<_> = self.below(key).map(|(key, _)| key.clone()).collect();
            for key in below {
                self.forget(&key);
            }
        }
        self.forget(key);
    }

    /// Takes one name away; what it stood for stays while it has others.
    fn forget(&mut self, key: &[u8]) {
        let Some(name) = self.names.remove(key) else { return };
        self.text_bytes -= key.len();
        let inode = &mut self.inodes[name.inode as usize];
        inode.names -= 1;
        if inode.names == 0 {
            self.text_bytes -= inode.text_bytes();
            inode.meta.xattrs = None;
            inode.body = Body::Fifo;
            self.free.push(name.inode);
        }
    }

    fn below(&self, folder: &[u8]) -> impl DoubleEndedIterator<Item = (&Box<[u8]>, &Name)> {
        let (low, high) = name::below(folder);
        self.names.range::<[u8], _>((Bound::Included(&low[..]), Bound::Excluded(&high[..])))
    }

    fn body(&self, key: &[u8]) -> Option<&Body> {
        self.names.get(key).map(|name| &self.inodes[name.inode as usize].body)
    }

    fn check(&self) -> Result<(), Refused> {
        self.limits.check_text(self.text_bytes).map_err(Refused::Limit)
    }

    fn spend(&mut self, steps: u64) -> Result<(), Refused> {
        self.steps += steps;
        if self.steps > self.limits.steps {
            let what = "the steps through symbolic links and whiteouts";
            return Err(Refused::Limit(RootfsError::Limit { what, limit: self.limits.steps }));
        }
        Ok(())
    }

    fn too_many(&self) -> Refused {
        Refused::Limit(RootfsError::Limit { what: "the files", limit: self.limits.names as u64 })
    }

    /// All names with what they stand for, in the order of a walk.
    pub(super) fn into_parts(self) -> (impl Iterator<Item = (Box<[u8]>, u32)>, Vec<Inode>) {
        (self.names.into_iter().map(|(key, name)| (key, name.inode)), self.inodes)
    }
}

/// The attributes `had`, with those of `more` beside them or in their place.
fn merged(had: Option<Xattrs>, more: Option<Xattrs>) -> Option<Xattrs> {
    let (Some(had), Some(more)) = (&had, &more) else { return more.or(had) };
    let kept = had.iter().filter(|(name, _)| more.iter().all(|(other, _)| other != name));
    Some(kept.chain(more.iter()).cloned().collect())
}
