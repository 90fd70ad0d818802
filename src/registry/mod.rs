//! Copies images from and to a registry: `docker://HOST/NAME:TAG`.
//!
//! `oci-client` speaks the protocol (distribution-spec), and credentials are those of `docker login`. A [`Registry`] is one
//! repository: a [`Source`](crate::source::Source) of its images' blobs, and a target to [push](Registry::push) to.
//!
//! ```no_run
//! # async fn read() -> Result<(), Box<dyn std::error::Error>> {
//! use linkspan::image::Limits;
//! use linkspan::registry::Registry;
//! use linkspan::source::{OnMissing, read_graph};
//!
//! let registry = Registry::new(&"registry.example/app:1".parse()?, false).await?;
//! let graph = read_graph(&registry, registry.resolve().await?, Limits::default(), OnMissing::Stop).await?;
//! println!("{} documents", graph.documents().len());
//! # Ok(())
//! # }
//! ```

mod credentials;
mod error;
mod manifest;
mod push;
mod source;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Once};
use std::time::Duration;

use bytes::Bytes;
use oci_client::client::{ClientConfig, ClientProtocol};
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, RegistryOperation};

use crate::image::{Descriptor, Digest, Reference, media_type_of};
use manifest::Reader;

pub use error::RegistryError;
pub use push::Pushed;

/// The time limit for connecting.
const CONNECT: Duration = Duration::from_secs(10);

/// How long a registry may be silent: as long as an engine.
const SILENCE: Duration = Duration::from_secs(600);

const USER_AGENT: &str = concat!("linkspan/", env!("CARGO_PKG_VERSION"));

/// One repository of a registry.
#[derive(Clone)]
pub struct Registry {
    client: Client,
    manifests: Arc<Reader>,
    image: oci_client::Reference,
    auth: RegistryAuth,
    name: String,
}

impl std::fmt::Debug for Registry {
    // Leaves out the client, which has credentials.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registry").field("image", &self.name).finish_non_exhaustive()
    }
}

impl Registry {
    /// The repository of `name`, with docker's credentials for its registry. Sends nothing yet. Registries on this host
    /// (`localhost`, 127.0.0.0/8, ::1) are used without TLS, as by docker and crane; with `plain_http` any registry is.
    ///
    /// # Errors
    /// When docker's configuration or a credential helper cannot be used.
    pub async fn new(name: &Reference, plain_http: bool) -> Result<Self, RegistryError> {
        install_cryptography();
        let image = reference(name)?;
        let registry = image.resolve_registry().to_owned();
        let auth = credentials::of(image.registry()).await?;
        let is_plain = plain_http || is_local(&registry);
        let protocol = if is_plain { ClientProtocol::Http } else { ClientProtocol::Https };
        let config = ClientConfig {
            protocol,
            // One request with a length for each blob: fewer round trips, and every registry accepts it.
            use_monolithic_push: true,
            connect_timeout: Some(CONNECT),
            read_timeout: Some(SILENCE),
            user_agent: USER_AGENT,
            ..ClientConfig::default()
        };
        let refused = |error| RegistryError::new(name, "preparing", &error);
        let client = Client::try_from(config).map_err(refused)?;
        // The first request may also be for a blob.
        client.store_auth_if_needed(&registry, &auth).await;
        let manifests = Arc::new(Reader::new(is_plain).map_err(|error| refused(error.into()))?);
        Ok(Self { client, manifests, image, auth, name: name.to_string() })
    }

    /// The root that the name points to in the registry.
    ///
    /// # Errors
    /// When the name does not exist, points to no image, or the registry cannot be queried.
    pub async fn resolve(&self) -> Result<Descriptor, RegistryError> {
        let (bytes, digest) = self.manifest(&self.image).await?;
        let invalid = |what: &str| RegistryError::Invalid { name: self.name.clone(), what: what.to_owned() };
        let media_type = media_type_of(&bytes).ok_or_else(|| invalid("it is neither an image index nor a manifest"))?;
        Ok(Descriptor::new(media_type, digest, bytes.len() as u64))
    }

    /// Gets a token for the following requests.
    async fn authorize(&self, operation: RegistryOperation) -> Result<(), RegistryError> {
        let authorized = self.client.auth(&self.image, &self.auth, operation).await;
        authorized.map(drop).map_err(|error| RegistryError::new(&self.name, "authenticating", &error))
    }

    /// A manifest of the repository, and its digest.
    async fn manifest(&self, of: &oci_client::Reference) -> Result<(Bytes, Digest), RegistryError> {
        self.manifests.read((&self.client, &self.auth), of, &self.name).await
    }
}

/// The user and the password that docker's client has for the server at `HOST:PORT`: in its configuration, or by a credential
/// helper that is named there.
///
/// # Errors
/// When docker's configuration or a credential helper cannot be used.
pub async fn docker_login(server: &str) -> Result<Option<(String, String)>, RegistryError> {
    Ok(match credentials::of(server).await? {
        RegistryAuth::Basic(user, password) => Some((user, password)),
        _ => None,
    })
}

/// The name as a reference of `oci-client`.
fn reference(name: &Reference) -> Result<oci_client::Reference, RegistryError> {
    let text = name.to_string();
    text.parse().map_err(|error: oci_client::ParseError| RegistryError::Invalid { name: text, what: error.to_string() })
}

/// Whether a registry is on this host.
fn is_local(registry: &str) -> bool {
    let host = registry.rsplit_once(':').map_or(registry, |(host, _)| host);
    host == "localhost" || host == "[::1]" || host.parse::<std::net::Ipv4Addr>().is_ok_and(|ip| ip.is_loopback())
}

/// Installs the TLS provider of the whole program: rustls with ring.
pub(crate) fn install_cryptography() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // Fails if the embedding program has installed another provider, which is used instead.
        let _ = tokio_rustls::rustls::crypto::ring::default_provider().install_default();
    });
}
