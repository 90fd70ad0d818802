//! Refs of caches, and which of them may be written.

use std::fmt;
use std::str::FromStr;

use super::CacheError;
use crate::net::Principal;
use crate::pattern;

/// The longest ref, in bytes.
const MAX: usize = 200;
const EXPECTED: &str =
    "1 to 200 letters, digits and `.`, `_`, `/`, `:`, `@`, `+`, `-`, of which a letter or digit is the first";

/// The ref of a cache, such as `app` or `team/app:main`. Refs have a name space of their own: an image of the same name is
/// something else.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CacheRef(String);

impl CacheRef {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The refs in the value of a `ref` attribute, which a semicolon separates. At most 16.
    ///
    /// # Errors
    /// [`CacheError::Name`] for the first that is none.
    pub fn list(text: &str) -> Result<Vec<Self>, CacheError> {
        let refs: Vec<Self> = text.split(';').map(str::parse).collect::<Result<_, _>>()?;
        if refs.len() > 16 {
            return Err(CacheError::Name { text: text.chars().take(80).collect(), expected: "at most 16 refs" });
        }
        Ok(refs)
    }
}

impl fmt::Display for CacheRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for CacheRef {
    type Err = CacheError;

    fn from_str(text: &str) -> Result<Self, CacheError> {
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._/:@+-".contains(&byte);
        let first_fits = text.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
        if first_fits && text.len() <= MAX && text.bytes().all(is_allowed) {
            return Ok(Self(text.to_owned()));
        }
        Err(CacheError::Name { text: text.chars().take(80).collect(), expected: EXPECTED })
    }
}

/// Which caches may be written. The default allows all.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CachePolicy {
    /// Patterns over refs, in which `*` matches any run of characters. None allows every ref.
    pub allowed: Vec<String>,
}

impl CachePolicy {
    /// Refuses a ref that no pattern allows. The principal is not evaluated yet: all have the same rights.
    ///
    /// # Errors
    /// [`CacheError::Denied`].
    pub fn check(&self, reference: &CacheRef, _principal: &Principal) -> Result<(), CacheError> {
        let is_allowed = |allowed: &String| pattern::matches(allowed, reference.as_str());
        if self.allowed.is_empty() || self.allowed.iter().any(is_allowed) {
            return Ok(());
        }
        Err(CacheError::Denied { reference: reference.to_string(), allowed: self.allowed.clone() })
    }
}
