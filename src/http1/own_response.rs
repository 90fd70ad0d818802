//! Responses of our own, in Docker's form.

use std::future::pending;
use std::time::Duration;

use http::StatusCode;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::buffered::BufferedIo;

/// How long, and for how many bytes, a connection is still read before it is closed, so that a client that is still
/// sending can read the response: closing a socket with unread bytes resets it. Go's servers do the same
/// (`net/http/server.go`, `maxPostHandlerReadBytes` and `rstAvoidanceDelay`).
const LINGER: (Duration, usize) = (Duration::from_millis(500), 256 << 10);

/// A response with Docker's JSON for errors, which closes the connection. Responses to `HEAD` have no body.
pub(super) fn error(status: StatusCode, message: &str, is_head: bool) -> Vec<u8> {
    let body = serde_json::json!({ "message": format!("linkspan: {message}") }).to_string();
    let reason = status.canonical_reason().unwrap_or("Error");
    let mut response = format!(
        "HTTP/1.1 {} {reason}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        status.as_u16(),
        body.len() + 1,
    );
    if !is_head {
        response += &body;
        response.push('\n');
    }
    response.into_bytes()
}

/// A response with a document, which closes the connection.
pub(super) fn document(content_type: &str, document: &[u8]) -> Vec<u8> {
    let length = document.len();
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    );
    [head.as_bytes(), document].concat()
}

/// Sends `response` as the connection's last response. Errors are ignored: the connection ends anyway.
pub(super) async fn last<C>(client: &mut BufferedIo<C>, response: &[u8])
where
    C: AsyncRead + AsyncWrite + Unpin,
{
    if client.writer.write_all(response).await.is_ok() {
        linger(client).await;
    }
}

/// Shuts down writing, then reads and drops what the client still sends, within [`LINGER`].
pub(super) async fn linger<C>(client: &mut BufferedIo<C>)
where
    C: AsyncRead + AsyncWrite + Unpin,
{
    let BufferedIo { source, writer } = client;
    let unread = source.unread.len();
    source.unread.consume(unread);
    drain(&mut source.reader, writer, unread).await;
}

/// Like [`linger`], for a connection that other code has read from.
pub(crate) async fn linger_on(client: impl AsyncRead + AsyncWrite + Unpin) {
    let (mut reader, mut writer) = tokio::io::split(client);
    drain(&mut reader, &mut writer, 0).await;
}

/// `drained` is the number of bytes read before, which count towards the limit.
async fn drain(reader: &mut (impl AsyncRead + Unpin), writer: &mut (impl AsyncWrite + Unpin), mut drained: usize) {
    let (time, most) = LINGER;
    let mut bytes = vec![0; 16 << 10];
    let listening = async {
        if writer.shutdown().await.is_err() {
            return;
        }
        while drained < most {
            match reader.read(&mut bytes).await {
                Ok(read @ 1..) => drained += read,
                Ok(0) | Err(_) => return,
            }
        }
        // The client's next write blocks, or fails when the time is up; until then it can read.
        pending().await
    };
    // The time limit is no error.
    let _ = tokio::time::timeout(time, listening).await;
}
