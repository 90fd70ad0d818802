//! URLs of blobs.

use std::fmt;

use http::Uri;

/// A URL at which whoever knows it reads a blob for a while. What is behind its `?` is a secret, which logs and errors do not
/// show.
#[derive(Clone, PartialEq, Eq)]
pub struct BlobUrl(String);

impl BlobUrl {
    pub(crate) fn new(url: String) -> Self {
        Self(url)
    }

    /// All of it.
    pub fn secret(&self) -> &str {
        &self.0
    }

    /// Its host, without a port.
    pub fn host(&self) -> Option<String> {
        Some(self.0.parse::<Uri>().ok()?.host()?.to_owned())
    }
}

impl fmt::Debug for BlobUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}?…", self.0.split('?').next().unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_secret_is_not_shown() {
        let url = BlobUrl::new("https://h:9000/b/key?X-Amz-Signature=secret".to_owned());
        assert_eq!(format!("{url:?}"), "https://h:9000/b/key?…");
        assert_eq!(url.host().as_deref(), Some("h"));
        assert_eq!(BlobUrl::new("/b/key".to_owned()).host(), None);
    }
}
