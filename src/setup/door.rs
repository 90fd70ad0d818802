//! Finds the docker door for a builder, and the engine behind it, by probing running Linkspans.

use std::ffi::OsString;

use super::SetupError;
use super::record::Record;
use crate::buildx::{Instance, Store, is_same_address};
use crate::config::Config;
use crate::net::Address;
use crate::running::{self, First, Probe, SearchFolders, Socket};
use crate::status::Kind;

/// A docker door.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Door {
    /// Where it listens.
    pub listen: Address,
    /// Where the engine behind it listens.
    pub engine: String,
}

/// The sockets that may be docker doors.
#[derive(Debug)]
pub struct Doors {
    named: Option<Address>,
    /// Where dockerd is expected, if no door says.
    engine: String,
    /// Where the door is expected, if none is open.
    usual: String,
    sockets: Vec<Socket>,
}

impl Doors {
    /// Probes the configured door; without one, the `usual` one and every address that may be a Linkspan's on this machine.
    pub async fn probe(
        config: &Config,
        store: &Store,
        variable: impl Fn(&str) -> Option<OsString>,
        usual: &str,
        folders: &SearchFolders,
    ) -> Self {
        let named = config.docker_door.as_ref().map(|door| door.listen.clone());
        let engine = config.engine.docker_address().to_string();
        let addresses = match &named {
            Some(listen) => vec![(listen.clone(), First::Http1)],
            None => {
                let first = [usual, &engine].into_iter();
                let first = first.filter_map(|address| Some((address.parse().ok()?, First::Http1)));
                first.chain(running::known(config, Some(store), variable, folders)).collect()
            }
        };
        Self { named, engine, usual: usual.to_owned(), sockets: running::find(addresses).await }
    }

    /// The door for `builder`: the configured one, else one that it goes through or whose engine it uses, else any open one. To
    /// undo what was done, also one that was closed since.
    ///
    /// # Errors
    /// When the address is no docker door.
    pub fn of(&self, store: &Store, builder: &Instance, undo: bool) -> Result<Door, SetupError> {
        if let Some(listen) = &self.named {
            return self.named(listen);
        }
        let addresses: Vec<_> = builder.nodes.iter().map(|node| store.address(&node.endpoint)).collect();
        let goes_to = |place: &str| addresses.iter().any(|address| is_same_address(address, place));
        let open = self.sockets.iter().filter_map(|socket| {
            let status = socket.status().filter(|status| status.door.kind == Kind::Docker)?;
            Some(Door { listen: socket.address.clone(), engine: status.engine.address.clone() })
        });
        let open: Vec<_> = open.collect();
        let through = open.iter().find(|door| goes_to(&door.listen.to_string()));
        if through.is_none()
            && undo
            && let Some(listen) = self.closed_since(store, builder)?
        {
            return Ok(Door { listen, engine: self.engine.clone() });
        }
        let found = through.or_else(|| open.iter().find(|door| goes_to(&door.engine))).or_else(|| open.first());
        match found {
            Some(door) => Ok(door.clone()),
            None => {
                let listen = self.usual.parse().map_err(SetupError::Door)?;
                Ok(Door { listen, engine: self.engine.clone() })
            }
        }
    }

    /// Where a node of `builder` goes that was sent through a door, if nobody listens there now.
    fn closed_since(&self, store: &Store, builder: &Instance) -> Result<Option<Address>, SetupError> {
        let lock = store.lock()?;
        let record = Record::read(&lock, &builder.name)?;
        let sent = builder.nodes.iter().filter(|node| record.endpoint(&node.name).is_some());
        let addresses = sent.filter_map(|node| store.address(&node.endpoint).parse::<Address>().ok());
        let is_closed = |address: &Address| {
            let found = self.sockets.iter().find(|socket| socket.address == *address);
            found.is_some_and(|socket| socket.probe == Probe::Closed)
        };
        Ok(addresses.into_iter().find(is_closed))
    }

    fn named(&self, listen: &Address) -> Result<Door, SetupError> {
        let door = |engine: &String| Door { listen: listen.clone(), engine: engine.clone() };
        let wrong = |what: String| SetupError::NoDoor { address: listen.to_string(), what };
        match self.sockets.iter().find(|socket| socket.address == *listen).map(|socket| &socket.probe) {
            Some(Probe::Linkspan(status)) if status.door.kind == Kind::Docker => Ok(door(&status.engine.address)),
            Some(Probe::Linkspan(status)) => Err(wrong(format!("is a Linkspan's {} door", status.door.kind.name()))),
            Some(Probe::Reserved) => Err(wrong("is a Linkspan's registry door".to_owned())),
            Some(Probe::OtherProgram) => Err(wrong("belongs to another program (or to an older Linkspan)".to_owned())),
            Some(Probe::Silent) => Err(SetupError::Silent { address: listen.to_string() }),
            Some(Probe::Tls) => Err(wrong("has TLS, which docker doors do not have".to_owned())),
            // Undo works with a closed door; the caller reports it otherwise.
            Some(Probe::Closed | Probe::Denied) | None => Ok(door(&self.engine)),
        }
    }
}
