//! Responses of our own, in Docker's form.

use std::future::pending;
use std::time::Duration;

use http::StatusCode;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::buffered::BufferedIo;

/// A client that is still sending has this long to read the answer before its connection is closed, and is listened to for
/// this much of that: closing a socket with unread bytes resets it (Go's servers do the same, `net/http/server.go`
/// `maxPostHandlerReadBytes` and `rstAvoidanceDelay`).
const LINGER: (Duration, usize) = (Duration::from_millis(500), 256 << 10);

/// An answer with Docker's JSON for errors; the connection ends with it. The body is left out in answers to `HEAD`.
pub(super) fn error(status: StatusCode, message: &str, is_head: bool) -> Vec<u8> {
    let body = serde_json::json!({ "message": format!("linkspan: {message}") }).to_string();
    let reason = status.canonical_reason().unwrap_or("Error");
    let mut answer = format!(
        "HTTP/1.1 {} {reason}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        status.as_u16(),
        body.len() + 1,
    );
    if !is_head {
        answer += &body;
        answer.push('\n');
    }
    answer.into_bytes()
}

/// An answer with a document; the connection ends with it.
pub(super) fn document(content_type: &str, document: &[u8]) -> Vec<u8> {
    let length = document.len();
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    );
    [head.as_bytes(), document].concat()
}

/// Sends `answer` as the client's last one. Whether it arrives is the client's business.
pub(super) async fn last<C>(client: &mut BufferedIo<C>, answer: &[u8])
where
    C: AsyncRead + AsyncWrite + Unpin,
{
    if client.writer.write_all(answer).await.is_ok() {
        linger(client).await;
    }
}

/// Ends what the client hears, and lets it finish what it is saying, within limits.
pub(super) async fn linger<C>(client: &mut BufferedIo<C>)
where
    C: AsyncRead + AsyncWrite + Unpin,
{
    let BufferedIo { source, writer } = client;
    let unread = source.unread.len();
    source.unread.consume(unread);
    hear_out(&mut source.reader, writer, unread).await;
}

/// The same for a connection that somebody else has read from.
pub(crate) async fn linger_on(client: impl AsyncRead + AsyncWrite + Unpin) {
    let (mut reader, mut writer) = tokio::io::split(client);
    hear_out(&mut reader, &mut writer, 0).await;
}

/// `heard` is how much was read already of what the limits allow.
async fn hear_out(reader: &mut (impl AsyncRead + Unpin), writer: &mut (impl AsyncWrite + Unpin), mut heard: usize) {
    let (time, most) = LINGER;
    let mut bytes = vec![0; 16 << 10];
    let listening = async {
        if writer.shutdown().await.is_err() {
            return;
        }
        while heard < most {
            match reader.read(&mut bytes).await {
                Ok(read @ 1..) => heard += read,
                Ok(0) | Err(_) => return,
            }
        }
        // Its next write blocks, or fails when the time is up; until then it can read.
        pending().await
    };
    // Running out of time is one of the limits.
    let _ = tokio::time::timeout(time, listening).await;
}
