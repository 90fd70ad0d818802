//! Which names may be set, and whether a name may move to another image.

use super::ExportError;
use crate::engine::Engine;
use crate::image::{Descriptor, Digest, Reference};
use crate::net::Principal;
use crate::pattern;

/// What exports may do to names. The default allows everything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamePolicy {
    /// Patterns over full names (`docker.io/library/demo:latest`), in which `*` matches any run of characters.
    /// None allows every name.
    pub allowed: Vec<String>,
    /// Whether a name that points to one image may be made to point to another.
    pub allow_tag_move: bool,
}

impl Default for NamePolicy {
    fn default() -> Self {
        Self { allowed: Vec::new(), allow_tag_move: true }
    }
}

impl NamePolicy {
    /// What `principal` may do to names: as yet what everybody may. A rule for some of them belongs here and nowhere else.
    pub(super) fn of(&self, _principal: &Principal) -> &Self {
        self
    }

    /// Whether there is any name that may not be set.
    pub fn is_restrictive(&self) -> bool {
        !self.allowed.is_empty() || !self.allow_tag_move
    }

    /// Refuses the first name that no pattern allows.
    ///
    /// # Errors
    /// [`ExportError::NameDenied`].
    pub fn check(&self, names: &[Reference]) -> Result<(), ExportError> {
        for name in names.iter().map(ToString::to_string) {
            if !self.allowed.is_empty() && !self.allowed.iter().any(|allowed| pattern::matches(allowed, &name)) {
                return Err(ExportError::NameDenied { name, allowed: self.allowed.clone() });
            }
        }
        Ok(())
    }

    /// Refuses the first name that would have to leave another image. What comes between this look and the commit is for
    /// [`Precondition`](crate::engine::Precondition), as far as the engine can compare and set.
    ///
    /// # Errors
    /// [`ExportError::NameTaken`], or when the engine cannot be queried.
    pub async fn check_moves(
        &self,
        engine: &dyn Engine,
        root: &Descriptor,
        names: &[Reference],
    ) -> Result<(), ExportError> {
        if self.allow_tag_move || names.is_empty() {
            return Ok(());
        }
        for name in names {
            self.check_move(engine, name, Some(&root.digest)).await?;
        }
        Ok(())
    }

    /// Refuses `name` if it points to another image than `root`; for any, if that is not known.
    pub(super) async fn check_move(
        &self,
        engine: &dyn Engine,
        name: &Reference,
        root: Option<&Digest>,
    ) -> Result<(), ExportError> {
        if self.allow_tag_move {
            return Ok(());
        }
        // An image that the engine may know by another digest than its root's is another one, as far as can be told.
        let root = root.and_then(|root| engine.knows_as(root));
        match engine.resolve(name).await? {
            Some(current) if root.as_ref() != Some(&current) => {
                Err(ExportError::NameTaken { name: name.to_string(), current })
            }
            _ => Ok(()),
        }
    }
}

/// Refuses the first name with a digest that is not the image's.
pub(crate) fn check_digests(root: &Descriptor, names: &[Reference]) -> Result<(), ExportError> {
    match names.iter().find(|name| !name.admits(&root.digest)) {
        Some(name) => Err(ExportError::NameDigest { name: name.to_string(), root: root.digest.clone() }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::Digest;

    #[test]
    fn a_name_with_a_digest_is_that_images_only() {
        let [own, other] = ["own", "other"].map(|content| Descriptor::new("", Digest::sha256(content.as_bytes()), 1));
        let names: Vec<Reference> = vec!["demo:1".parse().unwrap(), format!("demo:1@{}", own.digest).parse().unwrap()];
        assert!(check_digests(&own, &names).is_ok());
        let error = check_digests(&other, &names).unwrap_err();
        assert!(error.to_string().contains(own.digest.as_str()), "{error}");
        assert!(error.to_string().contains(other.digest.as_str()), "{error}");
    }

    #[test]
    fn without_patterns_every_name_may_be_set() {
        let names = ["anything".parse().unwrap()];
        assert!(NamePolicy::default().check(&names).is_ok());
        let policy = NamePolicy { allowed: vec!["docker.io/library/ci-*".to_owned()], allow_tag_move: true };
        let error = policy.check(&names).unwrap_err().to_string();
        assert!(error.contains("docker.io/library/anything:latest") && error.contains("ci-*"), "{error}");
        assert!(policy.check(&["ci-1".parse().unwrap()]).is_ok());
    }
}
