//! The daemon that a command connects to, and what listens at its address instead if that fails.

use std::pin::pin;
use std::time::Duration;

use tokio::time::timeout;
use tonic::Code;

use super::CommandError;
use crate::buildx::Store;
use crate::config::{Config, Layer, ProcessEnvironment};
use crate::engine::EngineError;
use crate::engine::remote::{self, Connected, Daemon, DaemonAddress, Login};
use crate::net::{Address, AddressError, Barrier};
use crate::registry::docker_login;
use crate::running::{self, First, Probe, SearchFolders, probe, probe_with_tls, program};
use crate::status::{Kind, Status};

/// How long a daemon of this machine may take for its first response until it is looked whether it responds at all. That
/// takes some seconds more, and one that only has much to do is waited for.
const PATIENCE: Duration = Duration::from_secs(3);

/// Connects to a daemon. If that fails, the error says what listens there instead.
pub(super) async fn daemon_at(daemon: &Daemon) -> Result<Connected, CommandError> {
    match logging_in(daemon, async |daemon| remote::connect(daemon).await).await {
        Ok(connected) => Ok(connected),
        Err(error) => Err(explain(daemon, error).await),
    }
}

/// Calls `daemon`; once more with the password that docker's client has for its address, if it wants to know who calls.
pub(super) async fn logging_in<T>(
    daemon: &Daemon,
    call: impl AsyncFn(&Daemon) -> Result<T, EngineError>,
) -> Result<T, EngineError> {
    let refused = match unless_silent(daemon, call(daemon)).await {
        Err(error @ EngineError::Rpc { code: Code::Unauthenticated, .. }) if daemon.login.is_none() => error,
        called => return called,
    };
    let DaemonAddress::Socket(address @ Address::Tcp { .. }) = &daemon.address else { return Err(refused) };
    // `HOST:PORT`, in which docker writes IPv6 in brackets, too.
    match docker_login(address.to_string().trim_start_matches("tcp://")).await {
        Ok(Some((user, password))) => {
            call(&Daemon { login: Some(Box::new(Login { user, password })), ..daemon.clone() }).await
        }
        Ok(None) => Err(refused),
        Err(error) => {
            tracing::warn!(%error, "the daemon asks for a password");
            Err(refused)
        }
    }
}

/// Awaits a first call of `daemon`, unless that accepts connections and says nothing to anybody.
async fn unless_silent<T>(
    Daemon { address, tls, .. }: &Daemon,
    call: impl Future<Output = Result<T, EngineError>>,
) -> Result<T, EngineError> {
    // A network, and a person who is asked by ssh, may take longer.
    let DaemonAddress::Socket(address) = address else { return call.await };
    if !address.is_local() {
        return call.await;
    }
    let mut call = pin!(call);
    if let Ok(called) = timeout(PATIENCE, &mut call).await {
        return called;
    }
    let look = async {
        match tls {
            Some(tls) => probe_with_tls(address, tls).await,
            None => probe(address, First::Http2).await,
        }
    };
    let found = tokio::select! {
        called = &mut call => return called,
        found = look => found,
    };
    match found {
        Probe::Silent => Err(EngineError::NoAnswer { address: address.to_string() }),
        _ => call.await,
    }
}

/// What it means that a call of the exporter API of `daemon` failed with `error`.
pub(super) async fn explain(Daemon { address, tls, .. }: &Daemon, error: EngineError) -> CommandError {
    let DaemonAddress::Socket(address) = address else { return error.into() };
    // All is known.
    if matches!(error, EngineError::NoAnswer { .. }) {
        return error.into();
    }
    match (probe(address, First::Http2).await, address) {
        (Probe::Linkspan(status), _) if status.door.kind != Kind::Export => wrong_door(&status),
        (Probe::Reserved, _) => {
            let kind = Kind::Registry.name();
            CommandError::WrongDoor { address: address.to_string(), kind, export: export_door().await }
        }
        (Probe::Denied, Address::Unix(path)) => {
            CommandError::Denied { address: address.to_string(), barrier: Barrier::before(path) }
        }
        (Probe::Tls, _) if tls.is_none() && matches!(error, EngineError::Daemon { .. }) => {
            CommandError::HasTls { address: address.to_string() }
        }
        // What is asked without TLS says nothing of a server that has TLS.
        (Probe::Silent, _) if tls.is_none() && matches!(error, EngineError::Daemon { .. }) => {
            EngineError::NoAnswer { address: address.to_string() }.into()
        }
        (Probe::OtherProgram, _) if tls.is_none() && matches!(error, EngineError::Daemon { .. }) => {
            let (program, export) = (program(address).await, export_door().await);
            CommandError::NoDoor { address: address.to_string(), program, export }
        }
        _ => error.into(),
    }
}

fn wrong_door(status: &Status) -> CommandError {
    let export = status.doors.iter().find(|door| door.kind == Kind::Export);
    CommandError::WrongDoor {
        address: status.door.address.clone(),
        kind: status.door.kind.name(),
        export: export.map(|door| door.address.clone()),
    }
}

/// The doors of the daemons that run here, as the doctor finds them.
pub(super) async fn doors(config: &Config) -> Vec<(Address, Kind)> {
    let variable = |name: &str| std::env::var_os(name);
    let users = Store::find(variable);
    let known = running::known(config, users.as_ref(), variable, &SearchFolders::new(variable));
    let sockets = running::find(known).await;
    sockets.iter().filter_map(|socket| Some((socket.address.clone(), socket.status()?.door.kind))).collect()
}

/// Where the exporter API is expected where no daemon was found.
pub(super) fn usual_export() -> Result<Address, CommandError> {
    let usual = Config::default_export_listen(&ProcessEnvironment).ok_or(CommandError::NoDaemon)?;
    usual.parse().map_err(|error: AddressError| CommandError::Address(error.into()))
}

/// Where the exporter API of a daemon that runs here listens.
async fn export_door() -> Option<String> {
    let config = Config::load(Layer::default(), &ProcessEnvironment).ok()?;
    let doors = doors(&config).await;
    doors.iter().find(|(_, kind)| *kind == Kind::Export).map(|(address, _)| address.to_string())
}
