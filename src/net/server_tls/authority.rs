//! An authority of our own, and the certificates that it signs.
//!
//! ```text
//! FOLDER/authority.pem   its certificate and its key, mode 0600: made once, as one file, so that they always fit
//! FOLDER/ca.crt          its certificate, for clients
//! ```
//!
//! Certificates of listeners are made anew at every start and every few weeks, for the names of this machine and the address that
//! the client has connected to; they and their keys are in memory only. Clients trust the authority, which stays.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::server::{ClientHello, ResolvesServerCert};
use tokio_rustls::rustls::sign::CertifiedKey;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::{ServerTlsError, doubts, fingerprint};
use crate::{pem, plain_file};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// How long the authority is valid.
const AUTHORITY_LIFE: Duration = Duration::from_secs(20 * 365 * 24 * 60 * 60);
/// How long a certificate is valid, and how long it is used.
const CERTIFICATE_LIFE: (Duration, Duration) =
    (Duration::from_secs(90 * 24 * 60 * 60), Duration::from_secs(30 * 24 * 60 * 60));
const SECRET: &str = "authority.pem";
const PUBLIC: &str = "ca.crt";

/// An authority.
pub(super) struct Authority {
    public: PathBuf,
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
    names: Vec<String>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").field("public", &self.public).field("names", &self.names).finish_non_exhaustive()
    }
}

/// One certificate, whatever the client asks for.
#[derive(Debug)]
pub(super) struct Always(pub(super) Arc<CertifiedKey>);

impl ResolvesServerCert for Always {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }
}

/// The file with the key of the authority in `folder`.
pub(super) fn secret(folder: &Path) -> PathBuf {
    folder.join(SECRET)
}

impl Authority {
    /// The authority in `folder`, which is made if there is none; its certificates are for `names`, too.
    pub(super) fn open(folder: &Path, names: Vec<String>) -> Result<Self, ServerTlsError> {
        let (secret, public) = (folder.join(SECRET), folder.join(PUBLIC));
        let failed = |path: &Path, reason: String| {
            ServerTlsError {
            hint: Some("name a folder that can be written to with --listen-tls-dir, or a certificate with --listen-tls-cert and --listen-tls-key".to_owned()),
            ..ServerTlsError::new("authority for generated certificates", path, reason)
        }
        };
        let made = fs::DirBuilder::new().recursive(true).mode(0o755).create(folder);
        made.map_err(|error| failed(folder, error.to_string()))?;
        if let Some(reason) = doubts::of_folder(folder) {
            tracing::warn!("{reason}");
        }
        if !secret.exists() {
            create(folder, &secret).map_err(|error| failed(&secret, error.to_string()))?;
        }
        let damaged = |reason: String| ServerTlsError {
            hint: Some(format!(
                "remove {}, and a new authority is made, which clients must be given again",
                secret.display()
            )),
            ..failed(&secret, reason)
        };
        let mode = secret.metadata().map_err(|error| failed(&secret, error.to_string()))?.mode();
        if mode & 0o077 != 0 {
            let hint = Some(format!("chmod 600 {}", secret.display()));
            let reason = format!("it has a key, and its mode is {:o}; expected 600", mode & 0o777);
            return Err(ServerTlsError { hint, ..failed(&secret, reason) });
        }
        let text =
            plain_file::read_text(&secret, pem::MAX_BYTES).map_err(|error| failed(&secret, error.to_string()))?;
        let certificate = pem::certificates_in(text.as_bytes()).map_err(damaged)?.swap_remove(0);
        let key = pem::private_key_in(text.as_bytes()).map_err(damaged)?;
        let key = KeyPair::try_from(&key).map_err(|error| damaged(error.to_string()))?;
        let issuer = Issuer::from_ca_cert_der(&certificate, key).map_err(|error| damaged(error.to_string()))?;
        match X509Certificate::from_der(certificate.as_ref()) {
            Ok((_, parsed)) if parsed.validity().is_valid() => {}
            Ok(_) => return Err(damaged("it has expired, or this machine's clock is wrong".to_owned())),
            Err(error) => return Err(damaged(error.to_string())),
        }
        let shown = pem_of(&text).ok_or_else(|| damaged("it has no certificate".to_owned()))?;
        if plain_file::read_text(&public, pem::MAX_BYTES).ok().as_deref() != Some(shown) {
            publish(folder, &public, shown).map_err(|error| failed(&public, error.to_string()))?;
        }
        Ok(Self { public, certificate, issuer, names: of_this_machine(names) })
    }

    /// What clients are to trust.
    pub(super) fn describe(&self) -> Vec<String> {
        let (public, fingerprint) = (self.public.display(), fingerprint(&self.certificate));
        vec![
            format!("TLS certificates of listeners are signed by the authority in {public} (sha256 {fingerprint})"),
            format!(
                "hint: give it to clients, for docker as /etc/docker/certs.d/HOST:PORT/ca.crt; they are valid for {}",
                self.names.join(", ")
            ),
        ]
    }

    /// A new certificate for the names of this machine and `address`, and until when it is used.
    pub(super) fn issue(
        &self,
        address: IpAddr,
    ) -> Result<(Arc<CertifiedKey>, Instant), Box<dyn std::error::Error + Send + Sync>> {
        let mut names = self.names.clone();
        let address = address.to_canonical().to_string();
        if !names.contains(&address) {
            names.push(address);
        }
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name = named("linkspan");
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let now = SystemTime::now();
        (params.not_before, params.not_after) = ((now - DAY).into(), (now + CERTIFICATE_LIFE.0).into());
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        let private = PrivateKeyDer::try_from(key.serialize_der())?;
        let certified = CertifiedKey::from_der(vec![certificate.der().clone()], private, &ring::default_provider())?;
        Ok((Arc::new(certified), Instant::now() + CERTIFICATE_LIFE.1))
    }
}

/// Makes an authority, unless another process is quicker.
fn create(folder: &Path, secret: &Path) -> io::Result<()> {
    let key = KeyPair::generate().map_err(io::Error::other)?;
    let mut params = CertificateParams::new(Vec::new()).map_err(io::Error::other)?;
    params.distinguished_name = named(&format!("linkspan on {}", host_name()));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    let now = SystemTime::now();
    (params.not_before, params.not_after) = ((now - DAY).into(), (now + AUTHORITY_LIFE).into());
    let certificate = params.self_signed(&key).map_err(io::Error::other)?;
    // Its mode is 0600 from the beginning (tempfile's default).
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all((certificate.pem() + &key.serialize_pem()).as_bytes())?;
    file.as_file().sync_all()?;
    match file.persist_noclobber(secret) {
        Err(error) if error.error.kind() != io::ErrorKind::AlreadyExists => return Err(error.error),
        _ => {}
    }
    File::open(folder)?.sync_all()
}

/// Writes the certificate for clients.
fn publish(folder: &Path, public: &Path, text: &str) -> io::Result<()> {
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(text.as_bytes())?;
    file.as_file().set_permissions(fs::Permissions::from_mode(0o644))?;
    file.persist(public)?;
    Ok(())
}

/// The certificate in a PEM file, as text.
fn pem_of(text: &str) -> Option<&str> {
    const END: &str = "-----END CERTIFICATE-----";
    let start = text.find("-----BEGIN CERTIFICATE-----")?;
    let end = start + text[start..].find(END)? + END.len();
    text.get(start..=end)
}

fn named(name: &str) -> DistinguishedName {
    let mut names = DistinguishedName::new();
    names.push(DnType::CommonName, name);
    names
}

fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// `names` and those by which this machine's own clients reach it.
fn of_this_machine(names: Vec<String>) -> Vec<String> {
    let own = [host_name(), "localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
    let mut all: Vec<String> = Vec::new();
    for name in names.into_iter().chain(own) {
        let is_usable = name.parse::<IpAddr>().is_ok() || rustls_pki_types::DnsName::try_from(name.as_str()).is_ok();
        if is_usable && !all.contains(&name) {
            all.push(name);
        }
    }
    all
}
