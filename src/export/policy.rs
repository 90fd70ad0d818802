//! Which names may be set, and whether a name may move to another image.

use super::ExportError;
use super::rights::{AccessRule, Rights};
use crate::engine::Engine;
use crate::image::{Descriptor, Digest, Reference};
use crate::net::Principal;

/// What exports may do to names. The default allows everything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamePolicy {
    /// Patterns over full names (`docker.io/library/demo:latest`), in which `*` matches any run of characters.
    /// None allows every name.
    pub allowed: Vec<String>,
    /// Whether a name that points to one image may be made to point to another.
    pub allow_tag_move: bool,
    /// What clients may do within that. Without any rule all of them may do all of it.
    pub rules: Vec<AccessRule>,
}

impl Default for NamePolicy {
    fn default() -> Self {
        Self { allowed: Vec::new(), allow_tag_move: true, rules: Vec::new() }
    }
}

impl NamePolicy {
    /// What `principal` may do to names.
    pub fn of(&self, principal: &Principal) -> Rights<'_> {
        Rights::new((&self.allowed, self.allow_tag_move), &self.rules, principal)
    }
}

impl Rights<'_> {
    /// Refuses the first name that may not be set.
    ///
    /// # Errors
    /// [`ExportError::NameDenied`].
    pub fn check(&self, names: &[Reference]) -> Result<(), ExportError> {
        match names.iter().map(ToString::to_string).find(|name| !self.may_set(name)) {
            Some(name) => Err(ExportError::NameDenied { name, allowed: self.settable() }),
            None => Ok(()),
        }
    }

    /// Refuses a name with a digest and no tag in a repository in which nobody may set any name, or its client may push none.
    pub(super) fn check_kept(&self, name: &Reference) -> Result<(), ExportError> {
        match self.may_set_somewhere(&name.name()) {
            true => Ok(()),
            false => Err(ExportError::NameDenied { name: name.to_string(), allowed: self.settable() }),
        }
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
        if self.may_move(name) {
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
    use crate::export::rights::Right;
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
        assert!(NamePolicy::default().of(&Principal::Internal).check(&names).is_ok());
        let policy = NamePolicy { allowed: vec!["docker.io/library/ci-*".to_owned()], ..NamePolicy::default() };
        let policy = policy.of(&Principal::Internal);
        let error = policy.check(&names).unwrap_err().to_string();
        assert!(error.contains("docker.io/library/anything:latest") && error.contains("ci-*"), "{error}");
        assert!(policy.check(&["ci-1".parse().unwrap()]).is_ok());
    }

    fn rule(principals: &[&str], names: &[&str], rights: &[Right]) -> AccessRule {
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        AccessRule { principals: texts(principals), names: texts(names), rights: rights.to_vec() }
    }

    #[test]
    fn rules_give_rights_to_those_whom_they_name() {
        let policy = NamePolicy {
            rules: vec![
                rule(&["user:ci-*"], &["docker.io/team/*"], &[Right::Pull, Right::Push]),
                rule(&["certificate:release.test"], &["docker.io/team/*"], &[Right::Push, Right::Move, Right::Delete]),
                rule(&["*"], &["docker.io/public/*"], &[Right::Pull]),
                rule(&["uid:7"], &["docker.io/seven/*"], &[Right::Pull]),
            ],
            ..NamePolicy::default()
        };
        let user = |name: &str| Principal::User { name: name.to_owned() };
        let release = Principal::Certificate { subject: "release.test".to_owned() };
        let anonymous = Principal::from(std::net::SocketAddr::from(([127, 0, 0, 1], 1)));
        let [team, public]: [Reference; 2] = ["team/app:1", "public/app:1"].map(|name| name.parse().unwrap());
        let of = |principal: &Principal, name: &Reference| {
            let (rights, text) = (policy.of(principal), name.to_string());
            [rights.may_pull(&text), rights.may_set(&text), rights.may_move(name), rights.may_delete(name)]
        };
        assert_eq!(of(&user("ci-1"), &team), [true, true, false, false]);
        assert_eq!(of(&user("ci-1"), &public), [true, false, false, false]);
        assert_eq!(of(&release, &team), [false, true, true, true]);
        assert_eq!(of(&user("somebody"), &team), [false; 4]);
        assert_eq!(of(&anonymous, &public), [true, false, false, false]);
        // A certificate is no user, whatever it is called.
        assert_eq!(of(&Principal::Certificate { subject: "ci-1".to_owned() }, &team), [false; 4]);
        // Of clients of socket files, only those whom a rule names.
        let unix = |uid| Principal::Unix { uid, gid: 1, pid: None };
        assert_eq!(of(&unix(0), &team), [true; 4]);
        assert_eq!(of(&unix(7), &team), [false; 4]);
        assert_eq!(of(&Principal::Internal, &team), [true; 4]);
        let ci = policy.of(&user("ci-1"));
        assert!(
            ci.may_somewhere(Right::Push, "docker.io/team/app") && !ci.may_somewhere(Right::Push, "docker.io/other")
        );
        assert!(!ci.may_pull_all() && policy.of(&unix(0)).may_pull_all());
        assert!(!ci.is_unlimited() && policy.of(&unix(0)).is_unlimited());
        assert!(ci.is_restrictive() && ci.settable() == ["docker.io/team/*"] && !ci.may_move_some());
    }

    /// `repository@digest` is not what patterns of tags are written for.
    #[test]
    fn who_may_set_some_tag_may_keep_what_has_only_a_digest() {
        let user = Principal::User { name: "ci".to_owned() };
        let kept = |allowed: &str, names: &str| {
            let rules = vec![rule(&["*"], &[names], &[Right::Push])];
            let policy = NamePolicy { allowed: vec![allowed.to_owned()], rules, ..NamePolicy::default() };
            let name = format!("team/app@{}", Digest::sha256(b"kept")).parse().unwrap();
            policy.of(&user).check_kept(&name).is_ok()
        };
        assert!(
            kept("*", "*") && kept("*:1", "docker.io/team/app:ci-*") && kept("docker.io/team/*", "docker.io/team/*")
        );
        assert!(
            !kept("docker.io/other/*", "*")
                && !kept("*", "docker.io/other/*")
                && !kept("*", "docker.io/team/application:*")
        );
    }

    #[test]
    fn what_nobody_may_no_rule_allows() {
        let rules = vec![rule(&["*"], &["*"], &[Right::Pull, Right::Push, Right::Move, Right::Delete])];
        let policy = NamePolicy { allowed: vec!["docker.io/team/*".to_owned()], allow_tag_move: false, rules };
        let (user, name) = (Principal::User { name: "ci".to_owned() }, "other/app:1".parse().unwrap());
        let rights = policy.of(&user);
        assert!(rights.is_unlimited(), "the rules are not what limits it");
        assert!(rights.may_pull_all() && !rights.may_move(&name) && !rights.may_delete(&name));
        assert!(matches!(rights.check(&[name]), Err(ExportError::NameDenied { .. })));
    }
}
