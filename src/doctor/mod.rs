//! What a daemon with the same configuration would meet: what works, what will be slow, and what mends it.
//!
//! Facts are gathered first ([`crate::engine::doctor`] for engines, `builder` for builders, `inflate` for what unpacks)
//! and judged afterwards by a function without I/O. Nothing is changed, and a part that cannot be asked does not keep the
//! others from being looked at.

mod builder;
mod inflate;
mod judge;
mod report;

use futures_util::future::{join, join_all};

use crate::config::Config;
use crate::engine;

pub use report::{Builder, Check, Commands, Containerd, Engine, Mark, Report};

/// Looks at everything that `config` names. Takes at most about ten seconds, however many builders there are.
pub async fn examine(config: &Config) -> Report {
    let builders = join_all(config.builders.iter().map(builder::probe));
    let (engine, builders) = join(engine::doctor::examine(&config.engine), builders).await;
    let inflate = match &engine.containerd {
        Some(Ok(containerd)) => inflate::find(&containerd.address).await,
        _ => None,
    };
    judge::judge(&engine, inflate.as_ref(), &builders)
}
