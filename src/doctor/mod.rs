//! What a daemon with the same configuration would meet: what works, what will be slow, and what mends it.
//!
//! Facts are gathered first ([`crate::engine::doctor`] for engines, `builder` for builders, `inflate` for what unpacks,
//! `buildx` for the builders that the user has) and judged afterwards by a function without I/O. Nothing is changed, and a part that cannot be asked does not keep the
//! others from being looked at.

mod builder;
mod buildx;
mod inflate;
mod judge;
mod report;

use futures_util::future::{join, join_all};

use crate::buildx::Store;
use crate::config::Config;
use crate::engine;

pub use report::{Builder, Check, Commands, Containerd, DockerDoor, Engine, Mark, Report, UsersBuilder};

/// Looks at everything that `config` names, and at the builders that `users` buildx has. Takes at most about ten seconds,
/// however many builders there are.
pub async fn examine(config: &Config, users: Option<&Store>) -> Report {
    let builders = join_all(config.builders.iter().map(builder::probe));
    let (engine, builders) = join(engine::doctor::examine(&config.engine), builders).await;
    let docker_door = match &config.docker_door {
        Some(door) => Some((door.listen.clone(), builder::is_open(&door.listen).await)),
        None => None,
    };
    let inflate = match &engine.containerd {
        Some(Ok(containerd)) => inflate::find(&containerd.address).await,
        _ => None,
    };
    let found = judge::Found { engine, inflate, builders, docker_door, users: buildx::look(users) };
    judge::judge(&found)
}
