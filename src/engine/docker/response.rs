//! Reads dockerd's response to a load as it comes.

use bytes::BytesMut;
use http::{Response, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::time::timeout;

use super::jsonstream::Line;
use super::upload::{LOAD_TIMEOUT, broken};
use crate::docker_api::{Api, ApiResponse, shortened};
use crate::engine::EngineError;

/// The longest line that is read, and the longest refusal.
const LINE_BYTES: usize = 64 << 10;
/// How much of a longer one is passed on.
const LINE_CHARS: usize = 500;
/// The longest response. A classic store has a line of some 150 bytes for each half megabyte that it unpacks. Its time has no bound
/// as long as it goes on: nobody can tell a dockerd that will never end from one that unpacks a large image onto a slow disk.
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
    if status != StatusCode::OK {
        let refusal = timeout(LOAD_TIMEOUT, ApiResponse::read(response, LINE_BYTES)).await.map_err(|_| silent())?;
        let message = refusal.map_err(|reason| api.without_response(reason))?.0.message();
        line(Err(&message))?;
        return Err(broken(message));
    }
    let mut body = response.into_body();
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
            // It may be an error, of which the beginning says most.
            let begin = shortened(&String::from_utf8_lossy(&rest), LINE_CHARS);
            return Err(broken(format!("a line of more than {LINE_BYTES} bytes: {begin}")));
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
        assert!(error.ends_with(" ...") && error.len() < 2 * LINE_CHARS, "{error}");
        let refusal = "HTTP/1.1 500 Internal Server Error\r\nContent-Type: application/json\r\n\r\n{\"message\":\"";
        let error = load(refusal, "no room ").await.to_string();
        assert!(error.contains("500 Internal Server Error: no room no room") && error.ends_with(" ..."), "{error}");
        assert!(error.len() < 1000, "{error}");
    }
}
