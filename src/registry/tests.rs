use futures_util::TryStreamExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;
use crate::source::{Source as _, SourceError};

#[test]
fn only_registries_of_this_host_are_used_without_tls() {
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

/// A registry that gives `response` to every request, and after that sends `more` until nobody listens.
async fn registry(response: &'static str, more: &'static [u8]) -> Registry {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut connection, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    request.push(connection.read_u8().await?);
                }
                connection.write_all(response.as_bytes()).await?;
                while !more.is_empty() {
                    connection.write_all(more).await?;
                }
                connection.shutdown().await
            });
        }
    });
    Registry::new(&format!("{address}/app:1").parse().unwrap(), false).await.unwrap()
}

fn manifest() -> Descriptor {
    Descriptor::new("application/vnd.oci.image.manifest.v1+json", Digest::sha256(b"{}"), 2)
}

#[tokio::test]
async fn a_manifest_that_is_not_there_is_a_blob_that_is_not_there() {
    for response in [
        "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
        "HTTP/1.1 404 Not Found\r\ncontent-length: 43\r\nconnection: close\r\n\r\n\
         {\"errors\":[{\"code\":\"MANIFEST_UNKNOWN\"}]}   ",
    ] {
        let registry = registry(response, b"").await;
        let Err(error) = registry.open(&manifest(), 0).await else { panic!("it is not there") };
        assert!(matches!(error, SourceError::NotFound { .. }), "{error}");
    }
    let registry = registry("HTTP/1.1 500 No\r\ncontent-length: 0\r\nconnection: close\r\n\r\n", b"").await;
    let Err(error) = registry.open(&manifest(), 0).await else { panic!("nobody knows") };
    assert!(matches!(error, SourceError::Read { .. }), "{error}");
}

#[tokio::test]
async fn no_manifest_is_read_past_the_limit() {
    let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    let declared = "HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n{";
    for (response, more) in [(chunked, &b"4\r\n    \r\n"[..]), (declared, b"")] {
        let error = registry(response, more).await.resolve().await.unwrap_err();
        assert!(error.to_string().contains("its manifest has more than 4194304 bytes"), "{error}");
    }
}

#[tokio::test]
async fn a_manifest_matches_its_digest() {
    let good = registry("HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}", b"").await;
    let chunks = good.open(&manifest(), 1).await.unwrap();
    assert_eq!(chunks.try_collect::<Vec<_>>().await.unwrap().concat(), b"}");
    let bad = registry("HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n[]", b"").await;
    let Err(error) = bad.open(&manifest(), 0).await else { panic!("it is another one") };
    assert!(error.to_string().contains("does not match the digest"), "{error}");
}
