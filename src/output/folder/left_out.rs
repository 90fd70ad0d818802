//! What of an output the system did not take, to be told.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// How many kinds of attributes are told.
const KINDS: usize = 16;

/// Extended attributes that were left out: of each how many files had it, and which came first.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct LeftOut(BTreeMap<String, (u64, PathBuf)>);

impl LeftOut {
    pub(super) fn add(&mut self, key: &str, path: &Path) {
        if let Some((files, _)) = self.0.get_mut(key) {
            *files += 1;
        } else if self.0.len() < KINDS {
            self.0.insert(key.to_owned(), (1, path.to_owned()));
        }
    }

    /// A sentence for each kind.
    pub(crate) fn sentences(&self) -> impl Iterator<Item = String> {
        self.0.iter().map(|(key, (files, first))| {
            let files = if *files == 1 { "one file".to_owned() } else { format!("{files} files") };
            let first = first.display();
            format!("the system did not take the extended attribute {key}: {files} went without it, such as `{first}`")
        })
    }
}
