//! A client of the exporter API.

use std::path::Path;

use containerd_client::services::v1::content_client::ContentClient;
use containerd_client::services::v1::{WriteAction, WriteContentRequest, WriteContentResponse};
use futures_util::stream;
use linkspan::export_v1::proto::commit_response::Event;
use linkspan::export_v1::proto::exports_client::ExportsClient;
use linkspan::export_v1::proto::{
    CommitRequest, CommitResults, Descriptor, Exporter, ExporterResult, NegotiateRequest, Negotiated, OpenRequest,
    Standing, Target,
};
use tonic::metadata::AsciiMetadataValue;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};
use tonic_types::StatusExt;

use crate::common::channel;
use crate::fixture::{Image, Layer};

/// An image of one small layer.
pub(crate) fn small_image(content: &str) -> Image {
    Image::new(&[Layer::new().file("etc/greeting", content).tar()])
}

/// A client as anybody would write one.
#[derive(Clone)]
pub(crate) struct Client {
    pub(crate) channel: Channel,
    pub(crate) exports: ExportsClient<Channel>,
}

/// Names the export in every call.
#[derive(Clone)]
pub(crate) struct InExport(AsciiMetadataValue);

impl Interceptor for InExport {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert("linkspan-export", self.0.clone());
        Ok(request)
    }
}

pub(crate) type Content = ContentClient<InterceptedService<Channel, InExport>>;

impl Client {
    pub(crate) async fn connect(door: &Path) -> Self {
        let channel = channel(door, Endpoint::from_static("http://localhost")).await;
        let exports = ExportsClient::new(channel.clone()).max_decoding_message_size(16 << 20);
        Self { channel, exports }
    }

    /// Opens an export with one exporter `image` for each of `ids`.
    pub(crate) async fn open(&self, ids: &[&str]) -> String {
        let request = OpenRequest { exporters: ids.iter().map(|id| exporter(id)).collect(), ..OpenRequest::default() };
        self.exports.clone().open(request).await.unwrap().into_inner().export.unwrap().id
    }

    pub(crate) async fn negotiate(&self, export: &str, blobs: Vec<Descriptor>) -> Result<Vec<Negotiated>, Status> {
        let message = NegotiateRequest { export_id: export.to_owned(), descriptors: blobs };
        let mut responses = self.exports.clone().negotiate(stream::iter([message])).await?.into_inner();
        Ok(responses.message().await?.unwrap().blobs)
    }

    pub(crate) fn content(&self, export: &str) -> Content {
        let inner = InExport(export.parse().unwrap());
        ContentClient::with_interceptor(self.channel.clone(), inner).max_decoding_message_size(16 << 20)
    }

    /// Negotiates `image` and sends what is missing; how many blobs that were.
    pub(crate) async fn send(&self, export: &str, image: &Image) -> usize {
        let negotiated = self.negotiate(export, descriptors(image)).await.unwrap();
        let missing: Vec<_> = negotiated.iter().filter(|blob| blob.standing() != Standing::Present).collect();
        for blob in &missing {
            let bytes = &image.blobs[&blob.digest.parse().unwrap()];
            write(self.content(export), &blob.digest, bytes).await.unwrap();
        }
        missing.len()
    }

    pub(crate) async fn commit(&self, export: &str, targets: Vec<Target>) -> Result<CommitResults, Status> {
        let request = CommitRequest { export_id: export.to_owned(), targets };
        let mut responses = self.exports.clone().commit(request).await?.into_inner();
        loop {
            match responses.message().await?.unwrap().event.unwrap() {
                Event::Progress(_) => {}
                Event::Results(results) => {
                    assert!(responses.message().await?.is_none(), "nothing comes after the results");
                    return Ok(results);
                }
            }
        }
    }
}

/// Writes a whole blob in one message, under its digest as ref.
pub(crate) async fn write(
    mut content: Content,
    digest: &str,
    bytes: &bytes::Bytes,
) -> Result<WriteContentResponse, Status> {
    let message = WriteContentRequest {
        action: WriteAction::Commit.into(),
        r#ref: digest.to_owned(),
        total: bytes.len() as i64,
        expected: digest.to_owned(),
        data: bytes.to_vec(),
        ..WriteContentRequest::default()
    };
    let mut responses = content.write(stream::iter([message])).await?.into_inner();
    Ok(responses.message().await?.unwrap())
}

pub(crate) fn exporter(id: &str) -> Exporter {
    Exporter { id: id.to_owned(), r#type: "image".to_owned(), ..Exporter::default() }
}

pub(crate) fn target(exporter: &str, image: &Image, names: &[&str]) -> Target {
    Target {
        exporter_id: exporter.to_owned(),
        root: Some(descriptor(&image.root)),
        names: names.iter().map(|&name| name.to_owned()).collect(),
        ..Target::default()
    }
}

pub(crate) fn descriptor(descriptor: &linkspan::image::Descriptor) -> Descriptor {
    Descriptor {
        media_type: descriptor.media_type.clone(),
        digest: descriptor.digest.to_string(),
        size: descriptor.size as i64,
        ..Descriptor::default()
    }
}

/// All blobs of an image, documents first.
pub(crate) fn descriptors(image: &Image) -> Vec<Descriptor> {
    image.graph().descriptors().map(descriptor).collect()
}

/// The ErrorInfo of a refusal: its reason and metadata.
#[track_caller]
pub(crate) fn reason(status: &Status) -> String {
    let details = status.get_error_details();
    let info = details.error_info().unwrap_or_else(|| panic!("no ErrorInfo: {status:?}"));
    assert_eq!(info.domain, "linkspan.export.v1");
    info.reason.clone()
}

/// The fields that a refusal names.
pub(crate) fn fields(status: &Status) -> Vec<String> {
    let details = status.get_error_details();
    let violations = details.bad_request().map(|it| it.field_violations.clone()).unwrap_or_default();
    violations.into_iter().map(|violation| violation.field).collect()
}

/// The only result, which must be a success.
#[track_caller]
pub(crate) fn success(results: &CommitResults) -> &ExporterResult {
    let [result] = &results.results[..] else { panic!("{results:?}") };
    assert!(result.error.is_none(), "{result:?}");
    result
}
