//! dockerd's response, line by line.
//!
//! dockerd's response to every archive is 200 and a sequence of JSON objects, one a line, each flushed; an error is one
//! of them. Lines that are not changed keep their bytes.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::stream;
use http::Response;
use http::header::CONTENT_LENGTH;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};
use serde::Deserialize;
use serde_json::json;
use tokio::time::timeout;
use tracing::debug;

use super::report::{MOST_NAMED, Report};
use super::response::{Body, error_line};
use crate::engine::EngineError;
use crate::engine::images::Images;
use crate::image::Reference;

/// A line of dockerd's has a few hundred bytes. A longer one passes unread.
const LINE_BYTES: usize = 64 << 10;
/// How many names of one response are looked up.
const MOST_LOOKED_FOR: usize = 100;
/// How long all lookups may take: the client waits for them, and already has its image.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(2);

/// The changes to the lines.
#[derive(Debug, Default)]
pub(super) struct Edit {
    /// Sent first.
    front: Option<Bytes>,
    /// Replaces dockerd's own error, which is about an archive that we truncated.
    instead: Option<String>,
    /// Images that exist, but whose layers did not fit on the disk.
    without_room: Vec<String>,
    report: Option<Report>,
    lookup: Option<Lookup>,
}

/// Looks up the names that dockerd reports as loaded: it takes those of an archive as they are written, and one that is
/// not written in full (`my-app:latest`) becomes a record that none of its commands finds.
#[derive(Debug)]
struct Lookup {
    images: Arc<dyn Images>,
    names: Vec<Reference>,
}

impl Lookup {
    fn line(&mut self, line: &Line) {
        let text = line.stream.as_deref().and_then(|text| text.strip_prefix("Loaded image: "));
        let name = text.and_then(|name| name.trim_end().parse().ok());
        self.names.extend(name.filter(|_| self.names.len() < MOST_LOOKED_FOR));
    }

    /// The message about names that are not found. If a lookup fails, those not looked up are not reported.
    async fn end(self) -> Option<Bytes> {
        let Self { images, names } = self;
        let mut lost = Vec::new();
        let look = async {
            for name in &names {
                // dockerd's short form of a name does not always point to that name (`docker.io/localhost/x`).
                let full = format!("docker.io/{name}").parse().ok();
                let mut is_found = false;
                for name in [Some(name), full.as_ref()].into_iter().flatten() {
                    is_found = is_found || images.resolve(name).await?.is_some();
                }
                if !is_found {
                    lost.push(name.familiar());
                }
            }
            Ok::<_, EngineError>(())
        };
        match timeout(LOOKUP_TIMEOUT, look).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => debug!(%error, "names of a load are not looked for"),
            Err(_) => debug!("names of a load are not looked for any longer"),
        }
        let named = lost.iter().take(MOST_NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
        let text = format!(
            "linkspan: docker does not find {named} by that name: the archive does not write it in full, as in \
             `docker.io/library/app:1`; `linkspan load` does\n"
        );
        (!lost.is_empty()).then(|| (json!({ "stream": text }).to_string() + "\r\n").into())
    }
}

/// A line of a response (moby `api/types/jsonstream`).
#[derive(Debug, Deserialize)]
struct Line {
    #[serde(default)]
    stream: Option<String>,
    #[serde(default)]
    error: Option<String>,
}

impl Edit {
    /// Sends `front` first, and replaces dockerd's error by `instead`.
    pub(super) fn new(front: Option<Bytes>, instead: Option<String>) -> Self {
        Self { front, instead, ..Self::default() }
    }

    /// Adds a message about loaded names that `images` does not find.
    pub(super) fn looking(self, images: Option<Arc<dyn Images>>) -> Self {
        Self { lookup: images.map(|images| Lookup { images, names: Vec::new() }), ..self }
    }

    /// Adds a report that records the lines.
    pub(super) fn reporting(self, report: Report) -> Self {
        Self { report: Some(report), ..self }
    }

    /// The replacement of `line`; `None` if it is forwarded unchanged.
    fn line(&mut self, line: &[u8]) -> Option<Bytes> {
        let line: Line = serde_json::from_slice(line).ok()?;
        if let Some(lookup) = &mut self.lookup {
            lookup.line(&line);
        }
        let Line { stream, error } = line;
        if let Some(error) = error {
            let instead = self.instead.take();
            self.fail(instead.as_deref().unwrap_or(&error));
            return instead.map(|message| error_line(&message).into());
        }
        if let (Some(report), Some(name)) = (&mut self.report, stream.as_deref().and_then(loaded)) {
            report.name(&name);
        }
        // moby `daemon/containerd/image_exporter.go`, `LoadImage`, which treats that as a success.
        let (name, reason) = stream.as_deref()?.strip_prefix("Error unpacking image ")?.split_once(": ")?;
        if EngineError::is_no_space(reason) {
            self.without_room.push(name.to_owned());
        }
        None
    }

    /// The last lines. Clients stop reading at an error, so it is not sent sooner.
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
        if !images.is_empty() {
            self.fail(&message);
        }
        // Logged here, not when the client has read all of the response.
        if let Some(mut report) = self.report.take() {
            report.done();
        }
        (!images.is_empty()).then(|| error_line(&message).into())
    }

    fn fail(&mut self, reason: &str) {
        if let Some(report) = &mut self.report {
            report.fail(reason);
        }
    }
}

/// What a line says was loaded: a name in full, as it is for all other exports, or an id.
fn loaded(text: &str) -> Option<String> {
    if let Some(id) = text.strip_prefix("Loaded image ID: ") {
        return Some(id.trim_end().to_owned());
    }
    let name = text.strip_prefix("Loaded image: ")?.trim_end();
    Some(name.parse().map_or_else(|_| name.to_owned(), |name: Reference| name.to_string()))
}

/// Applies `edit` to a response.
pub(super) fn edited(response: Response<Incoming>, edit: Edit) -> Response<Body> {
    let (mut head, body) = response.into_parts();
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
            let frame = body.frame().await.transpose();
            let bytes = match frame.inspect_err(|error| edit.fail(&format!("docker's response broke off: {error}")))? {
                Some(frame) => match frame.into_data() {
                    Ok(bytes) => bytes,
                    // Trailers, which dockerd does not send.
                    Err(frame) => return Ok(Some((frame, (body, edit, held, ready, ended)))),
                },
                None => {
                    ended = true;
                    ready.extend((!held.is_empty()).then(|| held.split().freeze()));
                    let last = edit.end();
                    if let Some(lookup) = edit.lookup.take() {
                        ready.extend(lookup.end().await);
                    }
                    ready.extend(last);
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
    use async_trait::async_trait;
    use std::future::pending;

    use futures_util::StreamExt as _;

    use super::*;
    use crate::engine::images::{Page, Query};
    use crate::image::{Descriptor, Digest};
    use crate::source::{Chunks, Source, SourceError};

    /// An engine that finds a name, does not, fails, or never responds.
    #[derive(Debug)]
    struct Found;

    #[async_trait]
    impl Source for Found {
        fn name(&self) -> &str {
            "found"
        }

        async fn open(&self, _: &Descriptor, _: u64) -> Result<Chunks, SourceError> {
            unreachable!()
        }
    }

    #[async_trait]
    impl Images for Found {
        async fn resolve(&self, name: &Reference) -> Result<Option<Descriptor>, EngineError> {
            match name.familiar() {
                name if name.contains("lost") => Ok(None),
                name if name.contains("broken") => Err(EngineError::NotOffered { engine: "found", what: "anything" }),
                name if name.contains("silent") => pending().await,
                _ => Ok(Some(Descriptor::new("", Digest::sha256(b"x"), 1))),
            }
        }

        async fn identify(&self, _: &Digest) -> Result<Option<Descriptor>, EngineError> {
            unreachable!()
        }

        async fn list(&self, _: &Query) -> Result<Page, EngineError> {
            unreachable!()
        }

        async fn size(&self, _: &Digest) -> Result<Option<u64>, EngineError> {
            unreachable!()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn names_are_looked_for_as_long_as_an_engine_responds() {
        for (names, is_reported) in [
            (&["there", "lost:1"][..], true),
            (&["there"], false),
            (&["lost:1", "silent:1", "silent:2", "silent:3"], true),
            (&["silent:1", "lost:1"], false),
            (&["broken:1", "lost:1"], false),
        ] {
            let begun = tokio::time::Instant::now();
            let lines: Vec<_> =
                names.iter().map(|name| &*format!("{{\"stream\":\"Loaded image: {name}\\n\"}}\r\n").leak()).collect();
            let output = all(Edit::default().looking(Some(Arc::new(Found))), &lines).await;
            let rest = output.strip_prefix(&lines.concat()).unwrap();
            assert_eq!(rest.contains("does not find lost:1 by"), is_reported, "{names:?}: {rest}");
            assert!(begun.elapsed() <= LOOKUP_TIMEOUT, "{names:?}");
        }
    }

    #[test]
    fn names_are_said_in_full() {
        for (line, expected) in [
            ("Loaded image: demo:1\n", Some("docker.io/library/demo:1")),
            ("Loaded image: registry.example/team/app:2", Some("registry.example/team/app:2")),
            ("Loaded image ID: sha256:0123\n", Some("sha256:0123")),
            ("Loaded image: NOT a name\n", Some("NOT a name")),
            ("Loading layer", None),
        ] {
            assert_eq!(loaded(line).as_deref(), expected, "{line}");
        }
    }

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
    async fn responses_about_good_archives_pass_as_they_came() {
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
        let output = all(Edit::default(), &[line, last]).await;
        let rest = output.strip_prefix(&[line, last].concat()).unwrap();
        assert!(
            rest.contains("\"errorDetail\"") && rest.contains("docker has a:1 now") && rest.ends_with("\r\n"),
            "{rest}"
        );
    }

    #[tokio::test]
    async fn our_reason_takes_the_place_of_dockers() {
        let edit = Edit::new(Some("first\n".into()), Some("because".to_owned()));
        let error = "{\"errorDetail\":{\"message\":\"unexpected EOF\"},\"error\":\"unexpected EOF\"}\r\n";
        let output = all(edit, &[error]).await;
        assert!(
            output.starts_with("first\n{") && output.contains("linkspan: because") && !output.contains("EOF"),
            "{output}"
        );
    }
}
