//! Where spans go, as the variables of OpenTelemetry say (OpenTelemetry specification, "Environment Variable Specification" and
//! "OpenTelemetry Protocol Exporter"). Endpoints, headers, timeouts, sampler and resource are read by the library; without an
//! endpoint nothing is sent.

use std::env;
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use http::{Request, Response};
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{
    ExporterBuildError, Protocol, SpanExporter, WithExportConfig, WithHttpConfig, WithTonicConfig,
};
use tonic::transport::ClientTlsConfig;

use crate::registry::install_cryptography;

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
}

/// Why the variables cannot be followed.
#[derive(Debug, thiserror::Error)]
pub(super) enum OtlpError {
    /// A protocol that is not offered.
    #[error("{variable} is `{value}`; expected `grpc` or `http/protobuf`")]
    Protocol { variable: &'static str, value: String },
    /// The exporter refused an endpoint, a header or another variable.
    #[error(transparent)]
    Exporter(#[from] ExporterBuildError),
    /// The HTTP client cannot be made.
    #[error(transparent)]
    Client(#[from] reqwest::Error),
}

/// Reads the variables. `None` if nothing is to be sent.
pub(super) fn target(variable: impl Fn(&str) -> Option<String>) -> Result<Option<Target>, OtlpError> {
    // An empty variable is one that is not set.
    let get = |name: &'static str| Some((name, variable(name)?)).filter(|(_, value)| !value.trim().is_empty());
    let is_disabled = get("OTEL_SDK_DISABLED").is_some_and(|(_, value)| value.trim().eq_ignore_ascii_case("true"));
    let is_other = get("OTEL_TRACES_EXPORTER").is_some_and(|(_, value)| value.split(',').all(|it| it.trim() != "otlp"));
    let endpoint =
        get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT").or_else(|| get("OTEL_EXPORTER_OTLP_ENDPOINT")).map(|(_, it)| it);
    let Some(endpoint) = endpoint.filter(|_| !is_disabled && !is_other) else { return Ok(None) };
    let protocol = get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL").or_else(|| get("OTEL_EXPORTER_OTLP_PROTOCOL"));
    let protocol = match protocol.as_ref().map(|(_, protocol)| protocol.trim()) {
        None | Some("http/protobuf") => Protocol::HttpBinary,
        Some("grpc") => Protocol::Grpc,
        Some(_) => {
            let (variable, value) = protocol.unwrap_or_default();
            return Err(OtlpError::Protocol { variable, value });
        }
    };
    let limit = get("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT").or_else(|| get("OTEL_EXPORTER_OTLP_TIMEOUT"));
    let limit = limit.and_then(|(_, limit)| limit.trim().parse::<u64>().ok()).filter(|limit| *limit > 0);
    let limit = Duration::from_millis(limit.unwrap_or(DEFAULT_TIMEOUT).min(MAX_TIMEOUT));
    Ok(Some(Target { endpoint, protocol, limit }))
}

/// The variables of this process.
pub(super) fn of_process() -> Result<Option<Target>, OtlpError> {
    target(|name| env::var(name).ok())
}

/// Makes the exporter, within the runtime. Nothing is connected yet.
pub(super) fn exporter(target: &Target) -> Result<SpanExporter, OtlpError> {
    install_cryptography();
    let builder = SpanExporter::builder();
    if target.protocol != Protocol::Grpc {
        let client =
            reqwest::Client::builder().timeout(target.limit).redirect(reqwest::redirect::Policy::none()).build()?;
        let builder = builder.with_http().with_protocol(Protocol::HttpBinary);
        return Ok(builder.with_http_client(Client(client)).build()?);
    }
    let builder = builder.with_tonic().with_protocol(Protocol::Grpc);
    Ok(match target.endpoint.trim().starts_with("https://") {
        true => builder.with_tls_config(ClientTlsConfig::new().with_enabled_roots()).build()?,
        false => builder.build()?,
    })
}

/// The HTTP client of this program, as the exporter uses it.
#[derive(Debug)]
struct Client(reqwest::Client);

#[async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
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
        target(|name| variables.iter().find(|(it, _)| *it == name).map(|(_, value)| (*value).to_owned()))
    }

    fn expected(endpoint: &str, protocol: Protocol, limit: u64) -> Target {
        Target { endpoint: endpoint.to_owned(), protocol, limit: Duration::from_millis(limit) }
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
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "0"),
            ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "7"),
        ];
        let expected = expected("http://traces:2", Protocol::Grpc, 7);
        assert_eq!(read(&variables).unwrap(), Some(expected));
        let error = read(&[variables[0], ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json")]).unwrap_err();
        assert_eq!(error.to_string(), "OTEL_EXPORTER_OTLP_PROTOCOL is `http/json`; expected `grpc` or `http/protobuf`");
    }
}
