//! A client of the caching API, and a linkspan that serves it.

use bytes::Bytes;
use containerd_client::services::v1::content_client::ContentClient;
use containerd_client::services::v1::{InfoRequest, ReadContentRequest, WriteAction, WriteContentRequest};
use futures_util::stream;
use linkspan::cache_v1::proto::caches_client::CachesClient;
use linkspan::cache_v1::proto::commit_response::Event;
use linkspan::cache_v1::proto::{CommitRequest, CommitResults, CommitTarget, OpenRequest, PartName, Target};
use linkspan::engine::caches::CacheDocument;
use linkspan::export_v1::proto as export;
use linkspan::image::{Descriptor, Digest};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};
use tonic_types::StatusExt;

pub(crate) use crate::common::ApiServer as Server;
use crate::common::channel;
use crate::fixture::{INDEX, documents};

impl Server {
    /// One in front of a layout, and one in front of `namespace` of containerd.
    pub(crate) fn each(namespace: &str) -> [(&'static str, Self); 2] {
        Self::each_with(namespace, &[])
    }

    pub(crate) fn each_with(namespace: &str, args: &[&str]) -> [(&'static str, Self); 2] {
        [("layout", Self::layout_with(args).0), ("containerd", Self::containerd_with(namespace, args))]
    }

    pub(crate) async fn client(&self) -> Client {
        self.client_by(Endpoint::from_static("http://localhost")).await
    }

    /// One that takes so many bytes of a stream before it reads them.
    pub(crate) async fn client_with_window(&self, bytes: u32) -> Client {
        self.client_by(Endpoint::from_static("http://localhost").initial_stream_window_size(bytes)).await
    }

    async fn client_by(&self, endpoint: Endpoint) -> Client {
        let channel = channel(&self.door, endpoint).await;
        Client { caches: CachesClient::new(channel.clone()), content: ContentClient::new(channel) }
    }
}

#[derive(Clone)]
pub(crate) struct Client {
    pub(crate) caches: CachesClient<Channel>,
    pub(crate) content: ContentClient<Channel>,
}

/// A call of the Content service about `id`.
pub(crate) fn about<T>(id: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("linkspan-cache", id.parse().unwrap());
    request
}

/// A target of the part of `platform`.
pub(crate) fn target(id: &str, reference: &str, platform: &str) -> Target {
    let part = PartName { platform: platform.to_owned(), ..PartName::default() };
    Target { id: id.to_owned(), r#ref: reference.to_owned(), part: Some(part), ..Target::default() }
}

pub(crate) fn of(root: &CacheDocument) -> export::Descriptor {
    export::Descriptor {
        media_type: root.descriptor.media_type.clone(),
        digest: root.descriptor.digest.to_string(),
        size: root.descriptor.size as i64,
        ..export::Descriptor::default()
    }
}

impl Client {
    pub(crate) async fn open(&self, targets: Vec<Target>) -> String {
        let request = OpenRequest { targets, ..OpenRequest::default() };
        self.caches.clone().open(request).await.unwrap().into_inner().export.unwrap().id
    }

    pub(crate) async fn write(&self, id: &str, bytes: &[u8]) -> Result<(), Status> {
        let digest = Digest::sha256(bytes).to_string();
        let message = WriteContentRequest {
            action: WriteAction::Commit.into(),
            r#ref: digest.clone(),
            total: bytes.len() as i64,
            expected: digest,
            data: bytes.to_vec(),
            ..WriteContentRequest::default()
        };
        let mut responses = self.content.clone().write(about(id, stream::iter([message]))).await?.into_inner();
        responses.message().await?.unwrap();
        Ok(())
    }

    pub(crate) async fn commit(
        &self,
        export: &str,
        targets: &[(&str, &CacheDocument)],
    ) -> Result<CommitResults, Status> {
        let target = |(id, root): &(&str, &CacheDocument)| CommitTarget {
            target_id: (*id).to_owned(),
            root: Some(of(root)),
            ..CommitTarget::default()
        };
        let targets = targets.iter().map(target).collect();
        let request = CommitRequest { export_id: export.to_owned(), targets };
        let mut responses = self.caches.clone().commit(request).await?.into_inner();
        loop {
            if let Event::Results(results) = responses.message().await?.unwrap().event.unwrap() {
                return Ok(results);
            }
        }
    }

    /// Exports a cache with these layers, and returns the id of its version.
    pub(crate) async fn export(&self, targets: Vec<Target>, layers: &[&str]) -> Vec<String> {
        let (config, root) = documents(layers, INDEX);
        let ids: Vec<_> = targets.iter().map(|target| target.id.clone()).collect();
        let export = self.open(targets).await;
        for bytes in layers.iter().map(|layer| layer.as_bytes()).chain([&config.bytes[..], &root.bytes]) {
            match self.write(&export, bytes).await {
                Err(status) if status.code() == tonic::Code::AlreadyExists => {}
                written => written.unwrap(),
            }
        }
        let targets: Vec<_> = ids.iter().map(|id| (id.as_str(), &root)).collect();
        let results = self.commit(&export, &targets).await.unwrap().results;
        results.into_iter().map(|result| result.version.unwrap_or_else(|| panic!("{:?}", result.error)).id).collect()
    }

    pub(crate) async fn size(&self, id: &str, digest: &Digest) -> Result<i64, Status> {
        let request = InfoRequest { digest: digest.to_string() };
        Ok(self.content.clone().info(about(id, request)).await?.into_inner().info.unwrap().size)
    }

    pub(crate) async fn read(&self, id: &str, blob: &Descriptor) -> Result<Bytes, Status> {
        let request = ReadContentRequest { digest: blob.digest.to_string(), ..ReadContentRequest::default() };
        let mut responses = self.content.clone().read(about(id, request)).await?.into_inner();
        let mut bytes = Vec::new();
        while let Some(part) = responses.message().await? {
            bytes.extend(part.data);
        }
        Ok(bytes.into())
    }
}

/// The reason of a refusal.
#[track_caller]
pub(crate) fn reason(status: &Status) -> String {
    let details = status.get_error_details();
    details.error_info().unwrap_or_else(|| panic!("no ErrorInfo: {status:?}")).reason.clone()
}
