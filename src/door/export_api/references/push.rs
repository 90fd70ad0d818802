//! Push: an image, and a name for it, if the name points to what the client thinks.

use std::collections::HashSet;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;

use tonic::{Code, Status, Streaming};

use super::super::errors::other_image;
use crate::activity::{Activity, Arrival};
use crate::api_server::next_message;
use crate::engine::images::Images;
use crate::engine::ingest::{Expected, IngestWriter, OpenedIngest};
use crate::engine::{self, EngineError, Lease, Lifetime, Origin};
use crate::export::{Exports, Request};
use crate::export_v1::ApiError;
use crate::export_v1::convert;
use crate::export_v1::limits::BLOBS;
use crate::export_v1::proto::precondition;
use crate::export_v1::proto::push_request::Message;
use crate::export_v1::proto::{Precondition, PushBegin, PushPart, PushRequest, PushResponse, Reason};
use crate::image::{Descriptor, Digest, Graph, Kind, Limits, Reference};
use crate::net::Principal;
use crate::source::{OnMissing, ReadGraphError, read_graph};

/// What a push is to do, checked.
struct Push {
    name: Option<Reference>,
    root: Descriptor,
    condition: Option<precondition::Condition>,
}

/// Runs one push of `client`'s.
pub(super) async fn push(
    exports: &Exports,
    client: Principal,
    mut messages: Streaming<PushRequest>,
) -> Result<PushResponse, Status> {
    let Some(Message::Begin(begin)) = next(&mut messages).await? else {
        return Err(ApiError::field("begin", "the first message must hold it").into());
    };
    let push = check(begin)?;
    exports.policy(&client).check(push.name.as_slice()).map_err(ApiError::from)?;
    let images = exports.engine().images().map_err(ApiError::from)?;
    // Checked again when it counts; a client that is late learns so before it sends anything.
    push.compare(&*images).await?;
    let export = format!("push-{:016x}{:016x}", RandomState::new().hash_one(0), RandomState::new().hash_one(1));
    let origin = Origin { export, door: "export", builder: String::new(), principal: client };
    let lease = exports.lease(&origin, Lifetime::Process).await.map_err(ApiError::from)?;
    let pushed = run(exports, &push, &*images, (origin, lease.clone()), &mut messages).await;
    exports.release(lease);
    pushed
}

async fn run(
    exports: &Exports,
    push: &Push,
    images: &dyn Images,
    (origin, lease): (Origin, Arc<dyn Lease>),
    messages: &mut Streaming<PushRequest>,
) -> Result<PushResponse, Status> {
    let received = receive(exports, &*lease, messages).await?;
    let stored = received.len();
    let graph = graph(images, &push.root).await?;
    let names: Vec<_> = push.name.clone().into_iter().collect();
    // What a name points to is compared, told to the client and set while nobody else sets it, by whichever door.
    let held = exports.hold_names(&names).await.map_err(ApiError::from)?;
    let previous = push.compare(images).await?;
    let blobs = graph.blobs();
    // Compared once more by the engine, which knows of other processes.
    let preconditions = push.preconditions();
    let request = Request { preconditions, received, ..Request::new(push.root.clone(), names, origin) };
    let done = exports.commit_held(request, Arc::new(graph), lease, held).await;
    done.map_err(ApiError::from)?;
    Ok(PushResponse {
        name: push.name.as_ref().map(ToString::to_string).unwrap_or_default(),
        root: Some(convert::descriptor_message(&push.root)),
        previous: previous.as_ref().map(convert::descriptor_message),
        stored_blobs: i64::try_from(stored).unwrap_or(i64::MAX),
        present_blobs: i64::try_from(blobs.saturating_sub(stored)).unwrap_or(i64::MAX),
    })
}

/// The next message; `None` at the end.
async fn next(messages: &mut Streaming<PushRequest>) -> Result<Option<Message>, Status> {
    match next_message(messages).await? {
        Some(PushRequest { message: None }) => Err(ApiError::field("message", "neither begin nor part").into()),
        message => Ok(message.and_then(|message| message.message)),
    }
}

/// Everything that is wrong with a beginning.
fn check(begin: PushBegin) -> Result<Push, ApiError> {
    let mut wrong = Vec::new();
    let name = Some(&begin.name).filter(|name| !name.is_empty()).and_then(|name| {
        name.parse::<Reference>().map_err(|error| wrong.push(("begin.name".to_owned(), error.to_string()))).ok()
    });
    let condition = begin.precondition.and_then(|Precondition { condition }| condition);
    if begin.name.is_empty() && condition.is_some() {
        wrong.push(("begin.precondition".to_owned(), "given without a name that it could be about".to_owned()));
    }
    match &condition {
        Some(precondition::Condition::Digest(digest)) => {
            if let Err(error) = digest.parse::<Digest>() {
                wrong.push(("begin.precondition.digest".to_owned(), error.to_string()));
            }
        }
        Some(precondition::Condition::Absent(false)) => {
            wrong.push(("begin.precondition.absent".to_owned(), "expected true, or no precondition".to_owned()));
        }
        _ => {}
    }
    let root = begin.root.as_ref().map(|root| convert::descriptor("begin.root", root));
    match root {
        Some(Ok(root)) if name.as_ref().is_some_and(|name| !name.admits(&root.digest)) => {
            wrong.push(("begin.name".to_owned(), other_image(&root.digest)));
        }
        Some(Ok(mut root)) if matches!(root.kind(), Kind::Index | Kind::Manifest) && wrong.is_empty() => {
            root.annotations.extend(begin.annotations);
            return Ok(Push { name, root, condition });
        }
        Some(Ok(root)) if !matches!(root.kind(), Kind::Index | Kind::Manifest) => {
            let what = format!("`{}` is neither an index nor a manifest", root.media_type);
            wrong.push(("begin.root.media_type".to_owned(), what));
        }
        Some(Ok(_)) => {}
        Some(Err(violations)) => wrong.extend(violations),
        None => wrong.push(("begin.root".to_owned(), "not given".to_owned())),
    }
    Err(ApiError::fields(wrong))
}

impl Push {
    /// The precondition, as an engine takes it.
    fn preconditions(&self) -> Vec<engine::Precondition> {
        let expected = match &self.condition {
            None => return Vec::new(),
            // It was parsed when it was checked.
            Some(precondition::Condition::Digest(digest)) => digest.parse().ok(),
            Some(precondition::Condition::Absent(_)) => None,
        };
        self.name
            .iter()
            .map(|name| engine::Precondition { name: name.clone(), expected: vec![expected.clone()] })
            .collect()
    }

    /// What the name points to, if that is what the client thinks.
    async fn compare(&self, images: &dyn Images) -> Result<Option<Descriptor>, ApiError> {
        let Some(name) = &self.name else { return Ok(None) };
        let current = images.resolve(name).await?;
        let digest = current.as_ref().map(|current| current.digest.as_str());
        let expected = match &self.condition {
            None => return Ok(current),
            Some(precondition::Condition::Digest(expected)) if digest == Some(expected) => return Ok(current),
            Some(precondition::Condition::Absent(_)) if digest.is_none() => return Ok(current),
            Some(precondition::Condition::Digest(expected)) => format!("to point to {expected}"),
            Some(precondition::Condition::Absent(_)) => "not to exist".to_owned(),
        };
        let now = digest.map_or_else(|| "it does not exist".to_owned(), |digest| format!("it points to {digest}"));
        let message = format!("the name `{name}` was expected {expected}, but {now}; resolve it, decide, and push");
        let refusal = ApiError::new(Code::Aborted, Reason::PreconditionFailed, message);
        Err(refusal.with("current", digest.unwrap_or_default()))
    }
}

/// A blob that comes in.
struct Incoming {
    blob: Descriptor,
    /// None if the engine has it: its bytes are passed over.
    writer: Option<Box<dyn IngestWriter>>,
    left: u64,
}

/// Stores the blobs that come, and returns those that were stored.
async fn receive(
    exports: &Exports,
    lease: &dyn Lease,
    messages: &mut Streaming<PushRequest>,
) -> Result<HashSet<Digest>, Status> {
    let (mut stored, mut blobs, mut current) = (HashSet::new(), 0, None::<Incoming>);
    while let Some(message) = next(messages).await? {
        let Message::Part(PushPart { descriptor, data }) = message else {
            return Err(ApiError::field("begin", "only the first message may hold it").into());
        };
        if let Some(descriptor) = descriptor {
            let blob = convert::descriptor("part.descriptor", &descriptor).map_err(ApiError::fields)?;
            if current.as_ref().is_none_or(|incoming| incoming.blob.digest != blob.digest) {
                stored.extend(finish(exports, current.take()).await?);
                blobs += 1;
                if blobs > BLOBS {
                    let message = format!("more than {BLOBS} blobs in one push");
                    return Err(ApiError::limit(Code::InvalidArgument, "blobs", BLOBS, message).into());
                }
                current = Some(begin(lease, blob).await?);
            }
        }
        let Some(incoming) = &mut current else {
            return Err(ApiError::field("part.descriptor", "required in the first part of a blob").into());
        };
        let Some(left) = incoming.left.checked_sub(data.len() as u64) else {
            let what = format!("more bytes than the {} of {}", incoming.blob.size, incoming.blob.digest);
            return Err(ApiError::field("part.data", what).into());
        };
        incoming.left = left;
        if let Some(writer) = &mut incoming.writer
            && !data.is_empty()
        {
            writer.write(data).await.map_err(ApiError::from)?;
        }
    }
    stored.extend(finish(exports, current).await?);
    Ok(stored)
}

async fn begin(lease: &dyn Lease, blob: Descriptor) -> Result<Incoming, ApiError> {
    let expected = Expected { digest: Some(blob.digest.clone()), size: Some(blob.size) };
    let writer = match lease.ingests()?.open(blob.digest.as_str(), &expected).await? {
        OpenedIngest::Present => None,
        OpenedIngest::Writer(mut writer) => {
            if writer.offset() > 0 {
                writer.restart().await?;
            }
            Some(writer)
        }
    };
    Ok(Incoming { left: blob.size, blob, writer })
}

/// Completes a blob, and returns it if it was stored, and the engine has it from nowhere else.
async fn finish(exports: &Exports, incoming: Option<Incoming>) -> Result<Option<Digest>, ApiError> {
    let Some(Incoming { blob, writer, left }) = incoming else { return Ok(None) };
    if left > 0 {
        let what = format!("{left} bytes of {} are missing", blob.digest);
        return Err(ApiError::field("part.data", what));
    }
    let Some(writer) = writer else { return Ok(None) };
    match writer.commit(Expected::default()).await {
        Ok(_) => {
            let sent = Activity::Blobs { door: "export", how: Arrival::Sent, blobs: 1, bytes: blob.size };
            exports.activities().emit(sent);
            Ok(Some(blob.digest))
        }
        Err(EngineError::Present { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The image of `root` as the engine holds it. All documents that are missing are named.
async fn graph(images: &dyn Images, root: &Descriptor) -> Result<Graph, ApiError> {
    match read_graph(images, root.clone(), Limits::default(), OnMissing::Collect).await {
        Err(ReadGraphError::Missing { documents, .. }) => Err(ApiError::missing(&documents, root.digest.as_str())),
        read => Ok(read?),
    }
}
