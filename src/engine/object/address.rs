//! The address of a bucket, and of a folder in it: `s3://bucket/prefix`.

use std::fmt;
use std::str::FromStr;

/// The longest name of a bucket: that of Google's, with dots.
const MAX_BUCKET: usize = 222;
/// The longest prefix. Keys have at most 1,024 bytes, and the longest of ours has some 500 behind the prefix.
const MAX_PREFIX: usize = 400;

/// Whose API a bucket has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Provider {
    /// S3, and all that speak like it.
    Amazon,
    /// Google Cloud Storage.
    Google,
    /// Azure's blob storage.
    Azure,
}

impl Provider {
    const ALL: [Self; 3] = [Self::Amazon, Self::Google, Self::Azure];

    /// The scheme of its addresses.
    pub(super) const fn scheme(self) -> &'static str {
        match self {
            Self::Amazon => "s3",
            Self::Google => "gs",
            Self::Azure => "az",
        }
    }
}

/// Where an engine `object` keeps its images: `s3://BUCKET/PREFIX`, `gs://BUCKET/PREFIX` or `az://CONTAINER/PREFIX`. The
/// prefix may be empty.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct BucketAddress {
    pub(super) provider: Provider,
    pub(super) bucket: String,
    /// Without slashes at its ends.
    pub(super) prefix: String,
}

/// Why a text is no [`BucketAddress`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct BucketAddressError {
    /// What was expected.
    pub reason: &'static str,
}

impl BucketAddress {
    /// The folder in the bucket, without slashes at its ends; empty for all of it.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }
}

impl fmt::Display for BucketAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.provider.scheme(), self.bucket)?;
        if self.prefix.is_empty() { Ok(()) } else { write!(f, "/{}", self.prefix) }
    }
}

impl FromStr for BucketAddress {
    type Err = BucketAddressError;

    fn from_str(text: &str) -> Result<Self, BucketAddressError> {
        let refused = |reason| Err(BucketAddressError { reason });
        let found = text.split_once("://").and_then(|(scheme, rest)| {
            Some((Provider::ALL.into_iter().find(|provider| provider.scheme() == scheme)?, rest))
        });
        let Some((provider, rest)) = found else {
            return refused("expected `s3://BUCKET/PREFIX`, `gs://BUCKET/PREFIX` or `az://CONTAINER/PREFIX`");
        };
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let is_word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_.".contains(&byte);
        if bucket.is_empty() || bucket.len() > MAX_BUCKET || !bucket.bytes().all(is_word) || bucket.starts_with('.') {
            return refused("expected a bucket of lower-case letters, digits, `-`, `_` and `.`");
        }
        let prefix = prefix.trim_end_matches('/');
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.+=@".contains(&byte);
        let is_folder = |part: &str| !part.trim_matches('.').is_empty() && part.bytes().all(is_plain);
        if prefix.len() > MAX_PREFIX || !prefix.is_empty() && !prefix.split('/').all(is_folder) {
            return refused(
                "expected a prefix of at most 400 letters, digits, `-`, `_`, `.`, `+`, `=`, `@` and single `/`",
            );
        }
        Ok(Self { provider, bucket: bucket.to_owned(), prefix: prefix.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_written_as_they_are_read() {
        for (text, expected) in [
            ("s3://bucket", "s3://bucket"),
            ("s3://bucket/", "s3://bucket"),
            ("gs://a.b-c_d/x/Y=1/", "gs://a.b-c_d/x/Y=1"),
            ("az://container/prefix", "az://container/prefix"),
        ] {
            assert_eq!(text.parse::<BucketAddress>().unwrap().to_string(), expected, "{text}");
        }
        for text in [
            "",
            "bucket",
            "/bucket",
            "s3:bucket",
            "s3:///x",
            "s3://",
            "s4://b",
            "s3://B",
            "s3://b@c",
            "s3://b:1/x",
            "s3://b//x",
            "s3://b/../x",
            "s3://b/./x",
            "s3://b/x y",
            "s3://b/x?y",
            "s3://.b",
            "https://b.s3.amazonaws.com",
        ] {
            assert!(text.parse::<BucketAddress>().is_err(), "{text}");
        }
        assert!(format!("s3://b/{}", "x".repeat(MAX_PREFIX + 1)).parse::<BucketAddress>().is_err());
    }
}
