//! The doors: those that are configured, and those that are open besides.

use super::door::{Door, State};
use super::engine::door_of;
use super::heard;
use super::report::{Check, Mark, Remedy};
use crate::buildx::is_same_address;
use crate::config::{Config, Setting};
use crate::net::Address;
use crate::running::{Answer, Socket};
use crate::status::Kind;

/// All doors, without what is behind them. A builder that is a door itself needs none before it.
pub(super) fn gather(config: &Config, sockets: &[Socket]) -> Vec<Door> {
    let configured = |kind: Kind, listen: &Address, plain_is_load: bool| Door {
        kind,
        listen: listen.clone(),
        state: state(kind, listen, sockets),
        builder: None,
        plain_is_load,
        is_configured: true,
    };
    let mut doors = Vec::new();
    for builder in config.builders.iter().filter(|builder| door_of(&builder.endpoint, sockets).is_none()) {
        doors.push(configured(Kind::Buildkit, &builder.listen, builder.plain_is_load));
    }
    doors.extend(config.docker_door.iter().map(|door| configured(Kind::Docker, &door.listen, door.plain_is_load)));
    doors.extend(config.export_listen.iter().map(|listen| configured(Kind::Export, listen, false)));
    for door in &mut doors {
        // What runs is what counts.
        if let Some(is_load) = door.status().map(|status| status.plain_is_load()) {
            door.plain_is_load = is_load;
        }
    }
    for socket in sockets {
        let Some(status) = socket.status() else { continue };
        let listen = socket.address.to_string();
        if doors.iter().any(|door| is_same_address(&door.listen.to_string(), &listen)) {
            continue;
        }
        doors.push(Door {
            kind: status.door.kind,
            listen: socket.address.clone(),
            state: State::Open(Box::new(status.clone())),
            builder: None,
            plain_is_load: status.plain_is_load(),
            is_configured: false,
        });
    }
    doors
}

/// Who is where a door of `kind` is to listen.
fn state(kind: Kind, listen: &Address, sockets: &[Socket]) -> State {
    // The system chooses a port for 0, so that nobody can be there.
    let Some(socket) = heard(sockets, &listen.to_string()) else { return State::Closed };
    match &socket.answer {
        Answer::Linkspan(status) if status.door.kind == kind => State::Open(status.clone()),
        Answer::Linkspan(status) => State::Other(status.door.kind),
        Answer::Stranger => State::Taken,
        Answer::Closed => State::Closed,
        Answer::Denied => State::Denied,
    }
}

/// What there is to say of a door.
pub(super) fn check(door: &Door) -> Check {
    let Door { kind, listen, .. } = door;
    let what = format!("{} door", kind.name());
    let check = |mark, found, remedy| Check { about: "door", mark, found, remedy };
    let flag = match kind {
        Kind::Docker => Setting::DockerListen,
        Kind::Export => Setting::ExportListen,
        _ => Setting::BuildkitListen,
    };
    let elsewhere = || Some(Remedy::Words(format!("choose another address for it with --{}", flag.name())));
    match &door.state {
        State::Open(status) => {
            let behind = status
                .builder()
                .filter(|behind| door.builder.as_ref().is_some_and(|configured| configured.address != behind.address));
            match behind {
                Some(behind) => {
                    let found = format!("{what} open at {listen}, but for another builder: {}", behind.address);
                    check(Mark::Note, found, elsewhere())
                }
                None => check(Mark::Ok, format!("{what} open at {listen}"), None),
            }
        }
        State::Other(other) => {
            let found = format!("{what} cannot be opened at {listen}: that is the {} door of a Linkspan", other.name());
            check(Mark::Fail, found, elsewhere())
        }
        State::Taken => {
            let found =
                format!("{what} cannot be opened at {listen}: another program listens there (or an older Linkspan)");
            let remedy = format!("stop it, or choose another address with --{}", flag.name());
            check(Mark::Fail, found, Some(Remedy::Words(remedy)))
        }
        State::Closed => {
            let remedy = "`linkspan serve` with the same settings opens it";
            check(Mark::Note, format!("{what} not open at {listen}"), Some(Remedy::Words(remedy.to_owned())))
        }
        State::Denied => {
            let remedy = "run this as root, or as a member of the socket's group";
            let found = format!("{what} at {listen} cannot be asked: permission denied");
            check(Mark::Note, found, Some(Remedy::Words(remedy.to_owned())))
        }
    }
}
