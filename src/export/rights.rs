//! What each client may do to names: the rules of the configuration, for those whom they name.

use crate::image::Reference;
use crate::net::Principal;
use crate::pattern;

/// Something that can be done to a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Right {
    /// Reading the image.
    Pull,
    /// Making it name an image, if it names none.
    Push,
    /// Making it name another image.
    Move,
    /// Removing it.
    Delete,
}

/// A rule: who may do what to which names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessRule {
    /// Patterns of clients: `user:NAME`, `certificate:NAME`, `anonymous`, `uid:NUMBER`, `gid:NUMBER`, or `*` for whoever comes
    /// over TCP.
    pub principals: Vec<String>,
    /// Patterns of full names.
    pub names: Vec<String>,
    /// What they may do.
    pub rights: Vec<Right>,
}

impl AccessRule {
    fn concerns(&self, principal: &Principal) -> bool {
        let is_named = |text: &str| pattern::is_any(&self.principals, text);
        match principal {
            Principal::Internal => false,
            // Who may open a socket file is decided by its mode: only rules about such clients are for them.
            Principal::Unix { uid, gid, .. } => {
                let [user, group] = [format!("uid:{uid}"), format!("gid:{gid}")];
                let is_local = |pattern: &&String| pattern.starts_with("uid:") || pattern.starts_with("gid:");
                let mut local = self.principals.iter().filter(is_local);
                local.any(|it| pattern::matches(it, &user) || pattern::matches(it, &group))
            }
            Principal::Anonymous { .. } => is_named("anonymous"),
            Principal::Certificate { subject } => is_named(&format!("certificate:{subject}")),
            Principal::User { name } => is_named(&format!("user:{name}")),
        }
    }
}

/// What one client may do.
#[derive(Debug)]
pub struct Rights<'a> {
    /// Patterns of the names that anybody may set; none for all.
    allowed: &'a [String],
    allow_tag_move: bool,
    /// The rules that concern it; `None` if it may do everything that is allowed to anybody.
    rules: Option<Vec<&'a AccessRule>>,
}

impl<'a> Rights<'a> {
    /// Those of `principal` by `rules`, within what anybody may do.
    pub(super) fn new(
        (allowed, allow_tag_move): (&'a [String], bool),
        rules: &'a [AccessRule],
        principal: &Principal,
    ) -> Self {
        let concerning = || rules.iter().filter(|rule| rule.concerns(principal)).collect::<Vec<_>>();
        let rules = match principal {
            _ if rules.is_empty() => None,
            Principal::Internal => None,
            Principal::Unix { .. } => Some(concerning()).filter(|rules| !rules.is_empty()),
            _ => Some(concerning()),
        };
        Self { allowed, allow_tag_move, rules }
    }

    fn is_allowed(&self, name: &str) -> bool {
        self.allowed.is_empty() || pattern::is_any(self.allowed, name)
    }

    fn has(&self, right: Right, name: &str) -> bool {
        let Some(rules) = &self.rules else { return true };
        rules.iter().any(|rule| rule.rights.contains(&right) && pattern::is_any(&rule.names, name))
    }

    /// Whether there is any name that may not be set.
    pub fn is_restrictive(&self) -> bool {
        !self.allowed.is_empty() || !self.allow_tag_move || self.rules.is_some()
    }

    /// Patterns of the names that may be set, for clients to check before they begin; none for every name.
    pub fn settable(&self) -> Vec<String> {
        match &self.rules {
            None => self.allowed.to_vec(),
            Some(rules) => {
                let pushing = rules.iter().filter(|rule| rule.rights.contains(&Right::Push));
                pushing.flat_map(|rule| rule.names.iter().cloned()).collect()
            }
        }
    }

    /// Whether `name`, which is a full one, may be set.
    pub fn may_set(&self, name: &str) -> bool {
        self.is_allowed(name) && self.has(Right::Push, name)
    }

    /// Whether a name may be set that points to another image.
    pub fn may_move(&self, name: &Reference) -> bool {
        self.allow_tag_move && self.has(Right::Move, &name.to_string())
    }

    /// Whether every name that may be set may be moved.
    pub fn may_move_all(&self) -> bool {
        self.allow_tag_move && self.rules.is_none()
    }

    /// Whether some name may be moved.
    pub fn may_move_some(&self) -> bool {
        let moving = |rules: &Vec<&AccessRule>| rules.iter().any(|rule| rule.rights.contains(&Right::Move));
        self.allow_tag_move && self.rules.as_ref().is_none_or(moving)
    }

    /// Whether a name may be removed: only where names may move at all.
    pub fn may_delete(&self, name: &Reference) -> bool {
        let name = name.to_string();
        self.allow_tag_move && self.is_allowed(&name) && self.has(Right::Delete, &name)
    }

    /// Whether the image that has a full name may be read by it.
    pub fn may_pull(&self, name: &str) -> bool {
        self.has(Right::Pull, name)
    }

    /// Whether every image may be read, so that it does not matter by which name a blob is reached.
    pub fn may_pull_all(&self) -> bool {
        let is_all = |rule: &&AccessRule| rule.rights.contains(&Right::Pull) && rule.names.iter().any(|it| it == "*");
        self.rules.as_ref().is_none_or(|rules| rules.iter().any(is_all))
    }

    /// Whether no rule limits the client. Doors that know blobs, caches and exports, and not by which names a client may reach
    /// them, serve nobody else.
    pub fn is_unlimited(&self) -> bool {
        const ALL: [Right; 4] = [Right::Pull, Right::Push, Right::Move, Right::Delete];
        let gives = |right, rule: &&AccessRule| rule.rights.contains(&right) && rule.names.iter().any(|it| it == "*");
        let has = |rules: &Vec<&AccessRule>| ALL.iter().all(|&right| rules.iter().any(|rule| gives(right, rule)));
        self.rules.as_ref().is_none_or(has)
    }

    /// Whether there can be a name in `repository`, which is a full one, to which `right` is given.
    pub fn may_somewhere(&self, right: Right, repository: &str) -> bool {
        let Some(rules) = &self.rules else { return true };
        let with_right = rules.iter().filter(|rule| rule.rights.contains(&right));
        with_right.flat_map(|rule| &rule.names).any(|names| is_in(names, repository))
    }

    /// Whether there can be a name in `repository`, which is a full one, that anybody may set, and one that this client may push.
    pub(super) fn may_set_somewhere(&self, repository: &str) -> bool {
        let is_allowed = self.allowed.is_empty() || self.allowed.iter().any(|names| is_in(names, repository));
        is_allowed && self.may_somewhere(Right::Push, repository)
    }
}

/// Whether a pattern of names describes one in `repository`.
fn is_in(names: &str, repository: &str) -> bool {
    [":", "@"].iter().any(|end| pattern::may_begin(names, &format!("{repository}{end}")))
}
