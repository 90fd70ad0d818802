//! Checks the `[[rule]]` tables of the file: what clients may do.

use super::parse::{invalid, pattern};
use super::{ConfigError, Given};

/// The most rules, and the most patterns of one.
const MAX_RULES: usize = 256;
const MAX_PATTERNS: usize = 256;

/// What a rule lets clients do to a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Read its image.
    Pull,
    /// Create it.
    Push,
    /// Make it name another image.
    Move,
    /// Remove it.
    Delete,
}

/// A rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Patterns of clients.
    pub principals: Vec<String>,
    /// Patterns of full names.
    pub names: Vec<String>,
    /// What they may do.
    pub actions: Vec<Action>,
}

/// An unchecked rule.
#[derive(Debug)]
pub(super) struct RuleDraft {
    pub principals: Vec<Given>,
    pub names: Vec<Given>,
    pub allow: Vec<Given>,
}

pub(super) fn check(drafts: &[RuleDraft]) -> Result<Vec<Rule>, ConfigError> {
    if drafts.len() > MAX_RULES {
        let count = drafts.len();
        return Err(ConfigError::Contradiction(format!("{count} rules; expected at most {MAX_RULES}")));
    }
    (1..).zip(drafts).map(|(number, draft)| rule(number, draft)).collect()
}

fn rule(number: usize, draft: &RuleDraft) -> Result<Rule, ConfigError> {
    let lists = [("principals", &draft.principals), ("names", &draft.names), ("allow", &draft.allow)];
    if let Some((key, list)) = lists.iter().find(|(_, list)| list.is_empty() || list.len() > MAX_PATTERNS) {
        let count = list.len();
        return Err(ConfigError::Contradiction(format!(
            "rule {number} has {count} `{key}`; expected 1 to {MAX_PATTERNS}, as in `principals = [\"user:ci-*\"]`, `names = \
             [\"docker.io/team/*\"]` and `allow = [\"pull\", \"push\"]`"
        )));
    }
    Ok(Rule {
        principals: draft.principals.iter().map(principal).collect::<Result<_, _>>()?,
        names: draft.names.iter().map(name).collect::<Result<_, _>>()?,
        actions: draft.allow.iter().map(action).collect::<Result<_, _>>()?,
    })
}

/// A pattern of full names: one that no name can have would look as if it allowed something.
fn name(given: &Given) -> Result<String, ConfigError> {
    let text = pattern(given)?;
    let fixed = text.split('*').next().unwrap_or_default();
    // Where a `*` comes before the first slash, it may be anything, but not in the tag of a name without a registry.
    let has_registry = match fixed.split_once('/') {
        Some((host, _)) => host.contains(['.', ':']) || host == "localhost",
        None => fixed.len() < text.len() && !fixed.ends_with(':'),
    };
    if !has_registry {
        let full = if text.contains('/') { format!("docker.io/{text}") } else { format!("docker.io/library/{text}") };
        return Err(invalid(
            given,
            format!("describes no full name, which begins with its registry; did you mean `{full}`?"),
        ));
    }
    if text.starts_with("index.docker.io/") || (fixed.chars().any(|c| c.is_ascii_uppercase()) && !fixed.contains(':')) {
        return Err(invalid(
            given,
            "describes no full name: these are in lower case, and Docker Hub's begin with `docker.io/`",
        ));
    }
    Ok(text)
}

fn principal(given: &Given) -> Result<String, ConfigError> {
    let text = pattern(given)?;
    if let Some(number) = text.strip_prefix("uid:").or_else(|| text.strip_prefix("gid:")) {
        // A pattern that names nobody would leave its client without limits.
        return match number.parse::<u32>() {
            Ok(_) => Ok(text),
            Err(_) => Err(invalid(given, "is no number of a user or a group, such as `uid:1000`")),
        };
    }
    let kinds = ["user:", "certificate:"];
    if matches!(text.as_str(), "*" | "anonymous")
        || kinds.iter().any(|kind| text.len() > kind.len() && text.starts_with(kind))
    {
        return Ok(text);
    }
    Err(invalid(
        given,
        "is no client; expected `user:NAME`, `certificate:NAME`, `uid:NUMBER`, `gid:NUMBER`, `anonymous`, or `*` for all that \
         come over TCP; `*` matches any characters of a name, too",
    ))
}

fn action(given: &Given) -> Result<Action, ConfigError> {
    match given.text.as_str() {
        "pull" => Ok(Action::Pull),
        "push" => Ok(Action::Push),
        "move" => Ok(Action::Move),
        "delete" => Ok(Action::Delete),
        _ => Err(invalid(
            given,
            "is nothing that can be allowed; expected `pull`, `push` (a name that is new), `move` (a name to another image) or \
             `delete`",
        )),
    }
}
