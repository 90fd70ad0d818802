//! TLS towards a daemon on another machine.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;

use crate::engine::remote::{Daemon, DaemonAddress};
use crate::net::{Address, Tls};

/// The flags of TLS towards a daemon.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct ClientTls {
    /// PEM file of the authority that signed the certificate of the daemon at `tcp://HOST:PORT`, such as the `ca.crt` of its
    /// --listen-tls-dir [env: LINKSPAN_TO_TLS_CA]
    #[arg(long, value_name = "FILE", help_heading = "Engine")]
    tls_ca: Option<String>,

    /// PEM file of the certificate to show to that daemon [env: LINKSPAN_TO_TLS_CERT]
    #[arg(long, value_name = "FILE", help_heading = "Engine", hide_short_help = true)]
    tls_cert: Option<String>,

    /// PEM file of that certificate's key [env: LINKSPAN_TO_TLS_KEY]
    #[arg(long, value_name = "FILE", help_heading = "Engine", hide_short_help = true)]
    tls_key: Option<String>,

    /// The name in the daemon's certificate, if it is not the host of its address [env: LINKSPAN_TO_TLS_SERVER_NAME]
    #[arg(long, value_name = "NAME", help_heading = "Engine", hide_short_help = true)]
    tls_server_name: Option<String>,
}

impl ClientTls {
    /// The daemon at `address`, with the TLS of the flags or else of the environment. Only TCP has one.
    pub(super) fn of(&self, address: DaemonAddress) -> Daemon {
        if !matches!(address, DaemonAddress::Socket(Address::Tcp { .. })) {
            return Daemon { address, tls: None, login: None };
        }
        let given = |flag: &Option<String>, variable: &str| {
            let variable = || std::env::var_os(variable).filter(|text| !text.is_empty());
            flag.as_ref().map(OsString::from).or_else(variable)
        };
        let ca = given(&self.tls_ca, "LINKSPAN_TO_TLS_CA").map(PathBuf::from);
        let cert = given(&self.tls_cert, "LINKSPAN_TO_TLS_CERT").map(PathBuf::from);
        let key = given(&self.tls_key, "LINKSPAN_TO_TLS_KEY").map(PathBuf::from);
        let server_name = given(&self.tls_server_name, "LINKSPAN_TO_TLS_SERVER_NAME");
        let server_name = server_name.map(|name| name.to_string_lossy().into_owned());
        let is_given = [&ca, &cert, &key].iter().any(|path| path.is_some()) || server_name.is_some();
        let tls = is_given.then_some(Tls { ca, cert, key, server_name, skip_verify: false });
        Daemon { address, tls, login: None }
    }

    /// The flags that were given, by their names.
    pub(super) fn flags(&self) -> [(&str, Option<&str>); 4] {
        [
            ("tls-ca", self.tls_ca.as_deref()),
            ("tls-cert", self.tls_cert.as_deref()),
            ("tls-key", self.tls_key.as_deref()),
            ("tls-server-name", self.tls_server_name.as_deref()),
        ]
    }
}
