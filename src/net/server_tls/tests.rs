//! Handshakes with rustls' own client.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use rustls_pki_types::ServerName;
use rustls_pki_types::pem::PemObject as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;

use super::*;

const REGISTRY: TlsRules = TlsRules { protocol: "http/1.1", requires_certificate: false };

fn generated(folder: &Path, names: &[&str]) -> ServerTlsSettings {
    let names = names.iter().map(|name| (*name).to_owned()).collect();
    let certificate = ServerCertificate::Generated { folder: folder.to_owned(), names };
    ServerTlsSettings { certificate, client_ca: None }
}

/// A handshake of a client that trusts the certificate in `ca`, and one byte each way.
async fn handshake(tls: &ServerTls, ca: &Path, name: &str, protocol: &str) -> io::Result<Principal> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(ca).unwrap()).unwrap();
    let provider = Arc::new(ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let mut config = config.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let client = async {
        let stream = TcpStream::connect(address).await?;
        let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
        stream.write_all(b"x").await?;
        stream.read_u8().await
    };
    let server = async {
        let (stream, peer) = listener.accept().await?;
        let mut connection = tls.accept(stream, peer.into(), REGISTRY).await?;
        let byte = connection.io.read_u8().await?;
        connection.io.write_u8(byte).await?;
        Ok(connection.peer)
    };
    let (client, server) = tokio::join!(client, server);
    client.and(server)
}

#[tokio::test]
async fn a_generated_authority_stays_and_its_certificates_are_for_this_machine() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("a/tls");
    let tls = ServerTls::open(generated(&state, &["registry.test", "10.9.8.7"])).unwrap();
    let (secret, public) = (state.join("authority.pem"), state.join("ca.crt"));
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&secret), mode(&public)), (0o600, 0o644));
    assert!(!fs::read_to_string(&public).unwrap().contains("PRIVATE"));
    let described = tls.describe();
    let shown = fingerprint(&CertificateDer::from_pem_file(&public).unwrap());
    assert!(described[0].contains(&shown) && described[0].contains(public.to_str().unwrap()), "{described:?}");
    for name in ["registry.test", "10.9.8.7", "localhost", "127.0.0.1"] {
        let peer = handshake(&tls, &public, name, "http/1.1").await.unwrap();
        assert!(matches!(peer, Principal::Anonymous { .. }), "{peer}");
    }
    handshake(&tls, &public, "other.test", "http/1.1").await.unwrap_err();
    handshake(&tls, &public, "localhost", "h2").await.unwrap_err();
    // Another process, with clients that were given the certificate before.
    let again = ServerTls::open(generated(&state, &[])).unwrap();
    assert_eq!(again.describe()[0], described[0]);
    handshake(&again, &public, "localhost", "http/1.1").await.unwrap();
}

#[test]
fn an_authority_that_others_can_read_or_that_is_damaged_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let open = || ServerTls::open(generated(folder.path(), &[]));
    open().unwrap();
    let secret = folder.path().join("authority.pem");
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o640)).unwrap();
    let error = open().unwrap_err();
    assert!(error.hint().is_some_and(|hint| hint.starts_with("chmod 600")), "{error}");
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(&secret, "nothing").unwrap();
    let error = open().unwrap_err();
    assert!(error.to_string().contains("authority.pem") && error.hint().is_some(), "{error}");
    fs::remove_file(&secret).unwrap();
    open().unwrap();
}

#[tokio::test]
async fn files_that_change_are_read_again_and_broken_ones_are_not_used() {
    let folder = tempfile::tempdir().unwrap();
    let [cert, key] = ["cert.pem", "key.pem"].map(|name| folder.path().join(name));
    let write = |name: &str| {
        let pair = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
        fs::write(&cert, pair.cert.pem()).unwrap();
        fs::write(&key, pair.signing_key.serialize_pem()).unwrap();
    };
    write("one.test");
    let certificate = ServerCertificate::Files { cert: cert.clone(), key: key.clone() };
    let tls = ServerTls::open(ServerTlsSettings { certificate, client_ca: None }).unwrap();
    let trusted = folder.path().join("trusted.pem");
    fs::copy(&cert, &trusted).unwrap();
    handshake(&tls, &trusted, "one.test", "http/1.1").await.unwrap();
    // The pair is being replaced: the certificate has come, and its key has not.
    fs::write(&cert, rcgen::generate_simple_self_signed(["two.test".to_owned()]).unwrap().cert.pem()).unwrap();
    tokio::time::sleep(Duration::from_millis(1100)).await;
    handshake(&tls, &trusted, "one.test", "http/1.1").await.unwrap();
    write("two.test");
    tokio::time::sleep(Duration::from_millis(1100)).await;
    handshake(&tls, &cert, "two.test", "http/1.1").await.unwrap();
    handshake(&tls, &trusted, "one.test", "http/1.1").await.unwrap_err();
}
