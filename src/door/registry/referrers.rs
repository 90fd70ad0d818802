//! Listing what refers to a manifest: signatures, attestations and other artifacts.

use http::header::{CONTENT_TYPE, HeaderName, HeaderValue, LINK};
use http::{Response, StatusCode};
use serde::Serialize;

use super::Door;
use super::blobs::digest_of;
use super::query::{self, PageQuery, encode};
use super::refusal::Refusal;
use super::repository::Repository;
use super::response::{json, put};
use crate::http2::Body;
use crate::image::Descriptor;
use crate::net::Principal;

/// The type of the list.
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// Says which of the client's filters were applied.
const FILTERS_APPLIED: HeaderName = HeaderName::from_static("oci-filters-applied");
/// How long a list is, in bytes: clients read no larger index (distribution specification, "Listing Referrers").
const MAX_BYTES: usize = 3 << 20;

/// The list, as an index.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct List {
    schema_version: u32,
    media_type: &'static str,
    manifests: Vec<Descriptor>,
}

impl Door {
    /// The response to a GET of the referrers of `digest`.
    pub(super) async fn referrers(
        &self,
        repository: &Repository,
        digest: &str,
        query: Option<&str>,
        client: &Principal,
    ) -> Result<Response<Body>, Refusal> {
        let (digest, page) = (digest_of(digest)?, PageQuery::of(query)?);
        let artifact_type = query::value(query, "artifactType").filter(|kind| !kind.is_empty());
        let readable = self.readable(repository, client).await?;
        let mut found = self.referrers_in(repository, &digest, &readable, client).await?;
        found.retain(|referrer| {
            let is_next = page.last.as_deref().is_none_or(|last| referrer.digest.as_str() > last);
            is_next && artifact_type.as_ref().is_none_or(|kind| referrer.artifact_type.as_ref() == Some(kind))
        });
        let all = found.len();
        let mut bytes = 0;
        found.truncate(page.limit);
        let fitting = found.iter().take_while(|referrer| {
            bytes += serde_json::to_vec(referrer).map_or(0, |text| text.len() + 1);
            bytes <= MAX_BYTES
        });
        // One that is larger than the list may be is listed alone.
        let count = fitting.count().max(1);
        found.truncate(count);
        let last = found.last().filter(|_| found.len() < all).map(|referrer| referrer.digest.to_string());
        let list = List { schema_version: 2, media_type: INDEX, manifests: found };
        let mut response = json(StatusCode::OK, &list);
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(INDEX));
        let mut more = String::new();
        if let Some(kind) = artifact_type {
            headers.insert(FILTERS_APPLIED, HeaderValue::from_static("artifactType"));
            more = format!("&artifactType={}", encode(&kind));
        }
        if let Some(last) = last {
            put(headers, LINK, &page.link(&format!("/v2/{}/referrers/{digest}", repository.name), &last, &more));
        }
        Ok(response)
    }
}
