//! The record of a builder's former endpoints, for undo.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::path::PathBuf;

use crate::buildx::{Locked, OwnedFolder, StoreError};

/// Our folder in buildx's.
const FOLDER: &str = "linkspan";
/// The largest record; a node takes a few hundred bytes.
const MAX_BYTES: u64 = 4 << 20;

/// The former endpoints of one builder's nodes: `linkspan/BUILDER.json` in buildx's folder, which buildx ignores.
#[derive(Debug)]
pub(super) struct Record<'a> {
    buildx: &'a OwnedFolder,
    file: OsString,
    /// Its path, for messages.
    path: PathBuf,
    endpoints: BTreeMap<String, String>,
}

impl<'a> Record<'a> {
    /// Reads the record of `builder`; `lock` keeps other processes from changing it.
    pub(super) fn read(lock: &'a Locked<'_>, builder: &str) -> Result<Self, StoreError> {
        let file = OsString::from(format!("{builder}.json"));
        let (buildx, path) = (lock.folder(), lock.path().join(FOLDER).join(&file));
        let endpoints = match buildx.subfolder(FOLDER).and_then(|folder| folder.read(&file, MAX_BYTES)) {
            Ok(text) => serde_json::from_slice(&text)
                .map_err(|error| StoreError::Format { path: path.clone(), reason: error.to_string() })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(source) => return Err(StoreError::Io { what: "read", path, source }),
        };
        Ok(Self { buildx, file, path, endpoints })
    }

    pub(super) fn endpoint(&self, node: &str) -> Option<&str> {
        self.endpoints.get(node).map(String::as_str)
    }

    pub(super) fn remember(&mut self, node: &str, endpoint: &str) -> Result<(), StoreError> {
        self.endpoints.insert(node.to_owned(), endpoint.to_owned());
        self.write()
    }

    fn write(&self) -> Result<(), StoreError> {
        let failed = |source| StoreError::Io { what: "write", path: self.path.clone(), source };
        let text = serde_json::to_vec(&self.endpoints).map_err(|error| failed(error.into()))?;
        let folder = self.buildx.make_subfolder(FOLDER).map_err(failed)?;
        folder.replace(&self.file, &text, &folder).map_err(failed)
    }

    /// Removes the nodes for which `is_back` is true.
    pub(super) fn forget(mut self, is_back: impl Fn(&str) -> bool) -> Result<(), StoreError> {
        self.endpoints.retain(|node, _| !is_back(node));
        if !self.endpoints.is_empty() {
            return self.write();
        }
        match self.buildx.subfolder(FOLDER).and_then(|folder| folder.remove(&self.file)) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(StoreError::Io { what: "remove", path: self.path, source })
            }
            _ => Ok(()),
        }
    }
}
