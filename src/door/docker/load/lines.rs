//! dockerd's answer, line by line.
//!
//! dockerd answers every archive with 200 and a sequence of JSON objects, one a line, each flushed; what went wrong is
//! one of them. What is not changed passes as the bytes it came in.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use futures_util::stream;
use http::Response;
use http::header::CONTENT_LENGTH;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};
use serde::Deserialize;

use super::answer::{Body, error_line};

/// A line of dockerd's has a few hundred bytes. What is longer passes unread.
const LINE_BYTES: usize = 64 << 10;
/// How many images one answer's last line names.
const MOST_NAMED: usize = 5;
/// What the system says where there is no room (errno(3), `ENOSPC` and `EDQUOT`).
const NO_ROOM: [&str; 2] = ["no space left on device", "disk quota exceeded"];

/// What becomes of the lines.
#[derive(Debug, Default)]
pub(super) struct Edit {
    /// Comes first.
    front: Option<Bytes>,
    /// Takes the place of dockerd's own error, which is about an archive that was cut off by us.
    instead: Option<String>,
    /// Images that are there, and whose layers found no room.
    without_room: Vec<String>,
}

/// A line of an answer (moby `api/types/jsonstream`).
#[derive(Debug, Deserialize)]
struct Line {
    #[serde(default)]
    stream: Option<String>,
    #[serde(default)]
    error: Option<String>,
}

impl Edit {
    /// `front` comes first, and `instead` takes the place of an error of dockerd's.
    pub(super) fn new(front: Option<Bytes>, instead: Option<String>) -> Self {
        Self { front, instead, ..Self::default() }
    }

    /// What goes on in the place of `line`; `None` if it goes on as it is.
    fn line(&mut self, line: &[u8]) -> Option<Bytes> {
        let Line { stream, error } = serde_json::from_slice(line).ok()?;
        if error.is_some() {
            return self.instead.take().map(|message| error_line(&message).into());
        }
        // moby `daemon/containerd/image_exporter.go`, `LoadImage`, which takes that for a success.
        let (name, reason) = stream.as_deref()?.strip_prefix("Error unpacking image ")?.split_once(": ")?;
        if NO_ROOM.iter().any(|said| reason.contains(said)) {
            self.without_room.push(name.to_owned());
        }
        None
    }

    /// What comes last. Clients stop reading at an error, which is why it does not come sooner.
    fn end(&mut self) -> Option<Bytes> {
        let images = std::mem::take(&mut self.without_room);
        let mut named = images.iter().take(MOST_NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
        if images.len() > MOST_NAMED {
            named += &format!(" and {} more", images.len() - MOST_NAMED);
        }
        let message = format!(
            "docker has {named} now, but no room for the unpacked layers, so that no container can be made of it; to mend \
             it: free disk space (`docker system df` shows what takes it) and load the archive again"
        );
        (!images.is_empty()).then(|| error_line(&message).into())
    }
}

/// `answer`, edited.
pub(super) fn edited(answer: Response<Incoming>, edit: Edit) -> Response<Body> {
    let (mut head, body) = answer.into_parts();
    head.headers.remove(CONTENT_LENGTH);
    Response::from_parts(head, StreamBody::new(frames(body, edit)).boxed_unsync())
}

fn frames<B>(body: B, mut edit: Edit) -> impl futures_util::Stream<Item = Result<Frame<Bytes>, hyper::Error>> + Send
where
    B: hyper::body::Body<Data = Bytes, Error = hyper::Error> + Send + Unpin,
{
    let ready: VecDeque<Bytes> = edit.front.take().into_iter().collect();
    stream::try_unfold((body, edit, BytesMut::new(), ready, false), |state| async move {
        let (mut body, mut edit, mut held, mut ready, mut ended) = state;
        loop {
            if let Some(bytes) = ready.pop_front() {
                return Ok(Some((Frame::data(bytes), (body, edit, held, ready, ended))));
            }
            if ended {
                return Ok(None);
            }
            let bytes = match body.frame().await.transpose()? {
                Some(frame) => match frame.into_data() {
                    Ok(bytes) => bytes,
                    // Trailers, which dockerd does not send.
                    Err(frame) => return Ok(Some((frame, (body, edit, held, ready, ended)))),
                },
                None => {
                    ended = true;
                    ready.extend((!held.is_empty()).then(|| held.split().freeze()));
                    ready.extend(edit.end());
                    continue;
                }
            };
            held.extend_from_slice(&bytes);
            let mut lines = BytesMut::new();
            while let Some(end) = held.iter().position(|&byte| byte == b'\n') {
                let line = held.split_to(end + 1);
                match edit.line(&line) {
                    Some(other) => lines.extend_from_slice(&other),
                    None => lines.extend_from_slice(&line),
                }
            }
            if held.len() > LINE_BYTES {
                lines.extend_from_slice(&held.split());
            }
            ready.extend((!lines.is_empty()).then(|| lines.freeze()));
        }
    })
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt as _;

    use super::*;

    async fn all(edit: Edit, chunks: &[&'static str]) -> String {
        let chunks: Vec<_> = chunks.iter().map(|chunk| Ok(Frame::data(Bytes::from_static(chunk.as_bytes())))).collect();
        let body = StreamBody::new(stream::iter(chunks));
        let mut frames = std::pin::pin!(frames(body, edit));
        let mut text = Vec::new();
        while let Some(frame) = frames.next().await {
            text.extend_from_slice(&frame.unwrap().into_data().unwrap());
        }
        String::from_utf8(text).unwrap()
    }

    #[tokio::test]
    async fn what_is_said_of_good_archives_passes_as_it_came() {
        let lines =
            ["{\"stream\":\"Loaded image: a\\n\"}\r\n{\"str", "eam\":\"b\"}\r\n", "{\"no\":1}\nhalf a li", "ne"];
        assert_eq!(all(Edit::default(), &lines).await, lines.concat());
        let other = "{\"stream\":\"Error unpacking image a:1: missing parent\\n\"}\r\n";
        assert_eq!(all(Edit::default(), &[other]).await, other);
    }

    #[tokio::test]
    async fn an_image_without_room_is_an_error_at_the_end() {
        let line = "{\"stream\":\"Error unpacking image a:1: write /x: no space left on device\\n\"}\r\n";
        let last = "{\"stream\":\"Loaded image: b:1\\n\"}\r\n";
        let said = all(Edit::default(), &[line, last]).await;
        let rest = said.strip_prefix(&[line, last].concat()).unwrap();
        assert!(
            rest.contains("\"errorDetail\"") && rest.contains("docker has a:1 now") && rest.ends_with("\r\n"),
            "{rest}"
        );
    }

    #[tokio::test]
    async fn our_reason_takes_the_place_of_dockers() {
        let edit = Edit::new(Some("first\n".into()), Some("because".to_owned()));
        let error = "{\"errorDetail\":{\"message\":\"unexpected EOF\"},\"error\":\"unexpected EOF\"}\r\n";
        let said = all(edit, &[error]).await;
        assert!(said.starts_with("first\n{") && said.contains("linkspan: because") && !said.contains("EOF"), "{said}");
    }
}
