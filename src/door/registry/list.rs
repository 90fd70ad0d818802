//! Lists: the tags of a repository, and all repositories.

use http::header::LINK;
use http::{Response, StatusCode};
use serde_json::json;

use super::Door;
use super::query::PageQuery;
use super::refusal::{Code, Refusal};
use super::repository::{Repository, public_name};
use super::response::{json, put};
use crate::engine::images::Query;
use crate::http2::Body;
use crate::image::Reference;
use crate::net::Principal;

impl Door {
    /// The response to a GET of a repository's tags.
    pub(super) async fn tags(
        &self,
        repository: &Repository,
        query: Option<&str>,
        client: &Principal,
    ) -> Result<Response<Body>, Refusal> {
        let rights = self.exports.policy(client);
        let page = PageQuery::of(query)?;
        let prefix = format!("{}:", repository.full);
        let after = page.last.as_ref().map(|last| format!("{prefix}{last}"));
        // One more tells whether there is another page. Records of other tools may be no tags.
        let mut tags = Vec::new();
        let mut records = Query { prefix: prefix.clone(), after, limit: page.limit + 1 };
        loop {
            let found = self.images.list(&records).await?;
            let names = found.records.iter().filter_map(|record| record.name.as_deref());
            let names = names.filter(|name| rights.may_pull(name)).filter_map(|name| name.strip_prefix(&prefix));
            tags.extend(names.filter(|tag| repository.tagged(tag).is_ok()).map(str::to_owned));
            match found.next {
                Some(next) if tags.len() <= page.limit => records.after = Some(next),
                _ => break,
            }
        }
        if tags.is_empty() && !(rights.may_pull_all() && self.has(repository).await?) {
            let message = "the engine has no image of this repository";
            return Err(Refusal::absent(Code::NameUnknown, message).about("name", repository.name.as_str()));
        }
        let is_more = page.limit > 0 && tags.len() > page.limit;
        tags.truncate(page.limit);
        let mut response = json(StatusCode::OK, &json!({ "name": repository.name, "tags": tags }));
        if let Some(last) = tags.last().filter(|_| is_more) {
            put(response.headers_mut(), LINK, &page.link(&format!("/v2/{}/tags/list", repository.name), last, ""));
        }
        Ok(response)
    }

    /// Whether any image has a name of the repository, with a tag or a digest.
    async fn has(&self, repository: &Repository) -> Result<bool, Refusal> {
        for end in [':', '@'] {
            let query = Query { prefix: format!("{}{end}", repository.full), after: None, limit: 1 };
            if !self.images.list(&query).await?.records.is_empty() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The response to a GET of all repositories.
    pub(super) async fn repositories(
        &self,
        query: Option<&str>,
        client: &Principal,
    ) -> Result<Response<Body>, Refusal> {
        if !self.catalog {
            let message = "repositories are not listed here; hint: serve with --registry-catalog";
            return Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, Code::Unsupported, message));
        }
        let page = PageQuery::of(query)?;
        let rights = self.exports.policy(client);
        let (mut names, mut records) = (Vec::new(), Query::default());
        loop {
            let found = self.images.list(&records).await?;
            let shown = found.records.iter().filter_map(|record| record.name.as_deref());
            let references =
                shown.filter(|name| rights.may_pull(name)).filter_map(|name| name.parse::<Reference>().ok());
            names.extend(references.filter_map(|reference| public_name(&reference.name())));
            // They are sorted by their names in the engine, so that the public ones must be sorted once more.
            names.sort_unstable();
            names.dedup();
            match found.next {
                Some(next) => records.after = Some(next),
                None => break,
            }
        }
        if let Some(last) = &page.last {
            names.retain(|name| name > last);
        }
        let is_more = page.limit > 0 && names.len() > page.limit;
        names.truncate(page.limit);
        let mut response = json(StatusCode::OK, &json!({ "repositories": names }));
        if let Some(last) = names.last().filter(|_| is_more) {
            put(response.headers_mut(), LINK, &page.link("/v2/_catalog", last, ""));
        }
        Ok(response)
    }
}
