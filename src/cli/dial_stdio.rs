//! `linkspan dial-stdio`.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::thread;

use clap::Args;

use super::daemon::doors;
use super::{CommandError, block_on, engine};
use crate::config::{DEFAULT_EXPORT_LISTEN, Layer};
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

impl DialStdio {
    pub(super) fn run(self) -> Result<ExitCode, CommandError> {
        let address = self.address.map_or_else(found, Ok)?;
        let failed = |source| CommandError::Dial { address: address.to_string(), source };
        // Without the buffers of the standard library, which are for text.
        let input = File::from(io::stdin().as_fd().try_clone_to_owned().map_err(failed)?);
        let output = File::from(io::stdout().as_fd().try_clone_to_owned().map_err(failed)?);
        match &address {
            Address::Unix(path) => {
                let stream = UnixStream::connect(path).map_err(failed)?;
                let (reader, writer) = (stream.try_clone().map_err(failed)?, stream);
                relay((input, output), reader, writer, |writer| writer.shutdown(Shutdown::Write)).map_err(failed)?;
            }
            Address::Tcp { host, port } if address.is_local() => {
                let stream = TcpStream::connect((host.as_str(), *port)).map_err(failed)?;
                stream.set_nodelay(true).map_err(failed)?;
                let (reader, writer) = (stream.try_clone().map_err(failed)?, stream);
                relay((input, output), reader, writer, |writer| writer.shutdown(Shutdown::Write)).map_err(failed)?;
            }
            Address::Tcp { .. } => {
                let reason = "it is on another machine; expected `unix:///path`, a path, or `tcp://` on this one";
                return Err(failed(io::Error::new(io::ErrorKind::InvalidInput, reason)));
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Copies both ways until the daemon closes its half. The end of the input closes only the other one.
fn relay<W: Write + Send + 'static>(
    (mut input, mut output): (File, File),
    mut reader: impl Read,
    mut writer: W,
    close: impl FnOnce(&W) -> io::Result<()> + Send + 'static,
) -> io::Result<()> {
    // It is not waited for: it may be in a read that never ends.
    thread::spawn(move || {
        // A daemon that reads no more may still respond; one that is gone ends the other direction.
        let _ = copy(&mut input, &mut writer);
        let _ = close(&writer);
    });
    copy(&mut reader, &mut output)
}

fn copy(from: &mut impl Read, to: &mut impl Write) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => to.write_all(&buffer[..count])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// The exporter API of this machine's configuration, or of a daemon that runs here.
fn found() -> Result<Address, CommandError> {
    let config = engine::beside_contexts(Layer::default())?;
    if let Some(listen) = config.export_listen {
        return Ok(listen);
    }
    let doors = block_on(doors(&config))?;
    match doors.into_iter().find(|(_, kind)| *kind == Kind::Export) {
        Some((address, _)) => Ok(address),
        // A constant; a test parses it.
        None => DEFAULT_EXPORT_LISTEN.parse::<Address>().map_err(|error| CommandError::Address(error.into())),
    }
}
