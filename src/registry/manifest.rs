//! Reads manifests with an HTTP client of our own: `oci-client` reads them into memory without a limit, and a registry may send
//! endlessly.

use std::sync::{Mutex, PoisonError};

use bytes::{Bytes, BytesMut};
use oci_client::errors::{OciDistributionError, OciEnvelope};
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, RegistryOperation};
use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderValue, WWW_AUTHENTICATE};
use reqwest::{Response, StatusCode};

use super::{CONNECT, RegistryError, SILENCE, USER_AGENT};
use crate::image::{Digest, Limits};

/// The media types of an image's root.
const ACCEPTED: &str = "application/vnd.oci.image.index.v1+json, \
                        application/vnd.docker.distribution.manifest.list.v2+json, \
                        application/vnd.oci.image.manifest.v1+json, \
                        application/vnd.docker.distribution.manifest.v2+json";

/// The header with the digest (distribution-spec, "Pulling manifests").
const DIGEST: &str = "docker-content-digest";

/// The longest error body that is read, in bytes.
const REFUSAL_BYTES: u64 = 64 << 10;

/// The client that reads manifests.
#[derive(Debug)]
pub(super) struct Reader {
    client: reqwest::Client,
    scheme: &'static str,
    /// The authorization header, once it is known. Never logged.
    authorization: Mutex<Option<HeaderValue>>,
}

impl Reader {
    pub(super) fn new(is_plain: bool) -> Result<Self, reqwest::Error> {
        let client = reqwest::Client::builder().connect_timeout(CONNECT).read_timeout(SILENCE).user_agent(USER_AGENT);
        let scheme = if is_plain { "http" } else { "https" };
        Ok(Self { client: client.build()?, scheme, authorization: Mutex::default() })
    }

    /// The manifest `of` (`name` in messages), and its verified digest.
    pub(super) async fn read(
        &self,
        (tokens, auth): (&Client, &RegistryAuth),
        of: &oci_client::Reference,
        name: &str,
    ) -> Result<(Bytes, Digest), RegistryError> {
        let refused = |error: OciDistributionError| match RegistryError::new(name, "reading the manifest", &error) {
            RegistryError::Refused { name, is_absent: true, .. } => RegistryError::Absent { name },
            error => error,
        };
        let invalid = |what: String| RegistryError::Invalid { name: name.to_owned(), what };
        let mut response = self.send(of).await.map_err(|error| refused(error.into()))?;
        if response.status() == StatusCode::UNAUTHORIZED {
            let needs_basic = needs_basic(&response);
            let token = tokens.auth(of, auth, RegistryOperation::Pull).await;
            let token = token.map_err(|error| RegistryError::new(name, "authenticating", &error))?;
            let authorization = match (token, auth) {
                (Some(token), _) => Some(format!("Bearer {token}")),
                (None, RegistryAuth::Basic(user, password)) if needs_basic => Some(basic(user, password)),
                _ => None,
            };
            let mut authorization = authorization.and_then(|authorization| HeaderValue::from_str(&authorization).ok());
            if let Some(authorization) = &mut authorization {
                authorization.set_sensitive(true);
            }
            *self.authorization.lock().unwrap_or_else(PoisonError::into_inner) = authorization;
            response = self.send(of).await.map_err(|error| refused(error.into()))?;
        }
        if response.status() != StatusCode::OK {
            return Err(refused(refusal(response).await));
        }
        let reported = response.headers().get(DIGEST).filter(|reported| !reported.is_empty()).cloned();
        let limit = Limits::default().document_bytes;
        let bytes = at_most(response, limit).await.map_err(|error| refused(error.into()))?;
        let bytes = bytes.ok_or_else(|| invalid(format!("its manifest has more than {limit} bytes")))?;
        let parse = |digest: &str| digest.parse::<Digest>();
        let reported = reported.map(|reported| parse(reported.to_str().unwrap_or_default()));
        let reported = reported.transpose().map_err(|_| invalid("the registry gave no valid digest".to_owned()))?;
        let requested = of.digest().map(parse).transpose().map_err(|_| invalid("it has no valid digest".to_owned()))?;
        if let Some(wrong) = requested.iter().chain(&reported).find(|digest| !digest.verify(&bytes)) {
            return Err(invalid(format!("its manifest does not match the digest {wrong}")));
        }
        Ok((bytes.clone(), reported.or(requested).unwrap_or_else(|| Digest::sha256(&bytes))))
    }

    async fn send(&self, of: &oci_client::Reference) -> Result<Response, reqwest::Error> {
        let (scheme, registry, repository) = (self.scheme, of.resolve_registry(), of.repository());
        let reference = of.digest().or(of.tag()).unwrap_or("latest");
        let url = format!("{scheme}://{registry}/v2/{repository}/manifests/{reference}");
        let mut request = self.client.get(url).header(ACCEPT, ACCEPTED);
        let known = self.authorization.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(authorization) = known {
            request = request.header(AUTHORIZATION, authorization);
        }
        request.send().await
    }
}

/// Whether the registry asks for basic authentication instead of a token.
fn needs_basic(response: &Response) -> bool {
    let mut challenges =
        response.headers().get_all(WWW_AUTHENTICATE).iter().filter_map(|challenge| challenge.to_str().ok());
    challenges.any(|challenge| challenge.get(..6).is_some_and(|scheme| scheme.eq_ignore_ascii_case("basic ")))
}

fn basic(user: &str, password: &str) -> String {
    use base64::Engine as _;
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}")))
}

/// The body; `None` if it is longer than `limit`.
async fn at_most(mut response: Response, limit: u64) -> Result<Option<Bytes>, reqwest::Error> {
    if response.content_length().is_some_and(|length| length > limit) {
        return Ok(None);
    }
    let mut bytes = BytesMut::new();
    while let Some(chunk) = response.chunk().await? {
        if (bytes.len() + chunk.len()) as u64 > limit {
            return Ok(None);
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(Some(bytes.freeze()))
}

/// The error of a response with an error status.
async fn refusal(response: Response) -> OciDistributionError {
    let (status, url) = (response.status(), response.url().to_string());
    if status == StatusCode::UNAUTHORIZED {
        return OciDistributionError::UnauthorizedError { url };
    }
    let body = match at_most(response, REFUSAL_BYTES).await {
        Ok(body) => body.unwrap_or_default(),
        Err(error) => return error.into(),
    };
    match serde_json::from_slice::<OciEnvelope>(&body) {
        Ok(envelope) if status.is_client_error() => OciDistributionError::RegistryError { envelope, url },
        _ => {
            let message = String::from_utf8_lossy(&body).into_owned();
            OciDistributionError::ServerError { code: status.as_u16(), url, message }
        }
    }
}
