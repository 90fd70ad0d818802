//! Extended attributes that the system refused, for a warning.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// How many kinds of attributes are listed.
const KINDS: usize = 16;

/// Extended attributes that were left out: for each the number of files, and the first of them.
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
            format!("the system refused the extended attribute {key}: left out of {files}, such as `{first}`")
        })
    }
}
