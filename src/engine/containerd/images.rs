//! Image records: the only thing of an export that users see.

use containerd_client::services::v1::{
    CreateImageRequest, DeleteImageRequest, GetImageRequest, Image, UpdateImageRequest,
};
use containerd_client::types::Descriptor as Target;
use prost_types::FieldMask;
use tonic::Code;

use super::client::{Client, Expect as _};
use super::content;
use crate::engine::EngineError;
use crate::image::{Descriptor, Digest};

/// The prefix of the record of an image without a name, followed by `@` and its digest. It is BuildKit's
/// convention (`dangling-name-prefix` of its `image` exporter); the prefix is ours, so that nobody mistakes it for
/// dockerd's `moby-dangling`.
pub(crate) const DANGLING: &str = "linkspan-dangling";
/// How often to go round when another client creates and deletes the same record at the same time.
const TRIES: usize = 5;

/// The name of the record of an image without a name.
pub(crate) fn dangling(digest: &Digest) -> String {
    format!("{DANGLING}@{digest}")
}

/// What `name` points to.
pub(crate) async fn get(client: &Client, name: &str) -> Result<Option<Image>, EngineError> {
    let mut images = client.images();
    let call = images.get(client.request(GetImageRequest { name: name.to_owned() }));
    let found = client.unary(format!("looking up image {name}"), call).await.unless(Code::NotFound)?;
    Ok(found.and_then(|response| response.image))
}

/// The record by which `name` points to `target`.
fn record(name: &str, target: &Descriptor) -> Result<Image, EngineError> {
    Ok(Image {
        name: name.to_owned(),
        target: Some(Target {
            media_type: target.media_type.clone(),
            digest: target.digest.to_string(),
            size: content::size(target)?,
            annotations: target.annotations.clone().into_iter().collect(),
        }),
        ..Image::default()
    })
}

/// Makes a record for `name`, which must not have one; whether that was so.
pub(crate) async fn create(client: &Client, name: &str, target: &Descriptor) -> Result<bool, EngineError> {
    insert(client, record(name, target)?).await
}

/// Makes the record `image`, of whose name there must be none; whether that was so.
pub(crate) async fn insert(client: &Client, image: Image) -> Result<bool, EngineError> {
    let operation = format!("creating image {}", image.name);
    let request = CreateImageRequest { image: Some(image), source_date_epoch: None };
    let mut images = client.images();
    let create = images.create(client.request(request));
    Ok(client.unary(operation, create).await.unless(Code::AlreadyExists)?.is_some())
}

/// Gives the record `image` the target that it says; whether there was one of this name.
pub(crate) async fn update(client: &Client, image: Image) -> Result<bool, EngineError> {
    let operation = format!("updating image {}", image.name);
    let mask = FieldMask { paths: vec!["target".to_owned()] };
    let request = UpdateImageRequest { image: Some(image), update_mask: Some(mask), source_date_epoch: None };
    let mut images = client.images();
    let call = images.update(client.request(request));
    Ok(client.unary(operation, call).await.unless(Code::NotFound)?.is_some())
}

/// Whether there is a record `name`.
///
/// # Errors
/// [`EngineError::NameMoved`] if it points to something else than `target`.
pub(crate) async fn resolves_to(client: &Client, name: &str, target: &Digest) -> Result<bool, EngineError> {
    let Some(image) = get(client, name).await? else { return Ok(false) };
    let current = image.target.and_then(|target| target.digest.parse::<Digest>().ok());
    match current {
        Some(current) if current == *target => Ok(true),
        current => Err(EngineError::NameMoved { name: name.to_owned(), current }),
    }
}

/// Deletes the record `name`, which must point to `target`; fine if there is none.
///
/// # Errors
/// [`EngineError::NameMoved`] if it points to something else: it stays.
pub(crate) async fn delete(client: &Client, name: &str, target: &Digest) -> Result<(), EngineError> {
    // A containerd that compares by itself does so in the transaction of the deletion; one that does not know the field
    // (1.6) deletes whatever the record points to, so that it is compared here as well.
    while resolves_to(client, name, target).await? {
        let expected = Target { digest: target.to_string(), ..Target::default() };
        let request =
            DeleteImageRequest { name: name.to_owned(), target: Some(expected), ..DeleteImageRequest::default() };
        let mut images = client.images();
        let call = images.delete(client.request(request));
        // Not found is what a record is called as well that has just moved.
        if client.unary(format!("deleting image {name}"), call).await.unless(Code::NotFound)?.is_some() {
            break;
        }
    }
    Ok(())
}

/// Makes `name` point to `target`. An existing record keeps its labels: other clients depend on theirs.
pub(crate) async fn set(client: &Client, name: &str, target: &Descriptor) -> Result<(), EngineError> {
    let image = record(name, target)?;
    for _ in 0..TRIES {
        if update(client, image.clone()).await? {
            return Ok(());
        }
        if create(client, name, target).await? {
            return Ok(());
        }
    }
    Err(EngineError::Commit {
        engine: "containerd",
        reason: format!("image {name} was created and deleted by another client {TRIES} times in a row"),
    })
}
