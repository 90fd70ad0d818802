//! The file system that layers make when they are applied in order: names and inodes.
//!
//! The rules are those of image-spec `layer.md`, and where it is silent those of containerd (`pkg/archive/tar.go`): parents
//! are resolved through symbolic links, within the image; a folder over a folder updates its metadata, any other entry
//! replaces the one before; the header of a hard link applies to the linked file, which must be in the same layer, because
//! containerd unpacks each layer into a folder of its own.

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

/// Where an entry comes from: the layer, and the position of the member in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub(super) struct EntryOrigin {
    pub(super) layer: u32,
    pub(super) ordinal: u32,
}

/// Why a member cannot be applied.
#[derive(Debug)]
pub(super) enum Refused {
    /// It is invalid; the caller knows the layer.
    Member(String),
    /// It exceeds a limit.
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
    /// Every parent of a name is itself a name, of a folder: no name leads through a symbolic link.
    names: BTreeMap<Box<[u8]>, Name>,
    inodes: Vec<Inode>,
    /// Inodes without a name, to be reused.
    free: Vec<u32>,
    layer: u32,
    limits: Limits,
    text_bytes: usize,
    steps: u64,
}

#[derive(Debug, Clone, Copy)]
struct Name {
    inode: u32,
    /// The layer that set it last.
    layer: u32,
}

/// What one or several names refer to.
#[derive(Debug)]
pub(super) struct Inode {
    pub(super) names: u32,
    /// Never a link.
    pub(super) body: Body,
    pub(super) meta: Meta,
    /// The member with its content.
    pub(super) origin: EntryOrigin,
}

impl Inode {
    /// The bytes it counts for, beside its names.
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

    /// Applies a member. Its layer must not be lower than those of the members before.
    pub(super) fn apply(&mut self, member: Member, origin: EntryOrigin) -> Result<(), Refused> {
        self.layer = origin.layer;
        let key = name::clean(&member.path)?;
        let base = name::base(&key);
        if base.is_empty() {
            // The root itself has no entry in the output.
            return Ok(());
        }
        let parent = self.resolve(name::parent(&key))?;
        self.make_folders(&parent)?;
        if self.whiteout(&parent, base)? {
            return Ok(());
        }
        let mut found = parent;
        name::push(&mut found, base)?;
        self.put(found, member, origin)
    }

    fn put(&mut self, key: Key, member: Member, origin: EntryOrigin) -> Result<(), Refused> {
        let Member { body, meta, .. } = member;
        if body == Body::Folder
            && let Some(name) = self.names.get_mut(&key[..])
            && self.inodes[name.inode as usize].body == Body::Folder
        {
            name.layer = origin.layer;
            let inode = name.inode;
            return self.change(inode, meta);
        }
        self.remove(&key);
        let Body::Link { target } = body else {
            let inode = self.add(Inode { names: 0, body, meta, origin })?;
            return self.name(key, inode);
        };
        let inode = self.target(&key, &target)?;
        self.name(key, inode)?;
        // Like containerd, apply the header of the link to the linked file; attributes are added.
        let had = self.inodes[inode as usize].meta.xattrs.clone();
        let meta = Meta { xattrs: merged(had, meta.xattrs.clone()), ..meta };
        self.change(inode, meta)
    }

    /// The inode that the hard link `key` refers to.
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
            let what = "which is in a lower layer; engines cannot unpack that: the file must be in the same layer";
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
            let origin = EntryOrigin { layer: self.layer, ordinal: 0 };
            let inode = self.add(Inode { names: 0, body: Body::Folder, meta: Meta::FOLDER, origin })?;
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

    /// Adds a new name for `inode`.
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

    /// Removes a name and everything below it, if it exists.
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

    /// Removes one name; the inode stays while it has others.
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

    /// All names with their inodes, in the order of a walk.
    pub(super) fn into_parts(self) -> (impl Iterator<Item = (Box<[u8]>, u32)>, Vec<Inode>) {
        (self.names.into_iter().map(|(key, name)| (key, name.inode)), self.inodes)
    }
}

/// The attributes `had`, added to or replaced by those of `more`.
fn merged(had: Option<Xattrs>, more: Option<Xattrs>) -> Option<Xattrs> {
    let (Some(had), Some(more)) = (&had, &more) else { return more.or(had) };
    let kept = had.iter().filter(|(name, _)| more.iter().all(|(other, _)| other != name));
    Some(kept.chain(more.iter()).cloned().collect())
}
