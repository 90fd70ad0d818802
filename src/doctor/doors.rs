//! The configured doors, and other open ones.

use super::door::{Door, DoorState};
use super::engine::door_of;
use super::report::{Check, Mark, Remedy};
use super::socket_at;
use crate::buildx::is_same_address;
use crate::config::{Builder, Config, ProcessEnvironment, Setting};
use crate::net::{Address, Barrier, silent_remedy};
use crate::running::{Probe, Socket};
use crate::status::{Kind, Status};

/// All doors, without their builders. A builder whose address is a door gets no door of its own, and neither does one that has
/// an open door elsewhere, unless an address was asked for.
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
    let usual = Config::usual_doors(&ProcessEnvironment).buildkit;
    let has_other_door = |builder: &Builder| {
        let is_usual = builder.listen.to_string() == usual;
        let listed = || sockets.iter().filter_map(Socket::status).filter_map(Status::builder);
        let endpoint = builder.endpoint.to_string();
        is_usual
            && state(Kind::Buildkit, &builder.listen, sockets) == DoorState::Closed
            && listed().any(|listed| is_same_address(&listed.address, &endpoint))
    };
    let builders = config.builders.iter().filter(|builder| door_of(&builder.endpoint, sockets).is_none());
    for builder in builders.filter(|builder| !has_other_door(builder)) {
        doors.push(configured(Kind::Buildkit, &builder.listen, builder.outputs.plain_is_load));
    }
    doors.extend(
        config.docker_door.iter().map(|door| configured(Kind::Docker, &door.listen, door.outputs.plain_is_load)),
    );
    doors.extend(config.export_listen.iter().map(|listen| configured(Kind::Export, listen, false)));
    doors.extend(config.registry_door.iter().map(|door| configured(Kind::Registry, &door.listen, false)));
    for door in &mut doors {
        // The running door's setting counts.
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
            state: DoorState::Open(Box::new(status.clone())),
            builder: None,
            plain_is_load: status.plain_is_load(),
            is_configured: false,
        });
    }
    doors
}

/// What was found where a door of `kind` listens.
fn state(kind: Kind, listen: &Address, sockets: &[Socket]) -> DoorState {
    // Port 0 is any free port: nothing can listen there yet.
    let Some(socket) = socket_at(sockets, &listen.to_string()) else { return DoorState::Closed };
    match &socket.probe {
        Probe::Linkspan(status) if status.door.kind == kind => DoorState::Open(status.clone()),
        Probe::Linkspan(status) => DoorState::Other(status.door.kind),
        Probe::Reserved if kind == Kind::Registry => DoorState::Reserved,
        Probe::Reserved => DoorState::Other(Kind::Registry),
        Probe::OtherProgram => DoorState::Taken,
        Probe::Silent => DoorState::Silent,
        Probe::Tls => DoorState::Tls,
        Probe::Closed => DoorState::Closed,
        Probe::Denied => DoorState::Denied,
    }
}

/// The check of a door.
pub(super) fn check(door: &Door) -> Check {
    let Door { kind, listen, .. } = door;
    let what = format!("{} door", kind.name());
    let check = |mark, found, remedy| Check { about: "door", mark, found, remedy };
    let flag = match kind {
        Kind::Docker => Setting::DockerListen,
        Kind::Export => Setting::ExportListen,
        Kind::Registry => Setting::RegistryListen,
        _ => Setting::BuildkitListen,
    };
    let elsewhere = || Some(Remedy::Words(format!("choose another address for it with --{}", flag.name())));
    match &door.state {
        DoorState::Open(status) => {
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
        DoorState::Reserved => {
            check(Mark::Ok, format!("{what} open at {listen}; it says more only to its users"), None)
        }
        DoorState::Other(other) => {
            let found = format!("{what} cannot be opened at {listen}: that is the {} door of a Linkspan", other.name());
            check(Mark::Fail, found, elsewhere())
        }
        DoorState::Taken => {
            let found =
                format!("{what} cannot be opened at {listen}: another program listens there (or an older Linkspan)");
            let remedy = format!("stop it, or choose another address with --{}", flag.name());
            check(Mark::Fail, found, Some(Remedy::Words(remedy)))
        }
        DoorState::Silent => {
            let found = format!("{what} does not answer at {listen}: what listens there is stopped or overloaded");
            check(Mark::Fail, found, Some(Remedy::Words(silent_remedy(&listen.to_string()))))
        }
        DoorState::Tls => {
            let found = format!("{what} at {listen} cannot be asked: a server with TLS listens there, which may be it");
            check(Mark::Note, found, None)
        }
        DoorState::Closed => {
            let remedy = "`linkspan serve` with the same settings opens it";
            check(Mark::Note, format!("{what} not open at {listen}"), Some(Remedy::Words(remedy.to_owned())))
        }
        DoorState::Denied => {
            let barrier = Barrier::at(&listen.to_string());
            let found = format!("{what}: no permission to ask at {listen}{barrier}");
            check(Mark::Note, found, Some(Remedy::Words(barrier.remedy())))
        }
    }
}

/// The checks of where `running` Linkspans serve metrics, and of where they are `configured` to be served.
pub(super) fn metrics_checks(running: &[&Status], configured: Option<&Address>) -> Vec<Check> {
    let open: Vec<_> = running.iter().filter_map(|status| status.metrics.as_deref()).collect();
    let check = |mark, found, remedy| Check { about: "door", mark, found, remedy };
    let mut checks: Vec<_> =
        open.iter().map(|listen| check(Mark::Ok, format!("metrics served at {listen}"), None)).collect();
    let configured = configured.map(ToString::to_string);
    checks.extend(configured.filter(|listen| !open.iter().any(|open| is_same_address(open, listen))).map(|listen| {
        let remedy = "`linkspan serve` with the same settings serves them";
        check(Mark::Note, format!("metrics not served at {listen}"), Some(Remedy::Words(remedy.to_owned())))
    }));
    checks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_listed_where_they_are_served_or_should_be() {
        let status = |metrics: Option<&str>| -> Status {
            let door = serde_json::json!({"kind": "docker", "address": "unix:///d"});
            let status = serde_json::json!({"version": "1", "instance": "i", "door": door, "metrics": metrics});
            serde_json::from_value(status).unwrap()
        };
        let (open, none) = (status(Some("tcp://127.0.0.1:9464")), status(None));
        let listen: Address = "tcp://127.0.0.1:9464".parse().unwrap();
        let found = |running: &[&Status], configured| {
            let checks = metrics_checks(running, configured);
            checks.into_iter().map(|check| (check.mark, check.found)).collect::<Vec<_>>()
        };
        let served = (Mark::Ok, "metrics served at tcp://127.0.0.1:9464".to_owned());
        assert_eq!(found(&[&open, &none], None), std::slice::from_ref(&served));
        assert_eq!(found(&[&open], Some(&listen)), [served]);
        let missing = (Mark::Note, "metrics not served at tcp://127.0.0.1:9464".to_owned());
        assert_eq!(found(&[&none], Some(&listen)), [missing]);
        assert_eq!(found(&[&none], None), []);
    }
}
