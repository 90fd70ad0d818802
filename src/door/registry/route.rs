//! What a path asks for (OCI distribution specification, "Endpoints").

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

use super::refusal::{Code, Refusal};

/// What is requested. Names and digests are as the client wrote them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Route {
    /// `/v2/`: is there a registry?
    Ping,
    /// `/v2/_catalog`.
    Catalog,
    /// `/v2/<name>/tags/list`.
    Tags { name: String },
    /// `/v2/<name>/manifests/<reference>`.
    Manifest { name: String, reference: String },
    /// `/v2/<name>/blobs/<digest>`.
    Blob { name: String, digest: String },
    /// `/v2/<name>/blobs/uploads/`.
    Uploads { name: String },
    /// `/v2/<name>/blobs/uploads/<id>`.
    Upload { name: String, id: String },
    /// `/v2/<name>/referrers/<digest>`.
    Referrers { name: String, digest: String },
}

impl Route {
    /// What kind of thing is requested, in one word.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Ping => "ping",
            Self::Catalog => "catalog",
            Self::Tags { .. } => "tags",
            Self::Manifest { .. } => "manifest",
            Self::Blob { .. } => "blob",
            Self::Uploads { .. } | Self::Upload { .. } => "upload",
            Self::Referrers { .. } => "referrers",
        }
    }

    /// The route of a path. The name of a repository has any number of parts, so it is read from its end.
    pub(super) fn of(path: &str) -> Result<Self, Refusal> {
        let unknown = || Refusal::absent(Code::Unknown, "a registry has nothing at this path; see GET /v2/");
        let rest = path.strip_prefix("/v2").ok_or_else(unknown)?;
        if rest.is_empty() || rest == "/" {
            return Ok(Self::Ping);
        }
        let parts: Vec<String> =
            rest.strip_prefix('/').ok_or_else(unknown)?.split('/').map(decoded).collect::<Result<_, _>>()?;
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        Ok(match parts[..] {
            ["_catalog"] => Self::Catalog,
            [ref name @ .., "tags", "list"] if !name.is_empty() => Self::Tags { name: name.join("/") },
            [ref name @ .., "blobs", "uploads"] | [ref name @ .., "blobs", "uploads", ""] if !name.is_empty() => {
                Self::Uploads { name: name.join("/") }
            }
            [ref name @ .., "blobs", "uploads", id] if !name.is_empty() => {
                Self::Upload { name: name.join("/"), id: id.to_owned() }
            }
            [ref name @ .., "manifests", reference] if !name.is_empty() => {
                Self::Manifest { name: name.join("/"), reference: reference.to_owned() }
            }
            [ref name @ .., "blobs", digest] if !name.is_empty() => {
                Self::Blob { name: name.join("/"), digest: digest.to_owned() }
            }
            [ref name @ .., "referrers", digest] if !name.is_empty() => {
                Self::Referrers { name: name.join("/"), digest: digest.to_owned() }
            }
            _ => return Err(unknown()),
        })
    }
}

/// Decodes a part of a path (RFC 3986, section 2.1). An encoded slash is refused: other programs take it for a separator.
fn decoded(part: &str) -> Result<String, Refusal> {
    let text = percent_decode_str(part).decode_utf8().ok().filter(|text| !text.contains('/'));
    let refused = || Refusal::bad(Code::NameInvalid, "a part of the path has an encoded slash, or is not UTF-8");
    text.map(Cow::into_owned).ok_or_else(refused)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_read_from_their_end() {
        let manifest =
            |name: &str, reference: &str| Route::Manifest { name: name.to_owned(), reference: reference.to_owned() };
        for (path, expected) in [
            ("/v2/", Route::Ping),
            ("/v2", Route::Ping),
            ("/v2/_catalog", Route::Catalog),
            ("/v2/a/manifests/1", manifest("a", "1")),
            ("/v2/manifests/manifests/manifests", manifest("manifests", "manifests")),
            ("/v2/a/tags/list/manifests/list", manifest("a/tags/list", "list")),
            ("/v2/a/b/tags/list", Route::Tags { name: "a/b".to_owned() }),
            ("/v2/a/blobs/sha256%3A00", Route::Blob { name: "a".to_owned(), digest: "sha256:00".to_owned() }),
            ("/v2/a/blobs/uploads/", Route::Uploads { name: "a".to_owned() }),
            ("/v2/a/blobs/uploads", Route::Uploads { name: "a".to_owned() }),
            ("/v2/a/blobs/uploads/7", Route::Upload { name: "a".to_owned(), id: "7".to_owned() }),
            ("/v2/a/referrers/x", Route::Referrers { name: "a".to_owned(), digest: "x".to_owned() }),
        ] {
            assert_eq!(Route::of(path).unwrap(), expected, "{path}");
        }
        for (path, code) in [
            ("/", Code::Unknown),
            ("/v1/", Code::Unknown),
            ("/v2x", Code::Unknown),
            ("/v2/a", Code::Unknown),
            ("/v2/tags/list", Code::Unknown),
            ("/v2/a%2Fb/tags/list", Code::NameInvalid),
            ("/v2/a/manifests/%ff", Code::NameInvalid),
        ] {
            assert_eq!(Route::of(path).unwrap_err().code, code, "{path}");
        }
    }
}
