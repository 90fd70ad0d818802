//! What clients may do, as the configuration says.

use crate::config::{Action, Config, Names, Rule};
use crate::export::{AccessRule, NamePolicy, Right};

/// The policy of all doors.
pub(super) fn of(config: &Config) -> NamePolicy {
    let Names { allowed, allow_tag_move } = config.names.clone();
    NamePolicy { allowed, allow_tag_move, rules: config.rules.iter().map(rule).collect() }
}

fn rule(rule: &Rule) -> AccessRule {
    let Rule { principals, names, actions } = rule.clone();
    AccessRule { principals, names, rights: actions.into_iter().map(right).collect() }
}

fn right(action: Action) -> Right {
    match action {
        Action::Pull => Right::Pull,
        Action::Push => Right::Push,
        Action::Move => Right::Move,
        Action::Delete => Right::Delete,
    }
}
