//! Metrics and traces between machines: TLS, certificates, passwords, headers.

use std::io;
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, StreamOwned};

use super::collector::{Collected, GrpcCollector, over_https};
use super::scrape::{exchange, parts};
use super::{Scrape, serve};
use crate::common::certificates::Certificates;
use crate::common::{Linkspan, Stack, linkspan, text, unix, until};

/// How long a server may take for a response.
const PATIENCE: Duration = Duration::from_secs(60);

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// The authorities in a PEM file.
fn authorities(path: &str) -> Arc<RootCertStore> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(path).unwrap()).unwrap();
    Arc::new(roots)
}

/// A certificate and its key.
fn identity(certificates: &Certificates, name: &str) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
    let certificate = CertificateDer::from_pem_file(certificates.path(&format!("{name}.pem"))).unwrap();
    (vec![certificate], PrivateKeyDer::from_pem_file(certificates.path(&format!("{name}.key"))).unwrap())
}

/// A server at 127.0.0.1 whose clients have certificates of the same authority.
pub(super) fn server_config(certificates: &Certificates) -> Arc<ServerConfig> {
    let clients = WebPkiClientVerifier::builder_with_provider(authorities(&certificates.path("ca.pem")), provider());
    let (chain, key) = identity(certificates, "127.0.0.1");
    let config = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().unwrap();
    let config = config.with_client_cert_verifier(clients.build().unwrap());
    Arc::new(config.with_single_cert(chain, key).unwrap())
}

/// A client of a server at a port of 127.0.0.1 that it knows by the authority in the file `ca`; with a certificate, if it is to have
/// one.
struct Scraper {
    port: u16,
    config: Arc<ClientConfig>,
}

impl Scraper {
    fn new(port: u16, ca: &str, with: Option<&Certificates>) -> Self {
        let config = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().unwrap();
        let config = config.with_root_certificates(authorities(ca));
        let config = match with.map(|certificates| identity(certificates, "client.test")) {
            Some((chain, key)) => config.with_client_auth_cert(chain, key).unwrap(),
            None => config.with_no_client_auth(),
        };
        Self { port, config: Arc::new(config) }
    }

    fn get(&self, headers: &str) -> io::Result<String> {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let name = ServerName::try_from("127.0.0.1").unwrap();
        let connection = ClientConnection::new(self.config.clone(), name).unwrap();
        exchange(StreamOwned::new(connection, stream), "GET", "/metrics", headers)
    }

    fn scrape(&self, headers: &str) -> Scrape {
        let (status, _, body) = parts(&self.get(headers).unwrap());
        assert_eq!(status, 200, "{body}");
        Scrape::parse(&body)
    }
}

/// A daemon with an empty layout, whose metrics are at a port; and that port.
fn daemon(stack: &Stack, listen: &str, more: &[&str]) -> (Linkspan, u16) {
    let (folder, export) = (stack.fresh_path("-layout"), unix(&stack.fresh_path("-export.sock")));
    let args = ["--engine", "layout", "--layout", text(&folder), "--export-listen", &export];
    let args = [&args[..], &["--metrics-listen", listen], more].concat();
    let daemon = Linkspan::spawned(stack, &args, &[], Vec::new(), &[]);
    let words = format!("metrics listening on {}", listen.strip_suffix('0').unwrap());
    let log = until("metrics to be served", || daemon.log(), |log| log.contains(&words));
    let port = log.split_once(&words).unwrap().1.split_whitespace().next().unwrap().parse().unwrap();
    (daemon, port)
}

#[test]
fn metrics_at_a_port_with_tls_are_for_clients_with_a_certificate() {
    let stack = Stack::shared();
    let certificates = Certificates::new(stack.fresh_path("-tls"));
    let files = ["127.0.0.1.pem", "127.0.0.1.key", "ca.pem"].map(|file| certificates.path(file));
    let tls = ["--listen-tls-loopback", "--listen-tls-cert", &files[0], "--listen-tls-key", &files[1]];
    let tls = [&tls[..], &["--listen-tls-client-ca", &files[2]]].concat();
    let (_daemon, port) = daemon(stack, "tcp://127.0.0.1:0", &tls);
    let known = Scraper::new(port, &files[2], Some(&certificates));
    let before = known.scrape("");
    assert_eq!((before.sum("linkspan_build_info"), before.sum("linkspan_refusals_total")), (1.0, 0.0), "{before:?}");

    let stranger = Scraper::new(port, &files[2], None).get("");
    assert!(stranger.as_ref().map_or(true, |response| !response.starts_with("HTTP/")), "{stranger:?}");
    // One that only looks whether somebody listens is not counted. Its connection is accepted before those of later scrapes.
    drop(TcpStream::connect(("127.0.0.1", port)).unwrap());
    let open = |scrape: &Scrape| scrape.get("linkspan_connections_open{door=\"metrics\"}");
    let looked = until("the look to be over", || known.scrape(""), |scrape| open(scrape) == 1.0);
    let refused = |scrape: &Scrape| scrape.get("linkspan_refusals_total{door=\"metrics\",reason=\"tls\"}");
    assert_eq!(refused(&looked), 1.0, "{looked:?}");

    let plain = TcpStream::connect(("127.0.0.1", port)).unwrap();
    plain.set_read_timeout(Some(PATIENCE)).unwrap();
    let plain = exchange(plain, "GET", "/metrics", "");
    assert!(plain.as_ref().map_or(true, |response| !response.starts_with("HTTP/")), "{plain:?}");
    until("both to be counted", || known.scrape(""), |scrape| refused(scrape) == 2.0);
}

#[test]
fn metrics_that_other_machines_reach_have_tls_and_passwords() {
    let stack = Stack::shared();
    let (users, folder) = (stack.fresh_path("-users"), stack.fresh_path("-authority"));
    std::fs::write(&users, format!("prometheus:{}\n", bcrypt::hash("word", 4).unwrap())).unwrap();
    let more = ["--listen-htpasswd", text(&users), "--listen-tls-dir", text(&folder)];
    let (_daemon, port) = daemon(stack, "tcp://0.0.0.0:0", &more);
    let scraper = Scraper::new(port, text(&folder.join("ca.crt")), None);
    let basic = |password: &str| {
        format!("Authorization: Basic {}\r\n", BASE64_STANDARD.encode(format!("prometheus:{password}")))
    };
    for headers in [String::new(), basic("other")] {
        let (status, head, _) = parts(&scraper.get(&headers).unwrap());
        assert!(status == 401 && head.contains("www-authenticate: basic"), "{head}");
    }
    let refused = |scrape: &Scrape| scrape.get("linkspan_refusals_total{door=\"metrics\",reason=\"auth\"}");
    assert_eq!(refused(&scraper.scrape(&basic("word"))), 2.0);
}

/// A daemon that has sent spans, each of which is a call of ours, to `endpoint`, and has ended.
fn traced(stack: &Stack, endpoint: &str, protocol: &str, ca: &str, client: &Certificates) -> Linkspan {
    let variables = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
        ("OTEL_EXPORTER_OTLP_HEADERS", "x-key=let-me-in"),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", ca),
        ("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", &client.path("client.test.pem")),
        ("OTEL_EXPORTER_OTLP_CLIENT_KEY", &client.path("client.test.key")),
        ("OTEL_BSP_SCHEDULE_DELAY", "100"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "60000"),
        ("OTEL_BSP_EXPORT_TIMEOUT", "60000"),
        ("NO_PROXY", "127.0.0.1"),
    ];
    let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let (folder, export) = (stack.fresh_path("-layout"), unix(&stack.fresh_path("-export.sock")));
    let args = ["--engine", "layout", "--layout", text(&folder), "--export-listen", &export];
    let (mut daemon, _) = serve(stack, &args, &[], &variables);
    linkspan(["images", "--to", &export]).ok();
    // What has ended by then is sent before the end.
    assert!(daemon.terminate().success(), "{}", daemon.log());
    assert!(!daemon.log().contains("let-me-in"), "{}", daemon.log());
    daemon
}

#[test]
fn traces_go_to_collectors_of_an_authority_of_one_s_own() {
    let stack = Stack::shared();
    let certificates = Certificates::new(stack.fresh_path("-tls"));
    let ca = certificates.path("ca.pem");
    let names = |collected: &Collected| collected.spans().into_iter().map(|sent| sent.span.name).collect::<Vec<_>>();
    let grpc = GrpcCollector::secure(&certificates);
    let (https, endpoint) = over_https(&certificates);
    for (collected, endpoint, protocol) in
        [(&grpc.collected, &grpc.endpoint, "grpc"), (&https, &endpoint, "http/protobuf")]
    {
        let daemon = traced(stack, endpoint, protocol, &ca, &certificates);
        assert!(names(collected).contains(&"call".to_owned()), "{protocol}: {:?}\n{}", names(collected), daemon.log());
        assert!(!daemon.log().contains("takes no spans"), "{protocol}: {}", daemon.log());
    }
    // One whose authority is another gets nothing, and the log says why.
    let other = Certificates::new(stack.fresh_path("-other")).path("ca.pem");
    let before = names(&https).len();
    let daemon = traced(stack, &endpoint, "http/protobuf", &other, &certificates);
    assert!(daemon.log().contains("the collector of traces takes no spans"), "{}", daemon.log());
    assert_eq!(names(&https).len(), before);
    let daemon = traced(stack, &endpoint, "http/protobuf", "/no/such/ca.pem", &certificates);
    let expected = "OTEL_EXPORTER_OTLP_CERTIFICATE is `/no/such/ca.pem`: No such file or directory";
    assert!(daemon.log().contains(expected), "{}", daemon.log());
}
