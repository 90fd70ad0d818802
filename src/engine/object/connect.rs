//! The client of a bucket, by the variables that other tools read as well.

use std::fmt;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::signer::Signer;
use object_store::{BackoffConfig, ClientConfigKey, Error, ObjectStore, RetryConfig};

use super::address::{BucketAddress, Provider};
use super::bucket::{Bucket, Objects};
use super::failure::describe;
use crate::engine::EngineError;
use crate::plain_file;

/// How long one request may take: a part of 16 MiB at 2 Mbit/s.
const REQUEST: &str = "75 seconds";
/// How long connecting may take.
const CONNECT: &str = "5 seconds";
/// How often a request is repeated, and until how long after its beginning.
const RETRIES: (usize, Duration) = (6, Duration::from_secs(90));
/// How long to wait before the second repetition at most; they double from 100 ms on.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// The variables whose values the client takes for URLs: it panics at some that are none.
const URLS: [&str; 9] = [
    "AWS_ENDPOINT_URL_S3",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT",
    "AWS_ENDPOINT_URL_STS",
    "AWS_METADATA_ENDPOINT",
    "AZURE_STORAGE_ENDPOINT",
    "AZURE_ENDPOINT",
    "AZURE_MSI_ENDPOINT",
    "GOOGLE_BASE_URL",
];

/// The variables that name files with credentials, which the client reads in the way of all requests.
const FILES: [&str; 6] = [
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
    "AZURE_FEDERATED_TOKEN_FILE",
    "GOOGLE_SERVICE_ACCOUNT",
    "GOOGLE_SERVICE_ACCOUNT_PATH",
    "GOOGLE_APPLICATION_CREDENTIALS",
];

const SCHEME: &str = "give it as http://HOST:PORT or https://HOST:PORT";
const NO_AUTHORITIES: &str = "install them (package ca-certificates), mount /etc/ssl/certs into the container, or name a file of \
                              them with SSL_CERT_FILE";
const PLAIN: &str = "an endpoint without TLS must be allowed: set AWS_ALLOW_HTTP=true if the network to it is trusted";

/// Variables of the client of an object store, among them secrets.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct ObjectVariables(Vec<(String, String)>);

impl From<Vec<(String, String)>> for ObjectVariables {
    fn from(variables: Vec<(String, String)>) -> Self {
        Self(variables)
    }
}

impl fmt::Debug for ObjectVariables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(name, _)| name)).finish()
    }
}

/// The variables of this process.
fn of_process() -> Vec<(String, String)> {
    let text = |(key, value): (std::ffi::OsString, std::ffi::OsString)| {
        Some((key.into_string().ok()?, value.into_string().ok()?))
    };
    std::env::vars_os().filter_map(text).collect()
}

/// A client of a store, and what signs URLs with its credentials.
struct Client {
    objects: Arc<dyn Objects>,
    signer: Option<Arc<dyn Signer>>,
}

impl Client {
    /// `unsigned` is the setting by which a client uses no credentials.
    fn new<T: Objects + Signer>(store: T, unsigned: Option<String>) -> Self {
        let store = Arc::new(store);
        let is_anonymous = unsigned.is_some_and(|text| matches!(&*text, "1" | "true" | "yes" | "on" | "y"));
        let signer = (!is_anonymous).then(|| store.clone() as Arc<dyn Signer>);
        Self { objects: store, signer }
    }
}

fn retry() -> RetryConfig {
    let backoff = BackoffConfig { max_backoff: LONGEST_PAUSE, ..BackoffConfig::default() };
    RetryConfig { backoff, max_retries: RETRIES.0, retry_timeout: RETRIES.1 }
}

/// Opens the bucket at `address`; sends nothing. `variables` count before those of the process.
pub(super) fn open(address: &BucketAddress, variables: &ObjectVariables) -> Result<Bucket, EngineError> {
    with(address, &variables.with_those_of_process())
}

/// The store of the bucket at `address`, for other uses than an engine's.
pub(crate) fn open_store(
    address: &BucketAddress,
    variables: &ObjectVariables,
) -> Result<Arc<dyn ObjectStore>, EngineError> {
    Ok(client(address, &variables.with_those_of_process())?.objects)
}

impl ObjectVariables {
    fn with_those_of_process(&self) -> Vec<(String, String)> {
        let mut all = self.0.clone();
        all.extend(of_process().into_iter().filter(|(name, _)| self.0.iter().all(|(own, _)| own != name)));
        all
    }
}

fn with(address: &BucketAddress, variables: &[(String, String)]) -> Result<Bucket, EngineError> {
    let Client { objects, signer } = client(address, variables)?;
    Ok(Bucket::new(objects, &address.to_string(), &address.prefix).with_signer(signer))
}

fn client(address: &BucketAddress, variables: &[(String, String)]) -> Result<Client, EngineError> {
    crate::registry::install_cryptography();
    let text = address.to_string();
    let refused =
        |reason: String, hint| EngineError::Object { operation: "opening", object: text.clone(), reason, hint };
    let prefix = match address.provider {
        Provider::Amazon => "AWS_",
        Provider::Google => "GOOGLE_",
        Provider::Azure => "AZURE_",
    };
    check_urls(variables, prefix).map_err(|(name, url)| {
        refused(format!("the endpoint `{url}` needs http:// or https:// and a host ({name})"), Some(SCHEME))
    })?;
    for (name, file) in variables.iter().filter(|(name, _)| name.starts_with(prefix) && FILES.contains(&name.as_str()))
    {
        plain_file::check_if_there(Path::new(file))
            .map_err(|error| refused(format!("{name} is `{file}`: {error}"), None))?;
    }
    let objects = match address.provider {
        Provider::Amazon => {
            check_plain(variables)
                .map_err(|endpoint| refused(format!("the endpoint {endpoint} has no TLS"), Some(PLAIN)))?;
            amazon(&address.bucket, variables)
        }
        Provider::Google => google(&address.bucket, variables),
        Provider::Azure => azure(&address.bucket, variables),
    };
    objects.map_err(|error| {
        let has_none = rustls_native_certs::load_native_certs().certs.is_empty();
        let (reason, hint) = match has_none {
            true => ("this system has no certificate authorities".to_owned(), Some(NO_AUTHORITIES)),
            false => (describe(&error), None),
        };
        refused(reason, hint)
    })
}

/// Fails with the first of the variables that begin with `prefix` whose value is to be a URL, and is none.
fn check_urls<'a>(variables: &'a [(String, String)], prefix: &str) -> Result<(), (&'a str, &'a str)> {
    let is_url = |text: &str| {
        let has_scheme = ["http://", "https://"].iter().any(|scheme| text.starts_with(scheme));
        has_scheme && reqwest::Url::parse(text).is_ok_and(|url| url.has_host()) && text.parse::<http::Uri>().is_ok()
    };
    let urls = variables.iter().filter(|(name, _)| name.starts_with(prefix) && URLS.contains(&name.as_str()));
    match urls.filter(|(_, text)| !text.is_empty()).find(|(_, text)| !is_url(text)) {
        Some((name, text)) => Err((name, text)),
        None => Ok(()),
    }
}

/// The endpoint of Amazon's protocol that `variables` name, if it has no TLS.
fn plain_endpoint(variables: &[(String, String)]) -> Option<&str> {
    let value = |name: &str| variables.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
    let endpoint = ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"].into_iter().find_map(value);
    endpoint.filter(|endpoint| endpoint.starts_with("http://"))
}

/// Fails with the endpoint if that has no TLS and nobody allowed it.
fn check_plain(variables: &[(String, String)]) -> Result<(), String> {
    let allowed = variables.iter().find(|(key, _)| key == "AWS_ALLOW_HTTP");
    let is_allowed = allowed.is_some_and(|(_, text)| matches!(text.as_str(), "1" | "true" | "yes" | "on"));
    plain_endpoint(variables).filter(|_| !is_allowed).map_or(Ok(()), |endpoint| Err(endpoint.to_owned()))
}

/// Whether somebody between us and `endpoint` could change what we send.
fn has_between(endpoint: &str) -> bool {
    let url = reqwest::Url::parse(endpoint).ok();
    let host = url.as_ref().and_then(reqwest::Url::host_str).unwrap_or_default();
    let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
    !address.map_or(host == "localhost", |address| address.is_loopback())
}

/// Those of `variables` that begin with `prefix` and mean something to the client.
fn settings<'a, K: std::str::FromStr>(
    variables: &'a [(String, String)],
    prefix: &'a str,
) -> impl Iterator<Item = (K, &'a str)> {
    let given = variables.iter().filter(move |(key, value)| key.starts_with(prefix) && !value.is_empty());
    given.filter_map(|(key, value)| Some((key.to_ascii_lowercase().parse().ok()?, value.as_str())))
}

fn amazon(bucket: &str, variables: &[(String, String)]) -> Result<Client, Error> {
    let mut builder = AmazonS3Builder::new()
        .with_config(AmazonS3ConfigKey::Client(ClientConfigKey::Timeout), REQUEST)
        .with_config(AmazonS3ConfigKey::Client(ClientConfigKey::ConnectTimeout), CONNECT)
        // What nobody can change on its way need not be hashed for its signature, by us and by the store once more: we hash
        // it for its digest.
        .with_unsigned_payload(!plain_endpoint(variables).is_some_and(has_between));
    for (key, value) in settings(variables, "AWS_") {
        builder = builder.with_config(key, value);
    }
    let unsigned = builder.get_config_value(&AmazonS3ConfigKey::SkipSignature);
    Ok(Client::new(builder.with_bucket_name(bucket).with_retry(retry()).build()?, unsigned))
}

fn google(bucket: &str, variables: &[(String, String)]) -> Result<Client, Error> {
    let mut builder = GoogleCloudStorageBuilder::new()
        .with_config(GoogleConfigKey::Client(ClientConfigKey::Timeout), REQUEST)
        .with_config(GoogleConfigKey::Client(ClientConfigKey::ConnectTimeout), CONNECT);
    for (key, value) in settings(variables, "GOOGLE_") {
        builder = builder.with_config(key, value);
    }
    let unsigned = builder.get_config_value(&GoogleConfigKey::SkipSignature);
    Ok(Client::new(builder.with_bucket_name(bucket).with_retry(retry()).build()?, unsigned))
}

fn azure(container: &str, variables: &[(String, String)]) -> Result<Client, Error> {
    let mut builder = MicrosoftAzureBuilder::new()
        .with_config(AzureConfigKey::Client(ClientConfigKey::Timeout), REQUEST)
        .with_config(AzureConfigKey::Client(ClientConfigKey::ConnectTimeout), CONNECT);
    for (key, value) in settings(variables, "AZURE_") {
        builder = builder.with_config(key, value);
    }
    let unsigned = builder.get_config_value(&AzureConfigKey::SkipSignature);
    Ok(Client::new(builder.with_container_name(container).with_retry(retry()).build()?, unsigned))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(address: &str, variables: &[(&str, &str)]) -> Result<Bucket, EngineError> {
        let variables: Vec<_> = variables.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        with(&address.parse().unwrap(), &variables)
    }

    #[tokio::test]
    async fn urls_are_signed_where_there_are_credentials() {
        let keys = [("AWS_ACCESS_KEY_ID", "id"), ("AWS_SECRET_ACCESS_KEY", "secret"), ("AWS_REGION", "eu-north-1")];
        let signed = open("s3://bucket/x", &keys).unwrap().url("key").await.unwrap().unwrap();
        assert!(signed.secret().contains("/x/key?") && signed.secret().contains("X-Amz-Signature="), "{signed:?}");
        let anonymous = [&keys[..], &[("AWS_SKIP_SIGNATURE", "true")]].concat();
        assert_eq!(open("s3://bucket/x", &anonymous).unwrap().url("key").await.unwrap(), None);
    }

    #[test]
    fn every_provider_has_a_client() {
        let azure = [("AZURE_STORAGE_ACCOUNT_NAME", "account"), ("AZURE_STORAGE_ACCOUNT_KEY", "a2V5")];
        assert_eq!(open("s3://bucket/x", &[("AWS_REGION", "eu-north-1")]).unwrap().address(), "s3://bucket/x");
        assert_eq!(open("gs://bucket", &[]).unwrap().address(), "gs://bucket");
        assert_eq!(open("az://container", &azure).unwrap().address(), "az://container");
        let error = open("az://container", &[]).unwrap_err();
        assert!(error.to_string().contains("az://container"), "{error}");
    }

    #[test]
    fn credentials_are_in_regular_files() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().to_str().unwrap();
        for name in FILES {
            let address = match &name[..2] {
                "AW" => "s3://bucket",
                "AZ" => "az://container",
                _ => "gs://bucket",
            };
            let error = open(address, &[(name, folder)]).unwrap_err().to_string();
            assert!(error.contains(&format!("{name} is `{folder}`: it is a folder")), "{error}");
        }
    }

    #[test]
    fn an_endpoint_without_tls_must_be_allowed() {
        let plain = ("AWS_ENDPOINT_URL", "http://127.0.0.1:9000");
        let error = open("s3://bucket", &[plain]).unwrap_err();
        assert!(error.to_string().contains("http://127.0.0.1:9000"), "{error}");
        assert!(error.hint().unwrap().contains("AWS_ALLOW_HTTP"));
        open("s3://bucket", &[plain, ("AWS_ALLOW_HTTP", "true")]).unwrap();
    }

    #[test]
    fn what_somebody_could_change_on_its_way_is_signed() {
        for (endpoint, expected) in [
            ("http://127.0.0.1:9000", false),
            ("http://[::1]:9000", false),
            ("http://localhost:9000/", false),
            ("http://10.0.0.1", true),
            ("http://localhost.example", true),
            ("http://[2001:db8::1]:9000", true),
        ] {
            assert_eq!(has_between(endpoint), expected, "{endpoint}");
        }
        let plain = |text: &str| vec![("AWS_ENDPOINT_URL".to_owned(), text.to_owned())];
        assert_eq!(plain_endpoint(&plain("https://10.0.0.1")), None);
        assert_eq!(plain_endpoint(&plain("http://10.0.0.1")), Some("http://10.0.0.1"));
    }

    #[test]
    fn an_endpoint_needs_a_scheme_and_a_host() {
        let azure = [("AZURE_STORAGE_ACCOUNT_NAME", "account"), ("AZURE_STORAGE_ACCOUNT_KEY", "a2V5")];
        for text in ["127.0.0.1:39000", "localhost", "ftp://host", "http://", "https://a b", "/x"] {
            for name in URLS {
                let address = match &name[..2] {
                    "AW" => "s3://bucket",
                    "AZ" => "az://container",
                    _ => "gs://bucket",
                };
                let error = open(address, &[azure[0], azure[1], (name, text)]).unwrap_err().to_string();
                assert!(error.contains(text) && error.contains("http://") && error.contains(name), "{error}");
            }
        }
        open("s3://bucket", &[("AWS_ENDPOINT_URL", ""), ("AZURE_ENDPOINT", "no matter here")]).unwrap();
    }
}
