//! A registry as a place that images are copied from and to: `docker://HOST/NAME:TAG`.
//!
//! `oci-client` speaks the protocol (distribution-spec), and credentials are those of `docker login`. A [`Registry`] is one
//! repository: a [`Source`](crate::source::Source) of its images' blobs, and a place to [push](Registry::push) an image to.

mod credentials;
mod error;
mod push;
mod source;

use std::sync::Once;
use std::time::Duration;

use bytes::Bytes;
use oci_client::client::{ClientConfig, ClientProtocol};
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, RegistryOperation};

use crate::image::{Descriptor, Limits, Reference, media_type_of};

pub use error::RegistryError;
pub use push::Pushed;

/// How long a connection may take to come up.
const CONNECT: Duration = Duration::from_secs(10);

/// How long a registry may be silent: as long as an engine may be.
const SILENCE: Duration = Duration::from_secs(600);

/// What may come as the root of an image.
const ACCEPTED: [&str; 4] = [
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];

/// One repository of a registry.
#[derive(Clone)]
pub struct Registry {
    client: Client,
    image: oci_client::Reference,
    auth: RegistryAuth,
    name: String,
}

impl std::fmt::Debug for Registry {
    // Without the client, which holds credentials.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registry").field("image", &self.name).finish_non_exhaustive()
    }
}

impl Registry {
    /// The repository of `name`, with the credentials that docker's client has for its registry. Nothing is sent yet.
    /// Registries on this host (`localhost`, 127.0.0.0/8, ::1) are spoken to without TLS, as docker and crane do;
    /// `plain_http` says so of any.
    ///
    /// # Errors
    /// When docker's configuration or a credential helper cannot be used.
    pub async fn new(name: &Reference, plain_http: bool) -> Result<Self, RegistryError> {
        install_cryptography();
        let image = reference(name)?;
        let registry = image.resolve_registry().to_owned();
        let auth = credentials::of(image.registry()).await?;
        let protocol = if plain_http || is_local(&registry) { ClientProtocol::Http } else { ClientProtocol::Https };
        let config = ClientConfig {
            protocol,
            // One request with a length for each blob: fewer round trips, and every registry takes it.
            use_monolithic_push: true,
            connect_timeout: Some(CONNECT),
            read_timeout: Some(SILENCE),
            user_agent: concat!("linkspan/", env!("CARGO_PKG_VERSION")),
            ..ClientConfig::default()
        };
        let client = Client::try_from(config).map_err(|error| RegistryError::new(name, "preparing", &error))?;
        Ok(Self { client, image, auth, name: name.to_string() })
    }

    /// What the name stands for in the registry.
    ///
    /// # Errors
    /// When it stands for nothing, for what is no image, or the registry cannot be asked.
    pub async fn resolve(&self) -> Result<Descriptor, RegistryError> {
        let (bytes, digest) = self.manifest(&self.image).await?;
        let invalid = |what: &str| RegistryError::Invalid { name: self.name.clone(), what: what.to_owned() };
        let media_type = media_type_of(&bytes).ok_or_else(|| invalid("it is neither an image index nor a manifest"))?;
        let digest = digest.parse().map_err(|_| invalid("the registry gave no valid digest"))?;
        Ok(Descriptor::new(media_type, digest, bytes.len() as u64))
    }

    /// Makes sure of the permission for what comes next.
    async fn authorize(&self, operation: RegistryOperation) -> Result<(), RegistryError> {
        let authorized = self.client.auth(&self.image, &self.auth, operation).await;
        authorized.map(drop).map_err(|error| RegistryError::new(&self.name, "authenticating", &error))
    }

    async fn manifest(&self, of: &oci_client::Reference) -> Result<(Bytes, String), RegistryError> {
        let read = self.client.pull_manifest_raw(of, &self.auth, &ACCEPTED).await;
        let (bytes, digest) = read.map_err(|error| RegistryError::new(&self.name, "reading the manifest", &error))?;
        if bytes.len() as u64 > Limits::default().document_bytes {
            let what = format!("its manifest has {} bytes", bytes.len());
            return Err(RegistryError::Invalid { name: self.name.clone(), what });
        }
        Ok((bytes, digest))
    }
}

/// The name as `oci-client` has it.
fn reference(name: &Reference) -> Result<oci_client::Reference, RegistryError> {
    let text = name.to_string();
    text.parse().map_err(|error: oci_client::ParseError| RegistryError::Invalid { name: text, what: error.to_string() })
}

/// Whether a registry is on this host.
fn is_local(registry: &str) -> bool {
    let host = registry.rsplit_once(':').map_or(registry, |(host, _)| host);
    host == "localhost" || host == "[::1]" || host.parse::<std::net::Ipv4Addr>().is_ok_and(|ip| ip.is_loopback())
}

/// TLS is that of the whole program: rustls with ring.
fn install_cryptography() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // Refused where whoever embeds us has chosen another one already, which is as good.
        let _ = tokio_rustls::rustls::crypto::ring::default_provider().install_default();
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_registries_of_this_host_are_spoken_to_without_tls() {
        for (registry, expected) in [
            ("localhost", true),
            ("localhost:5000", true),
            ("127.0.0.1:5000", true),
            ("127.1.2.3", true),
            ("[::1]:80", true),
            ("registry.example", false),
            ("localhost.example", false),
            ("10.0.0.1:5000", false),
            ("index.docker.io", false),
        ] {
            assert_eq!(is_local(registry), expected, "{registry}");
        }
    }
}
