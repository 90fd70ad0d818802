//! Docker contexts and builders on other hosts, which docker's client reaches by ssh.

use super::names::{self, CONTEXT};
use super::report::{Check, Mark, Remedy};
use super::users::Users;
use crate::config::DEFAULT_DOCKER_LISTEN;
use crate::net::SshAddress;

/// The socket of the docker door on another host.
fn door() -> &'static str {
    DEFAULT_DOCKER_LISTEN.trim_start_matches("unix://")
}

/// What is behind an address over ssh, and what leads to a Linkspan there; `None` if it is none over ssh.
pub(super) fn words(address: &str, users: &Users) -> Option<(Mark, String, Remedy)> {
    let host: SshAddress = address.parse().ok()?;
    let to = host.destination();
    Some(match host.socket() {
        None => {
            let name = names::free(CONTEXT, users);
            let address = address.trim_end_matches('/');
            let found = format!(
                "{address}, which is dockerd itself on {to}: whole images are sent; where Linkspan serves there, name its socket"
            );
            let command = format!("docker context create {name} --docker host={address}{}", door());
            (Mark::Slow, found, Remedy::Commands(vec![command]))
        }
        Some(socket) => {
            let found = format!("{socket} on {to}, which is not examined from here");
            (
                Mark::Note,
                found,
                Remedy::Words(format!("`ssh {to} linkspan doctor` says whether a Linkspan serves there")),
            )
        }
    })
}

/// The checks of the user's contexts over ssh.
pub(super) fn context_checks(users: &Users) -> Vec<Check> {
    let of = |(name, host): (&str, &str)| {
        let (mark, found, remedy) = words(host, users)?;
        let found = format!("the docker context {name} goes to {found}");
        Some(Check { about: "context", mark, found, remedy: Some(remedy) })
    };
    users.contexts.iter().filter_map(|context| of((&context.name, &context.host))).collect()
}
