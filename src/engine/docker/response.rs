//! Reads dockerd's response to a load as it comes.

use bytes::BytesMut;
use http::{Response, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use tokio::time::timeout;

use super::jsonstream::Line;
use super::upload::{LOAD_TIMEOUT, broken};
use crate::docker_api::{Api, ApiResponse};
use crate::engine::EngineError;

/// The longest line that is read, and the longest refusal.
const LINE_BYTES: usize = 64 << 10;
/// The longest response. A classic store has a line of some 150 bytes for each half megabyte that it unpacks.
const RESPONSE_BYTES: usize = if cfg!(test) { 1 << 20 } else { 256 << 20 };

/// Calls `line` with each line that reports no error.
///
/// # Errors
/// With what `refusal` makes of an error of dockerd, which may be in any line; when dockerd says nothing for
/// [`LOAD_TIMEOUT`], or more than is read.
pub(crate) async fn read_lines(
    api: &Api,
    response: Response<Incoming>,
    mut line: impl FnMut(Result<Line, &str>) -> Result<(), EngineError>,
) -> Result<(), EngineError> {
    let status = response.status();
    let mut body = response.into_body();
    if status != StatusCode::OK {
        let body = Limited::new(body, LINE_BYTES).collect();
        let body =
            timeout(LOAD_TIMEOUT, body).await.map_err(|_| silent())?.map_err(|error| api.unreachable(&*error))?;
        let message = ApiResponse { status, body: body.to_bytes() }.message();
        line(Err(&message))?;
        return Err(broken(message));
    }
    let (mut rest, mut length) = (BytesMut::new(), 0);
    while let Some(frame) = timeout(LOAD_TIMEOUT, body.frame()).await.map_err(|_| silent())? {
        let frame = frame.map_err(|error| api.unreachable(&error))?;
        let data = frame.data_ref().map(|data| &data[..]).unwrap_or_default();
        length += data.len();
        if length > RESPONSE_BYTES {
            return Err(broken(format!("it is longer than {} MiB", RESPONSE_BYTES >> 20)));
        }
        rest.extend_from_slice(data);
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            parse(&rest.split_to(end + 1), &mut line)?;
        }
        if rest.len() > LINE_BYTES {
            return Err(broken(format!("a line of more than {LINE_BYTES} bytes")));
        }
    }
    parse(&rest, &mut line)
}

/// Calls `line` with what `bytes` say: a line, or the error that it reports.
pub(crate) fn parse(
    bytes: &[u8],
    line: &mut impl FnMut(Result<Line, &str>) -> Result<(), EngineError>,
) -> Result<(), EngineError> {
    if bytes.trim_ascii().is_empty() {
        return Ok(());
    }
    let parsed: Line = serde_json::from_slice(bytes).map_err(|error| broken(error.to_string()))?;
    match parsed.failure() {
        Some(message) => line(Err(message)),
        None => line(Ok(parsed)),
    }
}

fn silent() -> EngineError {
    EngineError::Timeout { operation: "waiting for docker to load the image".to_owned(), after: LOAD_TIMEOUT }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use bytes::Bytes;
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::UnixListener;
    use tokio_util::sync::CancellationToken;
    use tokio_util::task::AbortOnDropHandle;

    use super::super::upload::Upload;
    use super::*;

    /// What becomes of a load into a dockerd that responds with `head` and then with `piece` again and again.
    async fn load(head: &'static str, piece: &'static str) -> EngineError {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("docker.sock");
        let socket = UnixListener::bind(&path).unwrap();
        let _server = AbortOnDropHandle::new(tokio::spawn(async move {
            let (stream, _) = socket.accept().await.unwrap();
            let (mut read, mut write) = stream.into_split();
            tokio::spawn(async move { tokio::io::copy(&mut read, &mut tokio::io::sink()).await });
            let mut sent = write.write_all(head.as_bytes()).await;
            while sent.is_ok() {
                sent = write.write_all(piece.as_bytes()).await;
            }
        }));
        let api = Arc::new(Api::new(&path));
        let upload = Upload::start(api, "/images/load", CancellationToken::new(), async |api, response| {
            read_lines(&api, response, |line| line.map(drop).map_err(|message| broken(message.to_owned()))).await?;
            Ok(Vec::new())
        });
        let sent = async {
            while upload.send(Bytes::from_static(&[0; 512])).await.is_ok() {}
            upload.finish().await
        };
        tokio::time::timeout(Duration::from_secs(60), sent).await.unwrap().unwrap_err()
    }

    #[tokio::test]
    async fn a_response_without_an_end_is_not_read_for_ever() {
        let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n";
        let error = load(head, "{\"stream\":\"more\"}\r\n").await.to_string();
        assert!(error.contains("longer than 1 MiB"), "{error}");
        let error = load(head, "a line without an end ").await.to_string();
        assert!(error.contains("a line of more than"), "{error}");
        let refusal = "HTTP/1.1 403 Forbidden\r\nContent-Type: application/json\r\n\r\n";
        let error = load(refusal, "no ").await;
        assert!(matches!(error, EngineError::Unreachable { .. }), "{error}");
    }
}
