//! The keys of a bucket: those of the distribution registry (its `registry/storage/paths.go`), so that it serves the bucket
//! as it is, and beside them our own.
//!
//! ```text
//! docker/registry/v2/
//!     blobs/sha256/ab/HEX/data                                     every blob, documents included
//!     repositories/NAME/_layers/sha256/HEX/link                    the blobs of a repository
//!     repositories/NAME/_manifests/revisions/sha256/HEX/link       its manifests and indexes
//!     repositories/NAME/_manifests/tags/TAG/index/sha256/HEX/link  what a tag has pointed to
//!     repositories/NAME/_manifests/tags/TAG/current/link           what it points to: written last
//! _linkspan/leases/EXPORT                                          leases: pins, and uploads that are under way
//! _linkspan/uploads/EXPORT/REF                                     blobs whose digest is not known yet
//! _linkspan/images/sha256/HEX                                      images without a name
//! _linkspan/kept/NAME/_digests/sha256/HEX                          images that a repository has by their digest alone
//! _linkspan/caches/ID                                              build caches
//! _linkspan/condemned/RUN                                          collections that are under way
//! _linkspan/conditional                                            what the probe of preconditions writes
//! ```

use crate::image::{Digest, Reference};

/// The folder of repositories.
pub(super) const REPOSITORIES: &str = "docker/registry/v2/repositories";
/// The folder of leases.
pub(super) const LEASES: &str = "_linkspan/leases";
/// The folder of images without a name.
pub(super) const UNNAMED: &str = "_linkspan/images";
/// The folder of images that repositories have by their digest alone.
pub(super) const KEPT: &str = "_linkspan/kept";
/// The folder of those of one repository: no part of a repository's name begins with `_`.
const DIGESTS: &str = "_digests";
/// The folder of build caches.
pub(super) const CACHES: &str = "_linkspan/caches";
/// The folder of collections that are under way.
pub(super) const CONDEMNED: &str = "_linkspan/condemned";
/// The folder of blobs whose digest is not known yet.
pub(super) const UPLOADS: &str = "_linkspan/uploads";
/// The folder of blobs.
pub(super) const BLOBS: &str = "docker/registry/v2/blobs";
/// What the probe of preconditions writes.
pub(super) const PROBE: &str = "_linkspan/conditional";
/// The folder of a repository that holds its manifests: no part of a repository's name begins with `_`.
pub(super) const MANIFESTS: &str = "_manifests";

fn link(digest: &Digest) -> String {
    format!("{}/{}/link", digest.algorithm().name(), digest.hex())
}

/// The bytes of a blob.
pub(super) fn blob(digest: &Digest) -> String {
    let (algorithm, hex) = (digest.algorithm().name(), digest.hex());
    format!("{BLOBS}/{algorithm}/{}/{hex}/data", &hex[..2])
}

/// The folder of an export's blobs whose digests are not known yet.
pub(super) fn uploads(export: &str) -> String {
    format!("{UPLOADS}/{export}")
}

/// A blob whose digest is not known yet.
pub(super) fn upload(export: &str, reference: &str) -> String {
    format!("{}/{}", uploads(export), Digest::sha256(reference.as_bytes()).hex())
}

/// A lease.
pub(super) fn lease(export: &str) -> String {
    format!("{LEASES}/{export}")
}

/// An image without a name.
pub(super) fn unnamed(root: &Digest) -> String {
    format!("{UNNAMED}/{}/{}", root.algorithm().name(), root.hex())
}

/// A collection.
pub(super) fn condemned(run: &str) -> String {
    format!("{CONDEMNED}/{run}")
}

/// A version of a build cache.
pub(super) fn cache(id: &str) -> String {
    format!("{CACHES}/{id}")
}

/// The digest in `sha256/HEX`, as in keys of links.
fn digest_in(folders: &str) -> Option<Digest> {
    folders.split_once('/').and_then(|(algorithm, hex)| format!("{algorithm}:{hex}").parse().ok())
}

/// The digest of the blob at a key.
pub(super) fn digest_of_blob(key: &str) -> Option<Digest> {
    let rest = key.strip_prefix(BLOBS)?.strip_prefix('/')?.strip_suffix("/data")?;
    let (algorithm, rest) = rest.split_once('/')?;
    digest_in(&format!("{algorithm}/{}", rest.split_once('/')?.1)).filter(|digest| blob(digest) == key)
}

/// The repository and the image of an entry of those that have only a digest.
pub(super) fn kept_at(key: &str) -> Option<(Repository, Digest)> {
    let (path, digest) = key.strip_prefix(KEPT)?.strip_prefix('/')?.split_once(&format!("/{DIGESTS}/"))?;
    Some((Repository::found(path)?, digest_in(digest)?))
}

/// What a key below a repository is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Link<'k> {
    /// The link to a blob that is no manifest.
    Layer(Digest),
    /// The link to a manifest or index.
    Revision(Digest),
    /// What a tag, by the folder of it, points to.
    Current(&'k str),
    /// What a tag, by the folder of it, has pointed to.
    Index(&'k str, Digest),
}

impl<'k> Link<'k> {
    /// What is at `key`; `None` for all that is no link.
    pub(super) fn at(key: &'k str) -> Option<Self> {
        let path = key.strip_prefix(REPOSITORIES)?.strip_suffix("/link")?;
        // No part of a repository's name begins with `_`.
        let (at, _) = path.match_indices("/_").next()?;
        let (folder, rest) = path[at + 1..].split_once('/')?;
        if folder == "_layers" {
            return digest_in(rest).map(Self::Layer);
        }
        if folder != MANIFESTS {
            return None;
        }
        match rest.split_once('/')? {
            ("revisions", link) => digest_in(link).map(Self::Revision),
            ("tags", link) => {
                let (tag, rest) = link.split_once('/')?;
                let end = key.len() - "/link".len() - rest.len() - 1;
                debug_assert!(key[..end].ends_with(tag), "the folder of the tag");
                match rest.split_once('/') {
                    None if rest == "current" => Some(Self::Current(&key[..end])),
                    Some(("index", link)) => digest_in(link).map(|digest| Self::Index(&key[..end], digest)),
                    _ => None,
                }
            }
            _ => None,
        }
    }
}

/// A repository in the bucket.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Repository(String);

impl Repository {
    /// The one of an image's name; `None` if no client of a registry could name it.
    pub(super) fn of(name: &Reference) -> Option<Self> {
        Reference::path_in_registry(&name.name()).map(Self)
    }

    /// One that was found in the bucket.
    pub(super) fn found(path: &str) -> Option<Self> {
        Some(Self(path.to_owned())).filter(|found| found.full().is_some_and(|full| Self::leads_back(path, &full)))
    }

    fn leads_back(path: &str, full: &str) -> bool {
        Reference::path_in_registry(full).is_some_and(|own| own == path)
    }

    /// Its name as images have it, registry included.
    pub(super) fn full(&self) -> Option<String> {
        format!("{}:x", self.0).parse().ok().map(|name: Reference| name.name())
    }

    /// Its folder.
    pub(super) fn folder(&self) -> String {
        format!("{REPOSITORIES}/{}", self.0)
    }

    /// The folder of its links to blobs.
    pub(super) fn layers(&self) -> String {
        format!("{}/_layers", self.folder())
    }

    /// The link to a blob that is no manifest.
    pub(super) fn layer(&self, digest: &Digest) -> String {
        format!("{}/{}", self.layers(), link(digest))
    }

    /// The link to a manifest or index.
    pub(super) fn revision(&self, digest: &Digest) -> String {
        format!("{}/{MANIFESTS}/revisions/{}", self.folder(), link(digest))
    }

    /// The folder of the entries of images that it has by their digest alone.
    pub(super) fn all_kept(&self) -> String {
        format!("{KEPT}/{}/{DIGESTS}", self.0)
    }

    /// The entry of such an image.
    pub(super) fn kept(&self, root: &Digest) -> String {
        format!("{}/{}/{}", self.all_kept(), root.algorithm().name(), root.hex())
    }

    /// The folder of its tags.
    pub(super) fn tags(&self) -> String {
        format!("{}/{MANIFESTS}/tags", self.folder())
    }

    /// What a tag points to.
    pub(super) fn current(&self, tag: &str) -> String {
        format!("{}/{tag}/current/link", self.tags())
    }

    /// What a tag has pointed to.
    pub(super) fn tag_index(&self, tag: &str, digest: &Digest) -> String {
        format!("{}/{tag}/index/{}", self.tags(), link(digest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_those_of_the_registry() {
        let digest = Digest::sha256(b"x");
        let hex = digest.hex();
        let repository = Repository::of(&"ghcr.io/o/app:1".parse().unwrap()).unwrap();
        let below = format!("{REPOSITORIES}/ghcr.io/o/app");
        assert_eq!(blob(&digest), format!("docker/registry/v2/blobs/sha256/{}/{hex}/data", &hex[..2]));
        assert_eq!(repository.layer(&digest), format!("{below}/_layers/sha256/{hex}/link"));
        assert_eq!(repository.revision(&digest), format!("{below}/_manifests/revisions/sha256/{hex}/link"));
        assert_eq!(repository.current("1"), format!("{below}/_manifests/tags/1/current/link"));
        let index = repository.tag_index("1", &digest);
        assert_eq!(index, format!("{below}/_manifests/tags/1/index/sha256/{hex}/link"));
    }

    #[test]
    fn links_are_known_by_their_keys() {
        let digest = Digest::sha256(b"x");
        let repository = Repository::of(&"ghcr.io/o/app:1".parse().unwrap()).unwrap();
        let tag = format!("{}/1", repository.tags());
        assert_eq!(Link::at(&repository.layer(&digest)), Some(Link::Layer(digest.clone())));
        assert_eq!(Link::at(&repository.revision(&digest)), Some(Link::Revision(digest.clone())));
        assert_eq!(Link::at(&repository.current("1")), Some(Link::Current(&tag)));
        assert_eq!(Link::at(&repository.tag_index("1", &digest)), Some(Link::Index(&tag, digest.clone())));
        for other in ["_uploads/x/startedat", "_manifests/link", "_layers/sha256/x/link", "_manifests/tags/1/link"] {
            assert_eq!(Link::at(&format!("{}/{other}", repository.folder())), None, "{other}");
        }
        assert_eq!(kept_at(&repository.kept(&digest)), Some((repository.clone(), digest.clone())));
        assert_eq!((kept_at(&repository.all_kept()), kept_at(&unnamed(&digest))), (None, None));
        assert_eq!(digest_of_blob(&blob(&digest)), Some(digest));
        assert_eq!(digest_of_blob(&format!("{BLOBS}/sha256/00/x/data")), None);
    }

    #[test]
    fn repositories_lead_back_to_names() {
        for (name, path) in [("app:1", "app"), ("o/app:1", "o/app"), ("ghcr.io/o/app:1", "ghcr.io/o/app")] {
            let name: Reference = name.parse().unwrap();
            let repository = Repository::of(&name).unwrap();
            assert_eq!((repository.folder(), repository.full()), (format!("{REPOSITORIES}/{path}"), Some(name.name())));
            assert_eq!(Repository::found(path), Some(repository));
        }
        assert_eq!(Repository::of(&"registry:5000/app".parse().unwrap()), None);
        // Another path to `app`, which would be listed twice; and what is no name.
        assert_eq!((Repository::found("library/app"), Repository::found("-a/b")), (None, None));
    }
}
