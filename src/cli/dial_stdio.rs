//! `linkspan dial-stdio`.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{IpAddr, TcpStream};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use std::{sync::Arc, thread};

use clap::Args;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{Shutdown, shutdown};

use super::daemon::{doors, usual_export};
use super::{CommandError, block_on, engine};
use crate::config::Layer;
use crate::net::Address;
use crate::status::Kind;

/// Relays standard input and output to the socket of a daemon of this host; what `--to ssh://HOST` runs there.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub(super) struct DialStdio {
    /// The socket, as a path or `unix:///path` [env: LINKSPAN_EXPORT_LISTEN] [default: what the configuration file says, else
    /// the exporter API of a daemon that runs here, as `linkspan doctor` finds it]
    #[arg(value_name = "ADDR")]
    address: Option<Address>,
}

const EXAMPLES: &str = "\
Examples:
  What another host's commands run by themselves, given an ssh address:
    linkspan load -i image.tar --to ssh://user@host
    linkspan images --to ssh://user@host:2222/run/linkspan/export.sock
  The same by hand:
    ssh user@host linkspan dial-stdio /run/linkspan/export.sock

Exit code: 0 when the daemon closed the connection, 1 when it could not be
reached or the connection broke, 2 for a wrong command line.";

/// How much is read at once: what a pipe holds.
const CHUNK: usize = 64 << 10;

/// What a client of HTTP/2 sends first (RFC 9113, section 3.4). A server sends its settings at once.
const HTTP2: &[u8] = b"PRI * HTTP/2.0";
/// How long a server of HTTP/2 may take for that: as long as a daemon on a socket of this machine is waited for.
const LIMIT: Duration = Duration::from_secs(30);
/// How often that is looked at.
const LOOK: Duration = Duration::from_millis(500);

impl DialStdio {
    pub(super) fn run(self) -> Result<ExitCode, CommandError> {
        let address = self.address.map_or_else(found, Ok)?;
        let failed = |source| CommandError::Dial { address: address.to_string(), source };
        // Without the buffers of the standard library, which are for text.
        let input = File::from(io::stdin().as_fd().try_clone_to_owned().map_err(failed)?);
        let output = File::from(io::stdout().as_fd().try_clone_to_owned().map_err(failed)?);
        let socket = match &address {
            Address::Unix(path) => UnixStream::connect(path).map_err(failed)?.into(),
            Address::Tcp { host, port } if is_here(&address) => {
                let stream = TcpStream::connect((host.as_str(), *port)).map_err(failed)?;
                stream.set_nodelay(true).map_err(failed)?;
                stream.into()
            }
            Address::Tcp { .. } => return Err(CommandError::DialElsewhere { address: address.to_string() }),
        };
        relay((input, output), socket, LIMIT).map_err(failed)?;
        Ok(ExitCode::SUCCESS)
    }
}

/// What is known of the direction to the daemon.
#[derive(Debug, Default)]
struct Sending {
    /// When the daemon was first spoken to in HTTP/2.
    asked: OnceLock<Instant>,
    /// When nothing more was to be sent.
    ended: OnceLock<Instant>,
    /// Whether the daemon took nothing for too long.
    is_stuck: AtomicBool,
}

impl Sending {
    /// Whether a daemon that is spoken to in HTTP/2, and said something last at `heard`, has been silent for longer than `limit`
    /// where it had to respond: at the beginning, with its settings; at the end, by closing; and always by taking what is sent, for
    /// what it cannot use it refuses by flow control.
    fn is_in_vain(&self, heard: Option<Instant>, limit: Duration) -> bool {
        let Some(asked) = self.asked.get() else { return false };
        let end = self.ended.get().map(|ended| heard.map_or(*ended, |heard| heard.max(*ended)));
        let waits_since = if heard.is_none() { Some(*asked) } else { end };
        self.is_stuck.load(Ordering::Relaxed) || waits_since.is_some_and(|since| since.elapsed() >= limit)
    }
}

/// Copies both ways until the daemon closes its half. The end of the input closes only the other one. A daemon that is spoken to
/// in HTTP/2 has to respond within `limit`.
fn relay((mut input, mut output): (File, File), socket: OwnedFd, limit: Duration) -> io::Result<()> {
    let (mut writer, options) = (File::from(socket.try_clone()?), socket.try_clone()?);
    let mut reader = File::from(socket);
    let sending = Arc::<Sending>::default();
    let noting = sending.clone();
    // It is not waited for: it may be in a read that never ends.
    thread::spawn(move || {
        let copied = copy(&mut input, &mut writer, |first| {
            if first.starts_with(HTTP2) {
                noting.asked.get_or_init(Instant::now);
                // Without it a daemon that is stopped would be waited for; the option is there for every socket.
                let _ = set_socket_timeout(&options, Timeout::Send, Some(limit));
            }
        });
        // A daemon that reads no more may still respond; one that is gone ends the other direction.
        noting.is_stuck.store(copied.is_err_and(|error| is_late(&error)), Ordering::Relaxed);
        noting.ended.get_or_init(Instant::now);
        let _ = shutdown(&writer, Shutdown::Write);
    });
    set_socket_timeout(&reader, Timeout::Recv, Some(LOOK.min(limit)))?;
    let (mut buffer, mut heard) = (vec![0; CHUNK], None);
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => {
                output.write_all(&buffer[..count])?;
                heard = Some(Instant::now());
            }
            Err(error) if is_late(&error) => {
                if sending.is_in_vain(heard, limit) {
                    let reason = format!("no response within {} s", limit.as_secs());
                    return Err(io::Error::new(io::ErrorKind::TimedOut, reason));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Whether a socket's own time limit ended a read or a write.
fn is_late(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// Copies to the end. `begin` sees the first bytes, after they were written.
fn copy(from: &mut impl Read, to: &mut impl Write, begin: impl FnOnce(&[u8])) -> io::Result<()> {
    let (mut buffer, mut begin) = (vec![0; CHUNK], Some(begin));
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => {
                to.write_all(&buffer[..count])?;
                if let Some(begin) = begin.take() {
                    begin(&buffer[..count]);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Whether an address leads to this machine: that of all its interfaces does, too.
fn is_here(address: &Address) -> bool {
    let is_any = |host: &str| host.parse::<IpAddr>().is_ok_and(|host| host.is_unspecified());
    address.is_local() || matches!(address, Address::Tcp { host, .. } if is_any(host))
}

/// The exporter API of this machine's configuration, or of a daemon that runs here.
fn found() -> Result<Address, CommandError> {
    let config = engine::beside_contexts(Layer::default())?;
    if let Some(listen) = config.export_listen {
        // ssh has its own encryption, and who relays has no certificates.
        if config.security.has_tls(&listen) {
            let reason = "it has TLS, which is not relayed; name a socket without, as in `ssh://HOST/path/of/socket`";
            let source = io::Error::new(io::ErrorKind::InvalidInput, reason);
            return Err(CommandError::Dial { address: listen.to_string(), source });
        }
        return Ok(listen);
    }
    match preferred(block_on(doors(&config))?) {
        Some(address) => Ok(address),
        None => usual_export(),
    }
}

/// The first exporter API, on a unix socket if there is one: that has neither TLS nor passwords.
fn preferred(doors: Vec<(Address, Kind)>) -> Option<Address> {
    let exports = doors.into_iter().filter(|(_, kind)| *kind == Kind::Export).map(|(address, _)| address);
    exports.min_by_key(|address| !matches!(address, Address::Unix(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_preferred_and_other_doors_are_none() {
        let door = |address: &str, kind| (address.parse().unwrap(), kind);
        let (tcp, unix) = (door("tcp://127.0.0.1:1", Kind::Export), door("unix:///run/a.sock", Kind::Export));
        let docker = door("unix:///run/docker.sock", Kind::Docker);
        let last = door("unix:///run/b.sock", Kind::Export);
        assert_eq!(preferred(vec![docker.clone(), tcp.clone(), unix.clone(), last]), Some(unix.0));
        assert_eq!(preferred(vec![docker.clone(), tcp.clone()]), Some(tcp.0));
        assert_eq!(preferred(vec![docker]), None);
    }

    #[test]
    fn a_daemon_that_is_asked_in_http2_and_says_nothing_is_not_waited_for() {
        let relayed = |request: &'static [u8], limit| {
            let ((near, far), (input, mut asking)) = (UnixStream::pair().unwrap(), UnixStream::pair().unwrap());
            let (output, mut told) = UnixStream::pair().unwrap();
            let files = (File::from(OwnedFd::from(input)), File::from(OwnedFd::from(output)));
            asking.write_all(request).unwrap();
            let relaying = thread::spawn(move || relay(files, near.into(), limit));
            (far, asking, relaying, move || {
                let mut text = String::new();
                told.read_to_string(&mut text).map(|_| text)
            })
        };
        let (_far, _asking, relaying, _told) = relayed(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Duration::from_millis(1));
        assert_eq!(relaying.join().unwrap().unwrap_err().to_string(), "no response within 0 s");
        // Nor one that takes nothing more, or does not close when all has been said.
        let relayed_after_settings = |fill: bool| {
            let (mut far, mut asking, relaying, mut told) =
                relayed(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Duration::from_millis(300));
            far.write_all(b"settings").unwrap();
            if fill {
                // More than the buffers of both sockets hold; the relay ends in the middle of it.
                let _ = asking.write_all(&vec![0; 64 << 20]);
            }
            drop(asking);
            let error = relaying.join().unwrap().unwrap_err().to_string();
            (far, error, told().unwrap())
        };
        for fill in [true, false] {
            let (_far, error, told) = relayed_after_settings(fill);
            assert_eq!((&*error, &*told), ("no response within 0 s", "settings"), "{fill}");
        }
        // Other protocols may take their time, and what has begun, too.
        let (mut far, _asking, relaying, mut told) = relayed(b"GET / HTTP/1.1\r\n\r\n", Duration::from_millis(1));
        // What is left unread would reset the connection at its end.
        far.read_exact(&mut [0; 18]).unwrap();
        thread::sleep(Duration::from_millis(50));
        far.write_all(b"late, ").unwrap();
        thread::sleep(Duration::from_millis(50));
        far.write_all(b"and later").unwrap();
        drop(far);
        relaying.join().unwrap().unwrap();
        assert_eq!(told().unwrap(), "late, and later");
    }

    #[test]
    fn all_interfaces_of_this_machine_are_here() {
        for (address, expected) in [
            ("tcp://0.0.0.0:1", true),
            ("tcp://[::]:1", true),
            ("tcp://127.0.0.1:1", true),
            ("unix:///run/a.sock", true),
            ("tcp://192.0.2.1:1", false),
            ("tcp://host:1", false),
        ] {
            assert_eq!(is_here(&address.parse().unwrap()), expected, "{address}");
        }
    }
}
