//! Where the nodes of a builder went before they were sent through a door.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::PathBuf;

use crate::buildx::{Store, StoreError};

/// The endpoints of one builder's nodes; `linkspan/BUILDER.json` in buildx's folder, which buildx does not look at.
#[derive(Debug)]
pub(super) struct Record {
    path: PathBuf,
    endpoints: BTreeMap<String, String>,
}

impl Record {
    pub(super) fn read(store: &Store, builder: &str) -> Result<Self, StoreError> {
        let path = store.folder().join("linkspan").join(format!("{builder}.json"));
        let endpoints = match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text)
                .map_err(|error| StoreError::Format { path: path.clone(), reason: error.to_string() })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(source) => return Err(StoreError::Io { what: "read", path, source }),
        };
        Ok(Self { path, endpoints })
    }

    pub(super) fn endpoint(&self, node: &str) -> Option<&str> {
        self.endpoints.get(node).map(String::as_str)
    }

    pub(super) fn remember(&mut self, node: &str, endpoint: &str) -> Result<(), StoreError> {
        self.endpoints.insert(node.to_owned(), endpoint.to_owned());
        let failed = |source| StoreError::Io { what: "write", path: self.path.clone(), source };
        let text = serde_json::to_vec(&self.endpoints).map_err(|error| failed(error.into()))?;
        if let Some(folder) = self.path.parent() {
            fs::create_dir_all(folder).map_err(failed)?;
        }
        fs::write(&self.path, text).map_err(failed)
    }

    pub(super) fn forget(self) -> Result<(), StoreError> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(StoreError::Io { what: "remove", path: self.path, source: error })
            }
            _ => Ok(()),
        }
    }
}
