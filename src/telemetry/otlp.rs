//! Where spans go, as the variables of OpenTelemetry say (OpenTelemetry specification, "Environment Variable Specification" and
//! "OpenTelemetry Protocol Exporter"). Endpoints, headers, sampler and resource are read by the library; without an endpoint
//! nothing is sent.

use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use http::{HeaderName, HeaderValue, Request, Response, Uri};
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{
    ExporterBuildError, Protocol, SpanExporter, WithExportConfig, WithHttpConfig, WithTonicConfig,
};
use tonic::transport::ClientTlsConfig;

use super::variables::{Variables, pairs};
use crate::registry::install_cryptography;
use crate::{pem, plain_file};

/// How long a request may take unless a variable says otherwise, in milliseconds (OpenTelemetry Protocol Exporter), and at most.
const DEFAULT_TIMEOUT: u64 = 10_000;
const MAX_TIMEOUT: u64 = 600_000;
/// The longest response of a collector that is read.
const MAX_RESPONSE: usize = 64 << 10;

/// Where spans go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) endpoint: String,
    pub(super) protocol: Protocol,
    /// How long one request may take.
    pub(super) limit: Duration,
    /// Whom an `https://` collector's certificate must be signed by, instead of one of the system's authorities.
    authority: Option<PemFile>,
    /// Our certificate and its key, for a collector that asks its clients for one.
    identity: Option<(PemFile, PemFile)>,
    /// Headers of a list that is discarded as a whole, which the library sends in part.
    discarded: Vec<String>,
}

/// A PEM file, and the variable that names it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct PemFile {
    variable: &'static str,
    path: PathBuf,
}

/// Why the variables cannot be followed.
#[derive(Debug, thiserror::Error)]
pub(super) enum OtlpError {
    /// An endpoint that is none. Its value is not shown, for it may have a password in it.
    #[error("{variable} is not the URL of a collector; expected `http://HOST:PORT` or `https://HOST:PORT`")]
    Endpoint { variable: &'static str },
    /// A file of certificates, or of a key, that cannot be used.
    #[error("{variable} is `{path}`: {reason}", path = path.display())]
    Pem { variable: &'static str, path: PathBuf, reason: String },
    /// A certificate without its key, or a key without its certificate.
    #[error(
        "{variable} is set alone; expected a certificate and its key, in ..._CLIENT_CERTIFICATE and ..._CLIENT_KEY"
    )]
    Half { variable: &'static str },
    /// The exporter refused an endpoint, a header or another variable.
    #[error(transparent)]
    Exporter(#[from] ExporterBuildError),
    /// The HTTP client cannot be made.
    #[error("the HTTP client for traces cannot be made: {}", innermost(.0))]
    Client(#[from] reqwest::Error),
}

/// Reads the variables. `None` if nothing is to be sent.
pub(super) fn target(variables: &Variables) -> Result<Option<Target>, OtlpError> {
    let is_off = variables.flag("OTEL_SDK_DISABLED") | !variables.is_exported();
    let names = ["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"];
    let protocol = match variables.choice(names, &["grpc", "http/protobuf"]) {
        Some("grpc") => Protocol::Grpc,
        _ => Protocol::HttpBinary,
    };
    // The library sends what is not compressed where it cannot do it.
    variables.choice(["OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", "OTEL_EXPORTER_OTLP_COMPRESSION"], &["none"]);
    let limits = ["OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT"];
    let limit = limits.into_iter().find_map(|name| variables.number(name, 1..=MAX_TIMEOUT));
    let limit = Duration::from_millis(limit.unwrap_or(DEFAULT_TIMEOUT));
    let discarded = discarded_headers(variables);
    let endpoint = variables.first(["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"]);
    let Some((variable, endpoint)) = endpoint.filter(|_| !is_off) else { return Ok(None) };
    let is_url = endpoint.parse::<Uri>().is_ok_and(|url| {
        matches!(url.scheme_str(), Some("http" | "https")) && url.host().is_some_and(|host| !host.is_empty())
    });
    if !is_url {
        return Err(OtlpError::Endpoint { variable });
    }
    let endpoint = endpoint.to_owned();
    let file = |of_traces, of_all| {
        let found = variables.first([of_traces, of_all]);
        found.map(|(variable, path)| PemFile { variable, path: PathBuf::from(path) })
    };
    let authority = file("OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE", "OTEL_EXPORTER_OTLP_CERTIFICATE");
    let certificate = file("OTEL_EXPORTER_OTLP_TRACES_CLIENT_CERTIFICATE", "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE");
    let key = file("OTEL_EXPORTER_OTLP_TRACES_CLIENT_KEY", "OTEL_EXPORTER_OTLP_CLIENT_KEY");
    let identity = match (certificate, key) {
        (Some(certificate), Some(key)) => Some((certificate, key)),
        (None, None) => None,
        (Some(PemFile { variable, .. }), None) | (None, Some(PemFile { variable, .. })) => {
            return Err(OtlpError::Half { variable });
        }
    };
    Ok(Some(Target { endpoint, protocol, limit, authority, identity, discarded }))
}

/// The names in a list of headers that cannot be read: all of it is discarded, and none of it is shown.
fn discarded_headers(variables: &Variables) -> Vec<String> {
    let names = ["OTEL_EXPORTER_OTLP_TRACES_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS"];
    let Some((variable, list)) = variables.first(names) else { return Vec::new() };
    let read = pairs(list).and_then(|pairs| {
        let is_header = |(name, value): &(String, String)| {
            HeaderName::try_from(name.as_str()).is_ok() && HeaderValue::try_from(value.as_str()).is_ok()
        };
        match pairs.iter().position(|pair| !is_header(pair)) {
            Some(index) => Err(format!("header {} is none of HTTP", index + 1)),
            None => Ok(()),
        }
    });
    let Err(reason) = read else { return Vec::new() };
    variables.warn(format!("{variable} is ignored: {reason}; expected `NAME=VALUE,NAME=VALUE`, percent-encoded"));
    list.split(',').filter_map(|entry| Some(entry.split_once('=')?.0.trim().to_ascii_lowercase())).collect()
}

/// The last cause of an error: what HTTP clients say themselves is where it happened.
fn innermost(error: &dyn std::error::Error) -> String {
    std::iter::successors(Some(error), |error| error.source()).last().map(ToString::to_string).unwrap_or_default()
}

impl PemFile {
    /// The bytes of a file with authorities.
    fn authorities(&self) -> Result<Vec<u8>, OtlpError> {
        self.read(|text| pem::authorities_in(text).map(drop)).map(|(bytes, ())| bytes)
    }

    /// The bytes of a file with a certificate, and those of its key's.
    fn identity(&self, key: &Self) -> Result<[Vec<u8>; 2], OtlpError> {
        let (key_bytes, private) = key.read(pem::private_key_in)?;
        let of_key = |reason: String| format!("{reason} ({}: `{}`)", key.variable, pem::shown(&key.path).display());
        let check = |text: &[u8]| pem::certified(pem::certificates_in(text)?, private.clone_key()).map_err(of_key);
        let (bytes, _) = self.read(check)?;
        Ok([bytes, key_bytes])
    }

    /// The file's bytes, if `check` finds in them what is expected: what the clients say of others names no file.
    fn read<T>(&self, check: impl Fn(&[u8]) -> Result<T, String>) -> Result<(Vec<u8>, T), OtlpError> {
        let Self { variable, path } = self;
        let bytes = plain_file::read(path, pem::MAX_BYTES).map_err(|error| error.to_string());
        let checked = bytes.and_then(|bytes| check(&bytes).map(|found| (bytes, found)));
        checked.map_err(|reason| OtlpError::Pem { variable, path: pem::shown(path), reason })
    }
}

/// Makes the exporter, within the runtime. Nothing is connected yet.
pub(super) fn exporter(target: &Target) -> Result<SpanExporter, OtlpError> {
    install_cryptography();
    // A file is of no use, and need not be there, where the collector is reached without TLS.
    let has_tls = target.endpoint.trim().starts_with("https://");
    let authority = target.authority.as_ref().filter(|_| has_tls).map(PemFile::authorities).transpose()?;
    let identity = target.identity.as_ref().filter(|_| has_tls);
    let identity = identity.map(|(certificate, key)| certificate.identity(key)).transpose()?;
    let builder = SpanExporter::builder();
    if target.protocol != Protocol::Grpc {
        let mut client = reqwest::Client::builder().timeout(target.limit).redirect(reqwest::redirect::Policy::none());
        if let Some(authority) = authority {
            client = client.tls_certs_only(reqwest::Certificate::from_pem_bundle(&authority)?);
        }
        if let Some(identity) = identity {
            client = client.identity(reqwest::Identity::from_pem(&identity.join(&b'\n'))?);
        }
        let builder = builder.with_http().with_protocol(Protocol::HttpBinary);
        return Ok(builder.with_http_client(Client(client.build()?, target.discarded.clone())).build()?);
    }
    let discarded = target.discarded.clone();
    let builder = builder.with_tonic().with_protocol(Protocol::Grpc);
    let builder = builder.with_interceptor(move |mut request: tonic::Request<()>| {
        for name in &discarded {
            request.metadata_mut().remove(name);
        }
        Ok(request)
    });
    if !has_tls {
        return Ok(builder.build()?);
    }
    let mut tls = match authority {
        Some(authority) => ClientTlsConfig::new().ca_certificate(tonic::transport::Certificate::from_pem(authority)),
        None => ClientTlsConfig::new().with_enabled_roots(),
    };
    if let Some([certificate, key]) = identity {
        tls = tls.identity(tonic::transport::Identity::from_pem(certificate, key));
    }
    Ok(builder.with_tls_config(tls).build()?)
}

/// The HTTP client of this program, as the exporter uses it, and the headers that it leaves out.
#[derive(Debug)]
struct Client(reqwest::Client, Vec<String>);

#[async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, mut request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        for name in &self.1 {
            request.headers_mut().remove(name);
        }
        let mut response = self.0.execute(request.try_into()?).await?;
        let mut body = BytesMut::new();
        while let Some(chunk) = response.chunk().await? {
            if body.len() + chunk.len() > MAX_RESPONSE {
                return Err(format!("the collector's response has more than {MAX_RESPONSE} bytes").into());
            }
            body.extend_from_slice(&chunk);
        }
        let mut passed = Response::builder().status(response.status()).body(body.freeze())?;
        *passed.headers_mut() = response.headers().clone();
        Ok(passed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Option<Target>, OtlpError> {
        target(&given(variables))
    }

    fn given(variables: &[(&str, &str)]) -> Variables {
        Variables::new(variables.iter().map(|(name, value)| (name.into(), value.into())))
    }

    fn expected(endpoint: &str, protocol: Protocol, limit: u64) -> Target {
        let (endpoint, limit) = (endpoint.to_owned(), Duration::from_millis(limit));
        Target { endpoint, protocol, limit, authority: None, identity: None, discarded: Vec::new() }
    }

    #[test]
    fn nothing_is_sent_unless_an_endpoint_is_set() {
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318");
        for variables in [
            &[][..],
            &[("OTEL_EXPORTER_OTLP_ENDPOINT", " ")],
            &[("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "http://c")],
            &[endpoint, ("OTEL_SDK_DISABLED", "TRUE")],
            &[endpoint, ("OTEL_TRACES_EXPORTER", "none")],
        ] {
            assert_eq!(read(variables).unwrap(), None, "{variables:?}");
        }
        for variables in [&[endpoint][..], &[endpoint, ("OTEL_SDK_DISABLED", "")]] {
            let expected = expected("http://c:4318", Protocol::HttpBinary, 10_000);
            assert_eq!(read(variables).unwrap(), Some(expected));
        }
    }

    #[test]
    fn variables_of_traces_win() {
        let variables = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://all:1"),
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://traces:2"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
            ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "grpc"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "9"),
            ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "7"),
        ];
        let expected = expected("http://traces:2", Protocol::Grpc, 7);
        assert_eq!(read(&variables).unwrap(), Some(expected));
    }

    #[test]
    fn what_is_wrong_is_named_and_no_secret_is_shown() {
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://all:1");
        for (name, value, warning) in [
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json", "is `http/json`, and is ignored; expected one of `grpc`"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip", "is `gzip`, and is ignored; expected one of `none`"),
            ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "soon", "is `soon`, and is ignored; expected a whole number"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "k=s3cret,authorization", "is ignored: entry 2 has no `=`"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "k=s3cret%0Ax", "is ignored: header 1 is none of HTTP"),
        ] {
            let variables = given(&[endpoint, (name, value)]);
            let target = target(&variables).unwrap().unwrap();
            assert_eq!((target.protocol, target.limit.as_millis()), (Protocol::HttpBinary, 10_000), "{name}");
            assert_eq!(target.discarded.iter().any(|name| name == "k"), value.contains("s3cret"), "{name}");
            let warnings = variables.warnings();
            assert_eq!(warnings.len(), 1, "{warnings:?}");
            assert!(
                warnings[0].starts_with(&format!("{name} {warning}")) && !warnings[0].contains("s3cret"),
                "{warnings:?}"
            );
        }
        for wrong in ["ftp://me:s3cret@c", "c:4317", "http://", "not a URL"] {
            let error = read(&[("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", wrong)]).unwrap_err().to_string();
            assert!(
                error.starts_with("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT is not the URL") && !error.contains("s3cret")
            );
        }
        let fine = given(&[endpoint, ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Basic%20s3cret")]);
        assert_eq!(target(&fine).unwrap().unwrap().discarded, Vec::<String>::new());
        assert_eq!(fine.warnings(), Vec::<String>::new());
    }

    #[test]
    fn certificates_are_files_that_are_named_in_full() {
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://c:4318");
        let of_all = ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/all.pem");
        let of_traces = ("OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE", "/traces.pem");
        let named = |variables: &[(&str, &str)]| read(variables).unwrap().unwrap().authority.map(|file| file.path);
        assert_eq!(named(&[endpoint]), None);
        assert_eq!(named(&[endpoint, of_all]), Some("/all.pem".into()));
        assert_eq!(named(&[endpoint, of_all, of_traces]), Some("/traces.pem".into()));

        let folder = tempfile::tempdir().unwrap();
        let (absent, empty) = (folder.path().join("absent.pem"), folder.path().join("empty.pem"));
        std::fs::write(&empty, "no certificate").unwrap();
        for (path, reason) in [(&absent, "No such file"), (&empty, "no certificate in this file")] {
            let target = read(&[endpoint, (of_all.0, path.to_str().unwrap())]).unwrap().unwrap();
            let error = exporter(&target).unwrap_err().to_string();
            assert!(error.starts_with(&format!("{} is `{}`: {reason}", of_all.0, path.display())), "{error}");
        }
        // What has the form of certificates and keys, and is none; and a certificate of another key.
        let made = || {
            let key = rcgen::KeyPair::generate().unwrap();
            let certificate = rcgen::CertificateParams::new(vec!["c".to_owned()]).unwrap().self_signed(&key).unwrap();
            (certificate.pem(), key.serialize_pem())
        };
        let ((certificate, key), (_, other)) = (made(), made());
        let broken = |what: &str| format!("-----BEGIN {what}-----\nAAAA\n-----END {what}-----\n");
        let files = [
            ("certificate", certificate),
            ("key", key),
            ("other", other),
            ("no-certificate", broken("CERTIFICATE")),
            ("no-key", broken("PRIVATE KEY")),
        ];
        for (name, text) in &files {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        let place = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        const CERTIFICATE: &str = "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE";
        const KEY: &str = "OTEL_EXPORTER_OTLP_CLIENT_KEY";
        for protocol in ["grpc", "http/protobuf"] {
            let failure = |variables: &[(&str, &str)]| {
                let given = variables.iter().map(|(name, file)| (*name, place(file))).collect::<Vec<_>>();
                let given = given.iter().map(|(name, path)| (*name, path.as_str()));
                let all = [endpoint, ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)].into_iter().chain(given);
                let target = read(&all.collect::<Vec<_>>()).unwrap().unwrap();
                exporter(&target).map_err(|error| error.to_string()).map(drop)
            };
            for (variables, named, reason) in [
                (
                    &[(of_all.0, "no-certificate")][..],
                    (of_all.0, "no-certificate"),
                    "certificate 1 in this file is broken",
                ),
                (
                    &[(CERTIFICATE, "no-certificate"), (KEY, "key")],
                    (CERTIFICATE, "no-certificate"),
                    "the first certificate",
                ),
                (&[(CERTIFICATE, "certificate"), (KEY, "no-key")], (KEY, "no-key"), "the key in this file is broken"),
                (&[(CERTIFICATE, "certificate"), (KEY, "other")], (CERTIFICATE, "certificate"), "not that of the key"),
            ] {
                let error = failure(variables).unwrap_err();
                let start = format!("{} is `{}`: ", named.0, place(named.1));
                assert!(error.starts_with(&start) && error.contains(reason), "{protocol}: {error}");
            }
        }
        for alone in ["OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", "OTEL_EXPORTER_OTLP_TRACES_CLIENT_KEY"] {
            let error = read(&[endpoint, (alone, "/one.pem")]).unwrap_err().to_string();
            assert!(error.starts_with(&format!("{alone} is set alone")), "{error}");
        }
    }
}
