//! Streams between this process and others: how an upstream is reached, and the identity of a client.
//!
//! Independent of the protocols on the streams.
//!
//! ```
//! use linkspan::net::Address;
//!
//! let address: Address = "unix:///run/linkspan/export.sock".parse()?;
//! assert!(address.is_local());
//! # Ok::<(), linkspan::net::AddressError>(())
//! ```

mod address;
mod at_path;
mod attended;
mod command;
mod connection;
mod counted;
mod counted_dial;
mod dial;
mod drain;
mod end_reason;
mod linked_close;
mod occasional;
mod person;
mod principal;
mod server_tls;
mod silent;
mod socket_access;
mod ssh;
mod stream_failure;
mod tls_alert;
mod unix_socket;
mod upstream;
mod verification;
mod watched;

pub use address::{Address, AddressError};
pub(crate) use at_path::AtPath;
pub(crate) use attended::Attended;
pub use command::CommandStream;
pub use connection::Connection;
pub use counted::{BUILDERS, ConnectionCount, Counted, ENGINES, OpenConnection};
pub use counted_dial::CountedDial;
pub use dial::{Dial, DialError};
pub use drain::{Call, Drain, IDLE, KindGuard, Metered};
pub(crate) use end_reason::{EndReason, with_causes};
pub use linked_close::CloseWith;
pub(crate) use linked_close::EofSignal;
pub(crate) use occasional::Occasional;
pub(crate) use person::with_person;
pub use principal::Principal;
pub use server_tls::{ServerCertificate, ServerTls, ServerTlsError, ServerTlsSettings, TlsRules};
pub(crate) use silent::silent_remedy;
pub(crate) use socket_access::Barrier;
pub use ssh::{SshAddress, SshAddressError, SshDial, SshError};
pub use stream_failure::{CommandError, StreamFailure};
pub(crate) use unix_socket::connect_unix;
pub(crate) use upstream::enlarge;
pub use upstream::{Stream, Tls, Upstream, UpstreamError};
pub(crate) use watched::Watched;
