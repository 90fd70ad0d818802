//! `linkspan.export.v1.References`: what the engine holds, to be resolved, read and added to.
//!
//! Images need not be whole: an engine often holds one platform of an index. So documents are read as far as they are
//! there ([`crate::source::tree`]), and only [`push`], which sets a name, insists on all of them.

mod inspect;
mod push;
mod resolve;

use std::sync::Arc;

use futures_util::{StreamExt as _, stream};
use tonic::{Code, Request, Response, Status, Streaming};

use super::output::parts;
use crate::api_server::client;
use crate::engine::images::{Images, MAX_PAGE, Query, Record};
use crate::export::Exports;
use crate::export_v1::convert::{descriptor_message, digest};
use crate::export_v1::proto::references_server::References as Service;
use crate::export_v1::proto::*;
use crate::export_v1::{ApiError, ResponseStream};
use crate::image::{self, Digest};
use crate::source::read_range;

/// The service.
#[derive(Debug, Clone)]
pub(super) struct ReferenceService {
    exports: Arc<Exports>,
}

impl ReferenceService {
    pub(super) fn new(exports: Arc<Exports>) -> Self {
        Self { exports }
    }

    fn images(&self) -> Result<Arc<dyn Images>, ApiError> {
        Ok(self.exports.engine().images()?)
    }
}

/// What `reference` points to: its name in full, empty for a digest alone, and its root.
async fn find(images: &dyn Images, reference: &str) -> Result<(String, image::Descriptor), ApiError> {
    let (name, found) = match reference.parse::<Digest>() {
        Ok(digest) => (String::new(), images.identify(&digest).await?),
        Err(_) => {
            let name: image::Reference =
                reference.parse().map_err(|error| ApiError::field("reference", format!("{error}")))?;
            (name.to_string(), images.resolve(&name).await?)
        }
    };
    match found {
        Some(root) => Ok((name, root)),
        None => Err(absent(if name.is_empty() { reference } else { &name }, "list what is there, or push it")),
    }
}

/// There is no such thing here.
fn absent(what: &str, hint: &str) -> ApiError {
    let message = format!("the engine has no {what}; {hint}");
    ApiError::new(Code::NotFound, Reason::ReferenceNotFound, message).with("reference", what)
}

#[tonic::async_trait]
impl Service for ReferenceService {
    async fn resolve(&self, request: Request<ResolveRequest>) -> Result<Response<ResolveResponse>, Status> {
        let images = self.images()?;
        Ok(Response::new(resolve::resolve(&*images, &request.into_inner()).await?))
    }

    async fn inspect(&self, request: Request<InspectRequest>) -> Result<Response<InspectResponse>, Status> {
        let images = self.images()?;
        let (client, request) = (client(&request)?, request.into_inner());
        Ok(Response::new(inspect::inspect(&self.exports, &*images, &client, &request.reference).await?))
    }

    async fn list(&self, request: Request<ListReferencesRequest>) -> Result<Response<ListReferencesResponse>, Status> {
        let ListReferencesRequest { prefix, page_size, page_token, unnamed } = request.into_inner();
        let limit = usize::try_from(page_size).ok().filter(|size| *size > 0).unwrap_or(MAX_PAGE).min(MAX_PAGE);
        let images = self.images()?;
        let mut query = Query { prefix, after: Some(page_token).filter(|token| !token.is_empty()), limit };
        // Images without a name have no reference, unless they are requested. A page of nothing else is passed over.
        let (references, next) = loop {
            let page = images.list(&query).await.map_err(ApiError::from)?;
            let selected = page.records.iter().filter(|record| unnamed || record.name.is_some());
            let reference = |record: &Record| Reference {
                name: record.name.clone().unwrap_or_default(),
                root: Some(descriptor_message(&record.target)),
            };
            let references: Vec<_> = selected.map(reference).collect();
            match page.next {
                Some(next) if references.is_empty() => query.after = Some(next),
                next => break (references, next),
            }
        };
        Ok(Response::new(ListReferencesResponse { references, next_page_token: next.unwrap_or_default() }))
    }

    type FetchStream = ResponseStream<FetchResponse>;

    async fn fetch(&self, request: Request<FetchRequest>) -> Result<Response<Self::FetchStream>, Status> {
        let FetchRequest { digest: text, offset, length } = request.into_inner();
        let digest = digest("digest", &text)?;
        let images = self.images()?;
        let size = images.size(&digest).await.map_err(ApiError::from)?;
        let size = size.ok_or_else(|| absent(&format!("blob {digest}"), "fetch it elsewhere"))?;
        let wrong = |field: &str, number: i64| {
            ApiError::field(field, format!("{number} is outside of the blob, which has {size} bytes"))
        };
        let start = u64::try_from(offset).ok().filter(|start| *start <= size).ok_or_else(|| wrong("offset", offset))?;
        let end = match u64::try_from(length).map_err(|_| wrong("length", length))? {
            0 => size,
            length => start.saturating_add(length).min(size),
        };
        let blob = image::Descriptor::new("", digest, size);
        // The blob's file is open from here on, here or in containerd: what is deleted now is read to its end all the same.
        let chunks = read_range(&*images, &blob, start..end).await.map_err(ApiError::from)?;
        // The first message has the size, also of a blob or a range of no bytes.
        let number = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        let head = FetchResponse { offset: number(start), size: number(size), ..FetchResponse::default() };
        let parts = parts(chunks, start);
        let responses = parts.map(|part| part.map(|(offset, data)| FetchResponse { offset, data, size: 0 }));
        Ok(Response::new(Box::pin(stream::iter([Ok(head)]).chain(responses))))
    }

    async fn push(&self, request: Request<Streaming<PushRequest>>) -> Result<Response<PushResponse>, Status> {
        let exports = self.exports.clone();
        let (client, messages) = (client(&request)?, request.into_inner());
        // To its end even if the client goes away: a lease that was created must be released.
        let pushed = tokio::spawn(async move { push::push(&exports, client, messages).await }).await;
        Ok(Response::new(pushed.map_err(|error| ApiError::broken(&error))??))
    }
}
