//! The name index of a layout: `index.json`, read without a lock and replaced as a whole under it.

use std::io;
use std::sync::Arc;

use super::disk::Disk;
use super::files::{open_file, read_file_at_most};
use super::index::LayoutIndex;
use super::init::FolderState;
use super::lock::{self, IndexLock};
use super::paths::LayoutPaths;
use super::seal::Seal;
use super::unreached::index_written;
use crate::engine::{EngineError, Precondition};
use crate::image::layout::{EMPTY_INDEX, MAX_INDEX};
use crate::image::{Descriptor, Digest, Reference};

/// The names of a layout and the roots they resolve to. Every method blocks.
#[derive(Debug)]
pub(crate) struct NameIndex {
    paths: LayoutPaths,
    disk: Arc<dyn Disk>,
}

impl NameIndex {
    pub(super) fn new(paths: LayoutPaths, disk: Arc<dyn Disk>) -> Self {
        Self { paths, disk }
    }

    /// Whether there is a layout. Refuses a folder that cannot become one.
    pub(crate) fn exists(&self) -> Result<bool, EngineError> {
        Ok(self.paths.inspect()? != FolderState::Nothing)
    }

    /// Whether we ever wrote in the layout.
    pub(crate) fn is_ours(&self) -> bool {
        self.paths.own().is_dir()
    }

    /// Makes the folder a layout that we can write, unless it is one.
    pub(crate) fn create(&self) -> Result<(), EngineError> {
        self.paths.create(&*self.disk)
    }

    /// Reads the index; `None` if there is none.
    pub(crate) fn read(&self) -> Result<Option<LayoutIndex>, EngineError> {
        Ok(self.read_sealed()?.map(|(index, _)| index))
    }

    /// The root that `name` resolves to.
    pub(crate) fn resolve(&self, name: &Reference) -> Result<Option<Descriptor>, EngineError> {
        Ok(self.read()?.as_ref().and_then(|index| index.resolve(name)).cloned())
    }

    /// The descriptor of a root in the index.
    pub(crate) fn root(&self, digest: &Digest) -> Result<Option<Descriptor>, EngineError> {
        Ok(self.read()?.as_ref().and_then(|index| index.root(digest)).cloned())
    }

    /// Whether all of `names` resolve to `root`.
    pub(crate) fn resolves_to(&self, root: &Descriptor, names: &[Reference]) -> Result<bool, EngineError> {
        Ok(self.exists()? && self.read()?.is_some_and(|index| index.resolves_to(root, names)))
    }

    /// Changes the index by `change`, which returns the roots that lose a name. Returns whether there are any.
    pub(crate) fn change(
        &self,
        change: impl FnOnce(&mut LayoutIndex) -> Result<Vec<Descriptor>, serde_json::Error>,
    ) -> Result<bool, EngineError> {
        if !self.exists()? {
            return Ok(false);
        }
        // Another tool may have created the layout, without our own folder.
        self.create()?;
        let _lock = self.lock()?;
        let Some((index, seal)) = self.read_sealed()? else { return Ok(false) };
        self.replace(index, Some(&seal), change)
    }

    /// Gives `names` to `root` if all `preconditions` hold. Returns whether a root lost a name.
    pub(crate) fn publish(
        &self,
        root: &Descriptor,
        names: &[Reference],
        preconditions: &[Precondition],
    ) -> Result<bool, EngineError> {
        let _lock = self.lock()?;
        let (index, seal) = self.read_or_new()?;
        for precondition in preconditions {
            precondition.check(index.resolve(&precondition.name).map(|target| &target.digest))?;
        }
        self.replace(index, seal.as_ref(), |index| index.insert(root, names))
    }

    /// Adds to the index by `change`; creates the index if there is none.
    pub(crate) fn add(
        &self,
        change: impl FnOnce(&mut LayoutIndex) -> Result<(), serde_json::Error>,
    ) -> Result<(), EngineError> {
        let _lock = self.lock()?;
        let (index, seal) = self.read_or_new()?;
        self.replace(index, seal.as_ref(), |index| change(index).map(|()| Vec::new())).map(drop)
    }

    /// Reads the index with its seal; without an index, an empty one and no seal.
    fn read_or_new(&self) -> Result<(LayoutIndex, Option<Seal>), EngineError> {
        match self.read_sealed()? {
            Some((index, seal)) => Ok((index, Some(seal))),
            None => Ok((LayoutIndex::parse(EMPTY_INDEX).map_err(|reason| self.paths.invalid(reason))?, None)),
        }
    }

    /// Takes the lock for changing the index or collecting.
    pub(super) fn lock(&self) -> Result<IndexLock, EngineError> {
        lock::exclusive(&self.paths)
    }

    /// Reads the index, and the seal that tells whether the file is still the same.
    pub(super) fn read_sealed(&self) -> Result<Option<(LayoutIndex, Seal)>, EngineError> {
        let read = || {
            let file = open_file(&self.paths.index())?;
            // Before the content: a write during the read changes the seal.
            let seal = Seal::of(&file.metadata()?);
            Ok::<_, io::Error>((read_file_at_most(file, MAX_INDEX)?, seal))
        };
        let (bytes, seal) = match read() {
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(self.paths.failed("reading index.json", &error)),
        };
        let refused =
            |reason| self.paths.invalid(format!("its index.json is not what the OCI specification says: {reason}"));
        LayoutIndex::parse(&bytes).map(|index| Some((index, seal))).map_err(refused)
    }

    /// Writes `index` with `change` applied, replacing the file that had the seal `before`. The lock must be held.
    fn replace(
        &self,
        mut index: LayoutIndex,
        before: Option<&Seal>,
        change: impl FnOnce(&mut LayoutIndex) -> Result<Vec<Descriptor>, serde_json::Error>,
    ) -> Result<bool, EngineError> {
        let unwritable =
            |error: serde_json::Error| self.paths.invalid(format!("index.json cannot be written: {error}"));
        let old = index.to_bytes().map_err(unwritable)?;
        let replaced = change(&mut index).map_err(unwritable)?;
        let bytes = index.to_bytes().map_err(unwritable)?;
        if bytes == old {
            return Ok(!replaced.is_empty());
        }
        if bytes.len() as u64 > MAX_INDEX {
            return Err(self
                .paths
                .invalid("its index.json would be larger than 32 MiB; remove names that are not needed"));
        }
        // Other tools take no lock: the file may have been replaced since it was read.
        let before = before.filter(|before| Seal::at(&self.paths.index()).as_ref() == Some(*before));
        let written = self.paths.put(&*self.disk, &self.paths.index(), &bytes);
        let written = written.map_err(|error| self.paths.failed("writing index.json", &error))?;
        if let Some(before) = before {
            index_written(&self.paths, before, &written, &replaced);
        }
        Ok(!replaced.is_empty())
    }
}
