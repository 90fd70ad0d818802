//! The precedence of sources, and the messages of errors.

mod builders;
mod contexts;
mod doors;
mod engine;
mod errors;
mod listeners;
mod precedence;

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs;

use tempfile::TempDir;
use tracing::Level;

use super::*;
use crate::engine::EngineKind;
use crate::net::Address;

/// The sources of a test, which include nothing of the machine.
struct Sources {
    folder: TempDir,
    flags: Layer,
    variables: HashMap<String, OsString>,
}

impl Sources {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("group"), "root:x:0:\nbroken\ndocker:x:998:ann,bob\nstaff:x:50:\n").unwrap();
        Self { folder, flags: Layer::default(), variables: HashMap::new() }
    }

    fn flag(mut self, setting: Setting, text: &str) -> Self {
        self.flags.add(setting, text, Origin::Flag(setting));
        self
    }

    fn variable(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.variables.insert(name.to_owned(), value.into());
        self
    }

    fn file(self, text: &str) -> Self {
        fs::write(self.folder.path().join("config.toml"), text).unwrap();
        self
    }

    fn load(self) -> Result<Config, ConfigError> {
        self.resolve(true, None)
    }

    /// Loads the configuration as a daemon, run by root or not, with sockets that were passed to it (`inherited`).
    fn serving(self, is_root: bool, inherited: Layer) -> Result<Config, ConfigError> {
        self.resolve(is_root, Some(inherited))
    }

    fn resolve(&self, is_root: bool, serving: Option<Layer>) -> Result<Config, ConfigError> {
        let (file, groups) = (self.folder.path().join("config.toml"), self.folder.path().join("group"));
        let files = SystemFiles { file, groups, users: self.folder.path().join("users"), is_root };
        Config::resolve(self.flags.clone(), &|name: &str| self.variables.get(name).cloned(), &files, serving)
    }

    fn config(self) -> Config {
        self.load().unwrap()
    }

    /// The error message, without the test's folder.
    fn refusal(self) -> String {
        let folder = format!("{}/", self.folder.path().display());
        self.load().unwrap_err().to_string().replace(&folder, "")
    }
}
