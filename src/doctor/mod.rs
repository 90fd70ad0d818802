//! `linkspan doctor`: whether direct exports work on this machine, whether they are fast, and how to fix what is not.
//!
//! Facts are gathered first ([`crate::running`] for running Linkspans, [`crate::engine::doctor`] for engines, `builder` for
//! builders, `inflate` for containerd's decompressor, `users` for the user's builders) and judged afterwards by functions
//! without I/O. Nothing is changed, unless it is asked for (`fix`), and a part that cannot be queried does not stop the others.
//!
//! If a Linkspan runs, the report is about its engine, its builders and its policy, because builds meet these.

mod builder;
mod buildx;
mod caches;
mod door;
mod doors;
mod engine;
mod facts;
mod fix;
mod inflate;
mod judge;
mod names;
mod policy;
mod report;
mod ssh;
mod text;
mod users;
mod wrap;

use futures_util::future::{join, join_all, join4};

use crate::buildx::{Store, is_same_address, version};
use crate::config::Config;
use crate::daemon::builder::dial;
use crate::engine::doctor as engines;
use crate::net::{Dial, Upstream};
use crate::running::{self, SearchFolders, Socket};
use crate::status::Kind;

use builder::BuilderProbe;
use door::{Door, DoorState, Probed};
use facts::Facts;

pub use fix::{Repair, RepairError, repairs};
pub use report::{
    BuildCaches, Builder, Check, Commands, Containerd, DockerDoor, Engine, ExportDoor, Mark, Remedy, Report,
    ReportedBuilder,
};
pub use text::TextStyle;
pub(crate) use wrap::words as wrap_words;

/// Examines everything in `config`, the running Linkspans, and the builders of the user with the environment `users`. Takes
/// at most about ten seconds, however many builders there are.
pub async fn examine(config: &Config, users: Option<&Store>) -> Report {
    let variable = |name: &str| std::env::var_os(name);
    let sockets = running::find(running::known(config, users, variable, &SearchFolders::new(variable))).await;
    let of_clients = users.and_then(|store| store.engine(variable)).or_else(|| std::env::var("DOCKER_HOST").ok());
    let store = users;
    let mut users = users::read(store, variable);

    let mut doors = doors::gather(config, &sockets);
    let subject = engine::subject(config, &doors, &sockets, of_clients.as_deref());
    let selection = engine::selection(&config.engine, subject.as_ref());
    users.set_door_probes(&sockets);
    users.find_sent(store);
    let builders = join_all(doors.iter().map(|door| probe(config, door)));
    let (mut engine, builders, (), version) =
        join4(engines::examine(&selection), builders, users.probe(), version()).await;
    users.version = version;
    for (door, probed) in doors.iter_mut().zip(builders) {
        door.builder = probed;
    }
    users.learn(&doors);
    // A running Linkspan may write what this user may not.
    if subject.as_ref().is_none_or(|subject| !subject.is_basis)
        && let Ok(selected) = &engine.selected
        && let Err(error) = selected.check_writable()
    {
        engine.selected = Err(error);
    }
    let inflate = match &engine.containerd {
        Some(Ok(containerd)) => inflate::find(&containerd.address).await,
        _ => None,
    };
    let caches = caches::measure(&engine, caches::limits(config, subject.as_ref())).await;
    let chained = engine::chained(config, &sockets);
    let containerd_address = config.engine.containerd_address.clone();
    let metrics = config.metrics_listen.clone();
    judge::judge(&Facts { engine, subject, containerd_address, inflate, doors, chained, metrics, users, caches })
}

/// What was found at `address`; a link to the same socket counts.
fn socket_at<'a>(sockets: &'a [Socket], address: &str) -> Option<&'a Socket> {
    sockets.iter().find(|socket| is_same_address(&socket.address.to_string(), address))
}

/// Probes the builder of a buildkit door: at its configured address, else through the door.
async fn probe(config: &Config, door: &Door) -> Option<Probed> {
    if door.kind != Kind::Buildkit {
        return None;
    }
    let through = async || match Upstream::new(door.listen.clone(), None) {
        Ok(upstream) => builder::probe(&upstream as &dyn Dial).await,
        Err(error) => BuilderProbe::Unreachable(error.to_string()),
    };
    let is_open = matches!(door.state, DoorState::Open(_));
    let own = config.builders.iter().find(|builder| door.is_configured && builder.listen == door.listen);
    let Some(own) = own else {
        let address = match &door.state {
            DoorState::Open(status) => status.builder()?.address.clone(),
            _ => return None,
        };
        return Some(Probed { address, endpoint: None, probe: through().await });
    };
    let direct = async {
        match dial(own) {
            Ok(dial) => builder::probe(&*dial).await,
            Err(error) => BuilderProbe::Unreachable(error.to_string()),
        }
    };
    let (address, endpoint) = (own.endpoint.to_string(), Some(own.endpoint.clone()));
    let leads_there = match &door.state {
        DoorState::Open(status) => status.builder().is_some_and(|builder| builder.address == address),
        _ => false,
    };
    let probe = if is_open && leads_there {
        // A user of the door may lack access to the builder's socket, or to its certificates.
        match join(direct, through()).await {
            (BuilderProbe::Unreachable(_), probe) => probe,
            (probe, _) => probe,
        }
    } else {
        direct.await
    };
    Some(Probed { address, endpoint, probe })
}
