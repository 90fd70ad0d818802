//! The unchecked settings of one source.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use super::Setting;

/// An unchecked value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Given {
    /// The text.
    pub text: String,
    /// Where it was given.
    pub origin: Origin,
}

/// Where a value was given, as messages name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// On the command line.
    Flag(Setting),
    /// In the environment, under this name.
    Variable(String),
    /// In the docker context of this name.
    Context(String),
    /// The built-in default.
    Default(Setting),
    /// In a file.
    File {
        /// The file.
        path: PathBuf,
        /// The key within it, such as `tls.ca of builder 2`.
        key: String,
    },
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(setting) => write!(f, "--{}", setting.name()),
            Self::Variable(name) => f.write_str(name),
            Self::Context(name) => write!(f, "the docker context `{}`", name.escape_debug()),
            Self::Default(setting) => write!(f, "the default of --{}", setting.name()),
            Self::File { path, key } => write!(f, "`{key}` in {}", path.display()),
        }
    }
}

/// The settings of one source, or of several combined.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Layer(BTreeMap<Setting, Vec<Given>>);

impl Layer {
    /// Appends a value to those of `setting`.
    pub fn add(&mut self, setting: Setting, text: impl Into<String>, origin: Origin) {
        self.0.entry(setting).or_default().push(Given { text: text.into(), origin });
    }

    /// Adds a flag's values.
    pub fn add_flag(&mut self, setting: Setting, texts: impl IntoIterator<Item = String>) {
        for text in texts {
            self.add(setting, text, Origin::Flag(setting));
        }
    }

    /// This layer, completed with the settings that are only in `weaker`.
    #[must_use]
    pub fn over(mut self, weaker: Self) -> Self {
        for (setting, values) in weaker.0 {
            self.0.entry(setting).or_insert(values);
        }
        self
    }

    /// Removes a setting.
    pub fn remove(&mut self, setting: Setting) {
        self.0.remove(&setting);
    }

    /// The value of a setting that is no list; the last one if there are several.
    pub fn last(&self, setting: Setting) -> Option<&Given> {
        self.all(setting).last()
    }

    /// All values of a setting, in order.
    pub fn all(&self, setting: Setting) -> &[Given] {
        self.0.get(&setting).map_or(&[], Vec::as_slice)
    }
}
