//! Image names as Docker understands them.

use std::fmt;
use std::str::FromStr;

use super::Digest;

/// A normalised image name: `docker.io/library/alpine:latest`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    domain: String,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// Why a name was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid image name `{name}`: {reason}")]
pub struct ReferenceError {
    /// The name as it was given, cut to 300 characters.
    pub name: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

impl Reference {
    /// The registry part, `docker.io` unless another was named.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The repository path, `library/…` included.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The tag, if there is one.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, if the name is pinned.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// The name as people type it: without `docker.io/library/`.
    pub fn familiar(&self) -> String {
        let full = self.to_string();
        full.strip_prefix("docker.io/library/").or(full.strip_prefix("docker.io/")).unwrap_or(&full).to_owned()
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    /// Parses and normalises; a name with neither tag nor digest gets `latest`.
    fn from_str(name: &str) -> Result<Self, ReferenceError> {
        let (name, tag) = name.split_once(':').unwrap_or((name, "latest"));
        let path = if name.contains('/') { name.to_owned() } else { format!("library/{name}") };
        Ok(Self { domain: "docker.io".into(), path, tag: Some(tag.into()), digest: None })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.domain, self.path)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}
