//! dockerd's answer, line by line.
//!
//! dockerd answers every archive with 200 and a sequence of JSON objects, one a line, each flushed; what went wrong is
//! one of them. What is not changed passes as the bytes it came in.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use futures_util::stream;
use http::Response;
use http::header::CONTENT_LENGTH;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};
use serde::Deserialize;
use serde_json::json;
use tracing::info;

use super::answer::{Body, error_line};
use super::ledger::Spared;
use crate::engine::images::Images;
use crate::image::Reference;

/// A line of dockerd's has a few hundred bytes. What is longer passes unread.
const LINE_BYTES: usize = 64 << 10;
/// How many images one answer's last line names.
const MOST_NAMED: usize = 5;
/// How many names of one answer are looked for.
const MOST_LOOKED_FOR: usize = 100;
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
    report: Option<Report>,
    lookup: Option<Lookup>,
}

/// Looks for the names that dockerd says it has loaded: it takes those of an archive as they are written, and one that is
/// not written in full (`my-app:latest`) becomes a record that none of its commands finds.
#[derive(Debug)]
struct Lookup {
    images: Arc<dyn Images>,
    names: Vec<Reference>,
}

impl Lookup {
    fn line(&mut self, line: &Line) {
        let said = line.stream.as_deref().and_then(|said| said.strip_prefix("Loaded image: "));
        let name = said.and_then(|name| name.trim_end().parse().ok());
        self.names.extend(name.filter(|_| self.names.len() < MOST_LOOKED_FOR));
    }

    /// What is said of the names that are not found.
    async fn end(self) -> Option<Bytes> {
        let mut lost = Vec::new();
        for name in self.names {
            // dockerd's short form of a name does not always stand for that name (`docker.io/localhost/x`).
            let full = format!("docker.io/{name}").parse().ok();
            let mut is_found = false;
            for name in [Some(&name), full.as_ref()].into_iter().flatten() {
                // Where nothing can be found out, nothing is said.
                is_found |= !matches!(self.images.resolve(name).await, Ok(None));
            }
            if !is_found {
                lost.push(name.familiar());
            }
        }
        let named = lost.iter().take(MOST_NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
        let text = format!(
            "linkspan: docker does not find {named} by that name: the archive does not write it in full, as in \
             `docker.io/library/app:1`; `linkspan load` does\n"
        );
        (!lost.is_empty()).then(|| (json!({ "stream": text }).to_string() + "\r\n").into())
    }
}

/// What is logged of a load when dockerd's answer has ended.
#[derive(Debug)]
pub(super) struct Report {
    begun: Instant,
    spared: Spared,
    /// What dockerd says that it loaded, up to [`MOST_NAMED`].
    names: Vec<String>,
    failure: Option<String>,
}

impl Report {
    /// Of a load that began then, without what it was spared.
    pub(super) fn new(begun: Instant, spared: Spared) -> Self {
        Self { begun, spared, names: Vec::new(), failure: None }
    }

    fn line(&mut self, Line { stream, error }: &Line) {
        let loaded = || {
            let said = stream.as_deref()?;
            said.strip_prefix("Loaded image: ").or_else(|| said.strip_prefix("Loaded image ID: "))
        };
        match (error, loaded()) {
            (Some(error), _) => self.failure = Some(error.clone()),
            (None, Some(name)) if self.names.len() < MOST_NAMED => self.names.push(name.trim_end().to_owned()),
            (None, _) => {}
        }
    }

    /// In the words of [exports](crate::export), of which a load is one.
    fn end(self) {
        let Self { begun, spared: Spared { blobs: spared_blobs, bytes: spared_bytes }, names, failure } = self;
        let (seconds, names) = (begun.elapsed().as_millis() as f64 / 1e3, names.join(","));
        match failure {
            None => info!(door = "docker", names, spared_blobs, spared_bytes, seconds, "loaded"),
            Some(error) => info!(door = "docker", names, spared_blobs, spared_bytes, seconds, error, "not loaded"),
        }
    }
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

    /// The same, and names that `images` does not find are said to be lost.
    pub(super) fn looking(self, images: Option<Arc<dyn Images>>) -> Self {
        Self { lookup: images.map(|images| Lookup { images, names: Vec::new() }), ..self }
    }

    /// The same, and `report` is logged at the end.
    pub(super) fn reporting(self, report: Report) -> Self {
        Self { report: Some(report), ..self }
    }

    /// What goes on in the place of `line`; `None` if it goes on as it is.
    fn line(&mut self, line: &[u8]) -> Option<Bytes> {
        let line: Line = serde_json::from_slice(line).ok()?;
        if let Some(report) = &mut self.report {
            report.line(&line);
        }
        if let Some(lookup) = &mut self.lookup {
            lookup.line(&line);
        }
        let Line { stream, error } = line;
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
        if let Some(report) = self.report.take() {
            report.end();
        }
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
                    if let Some(lookup) = edit.lookup.take() {
                        ready.extend(lookup.end().await);
                    }
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
