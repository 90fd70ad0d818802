//! What contexts and builders that the doctor proposes are called: two names, and none that is taken.
//!
//! docker shows each context as a builder of the same name, so that one name for both would lead plain `docker build`
//! to the builder, or keep the second from being created.

use super::door::Door;
use super::users::Users;
use crate::buildx::is_same_address;

/// A docker context that leads to the docker door.
pub(super) const CONTEXT: &str = "linkspan";
/// A builder whose loads are direct exports.
pub(super) const BUILDER: &str = "direct";

/// The name of a new builder that goes through the door of a builder at `listen`: the same one wherever it is proposed.
pub(super) fn for_door(doors: &[Door], listen: &str, users: &Users) -> String {
    let mut with_builders = doors.iter().filter(|door| door.builder.is_some());
    let is_one = with_builders.clone().count() <= 1;
    let number = with_builders.position(|door| is_same_address(&door.listen.to_string(), listen));
    match number {
        Some(at) if !is_one => free(&format!("{BUILDER}-{}", at + 1), users),
        _ => free(BUILDER, users),
    }
}

/// `preferred`, or if there is a context or builder of that name, with the first number behind it that makes it free.
pub(super) fn free(preferred: &str, users: &Users) -> String {
    let names = users.builders.iter().map(|builder| builder.name.as_str());
    let names: Vec<_> = names.chain(users.contexts.iter().map(|context| context.name.as_str())).collect();
    let is_taken = |name: &str| name == "default" || names.iter().any(|taken| taken.eq_ignore_ascii_case(name));
    let numbered = (2..).map(|number| format!("{preferred}-{number}"));
    std::iter::once(preferred.to_owned()).chain(numbered).find(|name| !is_taken(name)).unwrap_or_default()
}
