//! A client of the exporter API that measures: `cargo bench --bench export_api -- ADDRESS CASE [SIZE]`.
//!
//! Prints one line of JSON with the seconds that the case took. Needs a `linkspan serve --export-listen ADDRESS`.
//!
//! * `warm [LAYERS]`: an image of so many layers (100) that the engine holds, from Open to the end of Commit; the median
//!   of 20 exports, after one that sent it.
//! * `stream [MIB]`: so many MiB (3072) in 8 blobs over 8 streams, not committed.
//! * `small [COUNT]`: so many blobs (10,000) of 1 KiB over 16 streams at a time, not committed.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a program for measuring, which ends at the first error")]

use std::time::Instant;

use bytes::Bytes;
use containerd_client::services::v1::content_client::ContentClient;
use containerd_client::services::v1::{WriteAction, WriteContentRequest};
use futures_util::{StreamExt, TryStreamExt, stream};
use linkspan::door::export_api::proto::commit_response::Event;
use linkspan::door::export_api::proto::exports_client::ExportsClient;
use linkspan::door::export_api::proto::{
    AbortRequest, CommitRequest, Descriptor, Exporter, NegotiateRequest, OpenRequest, Standing, Target,
};
use linkspan::image::{Algorithm, Digest, Hasher, Platform};
use serde_json::json;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

/// How much goes into a message: what containerd's Go client sends at most.
const MESSAGE: usize = 8 << 20;
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

#[tokio::main]
async fn main() {
    // cargo itself adds `--bench`.
    let words: Vec<_> = std::env::args().skip(1).filter(|word| !word.starts_with("--")).collect();
    let [address, case, size @ ..] = &words[..] else {
        println!("{}", json!({"skipped": "usage: cargo bench --bench export_api -- ADDRESS warm|stream|small [SIZE]"}));
        return;
    };
    let size = |default| size.first().map_or(default, |size| size.parse().unwrap());
    let client = Client { channel: connect(address).await };
    let result = match case.as_str() {
        "warm" => client.warm(size(100)).await,
        "stream" => client.stream(size(3072)).await,
        "small" => client.small(size(10_000)).await,
        _ => panic!("{case} is no case; expected warm, stream or small"),
    };
    println!("{}", result.unwrap());
}

async fn connect(address: &str) -> Channel {
    let endpoint = Endpoint::from_static("http://localhost")
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(16 << 20);
    let path = address.strip_prefix("unix://").unwrap().to_owned();
    let connect = move |_| {
        let path = path.clone();
        async move { tokio::net::UnixStream::connect(path).await.map(hyper_util::rt::TokioIo::new) }
    };
    endpoint.connect_with_connector(tower::service_fn(connect)).await.unwrap()
}

struct Client {
    channel: Channel,
}

impl Client {
    fn exports(&self) -> ExportsClient<Channel> {
        ExportsClient::new(self.channel.clone())
    }

    async fn open(&self) -> Result<String, Status> {
        let exporters = vec![Exporter { id: "a".to_owned(), r#type: "image".to_owned(), ..Exporter::default() }];
        let opened = self.exports().open(OpenRequest { exporters, ..OpenRequest::default() }).await?;
        Ok(opened.into_inner().export.unwrap().id)
    }

    async fn abort(&self, export: String) -> Result<(), Status> {
        self.exports().abort(AbortRequest { export_id: export }).await.map(|_| ())
    }

    /// Writes a blob whose bytes are `chunks`.
    async fn write(&self, export: &str, digest: &Digest, total: usize, chunks: Vec<Bytes>) -> Result<(), Status> {
        let mut offset = 0;
        let last = chunks.len() - 1;
        let (name, expected) = (digest.to_string(), digest.to_string());
        let messages = chunks.into_iter().enumerate().map(move |(at, data)| {
            let first = if at == 0 { expected.clone() } else { String::new() };
            let action = if at == last { WriteAction::Commit } else { WriteAction::Write };
            let message = WriteContentRequest {
                action: action.into(),
                r#ref: name.clone(),
                total: total as i64,
                expected: first,
                offset,
                data: data.to_vec(),
                ..WriteContentRequest::default()
            };
            offset += data.len() as i64;
            message
        });
        let mut request = Request::new(stream::iter(messages));
        request.metadata_mut().insert("linkspan-export", export.parse().unwrap());
        let mut content = ContentClient::new(self.channel.clone()).max_encoding_message_size(16 << 20);
        let written = async {
            let mut answers = content.write(request).await?.into_inner();
            while answers.message().await?.is_some() {}
            Ok(())
        };
        written.await.or_else(|status: Status| if status.code() == Code::AlreadyExists { Ok(()) } else { Err(status) })
    }

    async fn warm(&self, layers: usize) -> Result<String, Status> {
        let image = Image::new(layers);
        let mut seconds = Vec::new();
        for _ in 0..21 {
            let begun = Instant::now();
            let export = self.open().await?;
            let message = NegotiateRequest { export_id: export.clone(), descriptors: image.descriptors() };
            let mut answers = self.exports().negotiate(stream::iter([message])).await?.into_inner();
            let answer = answers.message().await?.unwrap();
            for (negotiated, (_, digest, bytes)) in answer.blobs.iter().zip(&image.blobs) {
                if negotiated.standing() != Standing::Present {
                    self.write(&export, digest, bytes.len(), vec![bytes.clone()]).await?;
                }
            }
            let target = Target {
                exporter_id: "a".to_owned(),
                root: image.descriptors().first().cloned(),
                names: vec!["bench/api-warm".to_owned()],
                ..Target::default()
            };
            let request = CommitRequest { export_id: export, targets: vec![target] };
            let mut answers = self.exports().commit(request).await?.into_inner();
            while let Some(answer) = answers.message().await? {
                if let Some(Event::Results(results)) = answer.event {
                    assert!(results.results[0].error.is_none(), "{results:?}");
                }
            }
            seconds.push(begun.elapsed().as_secs_f64());
        }
        let cold = seconds.remove(0);
        seconds.sort_by(f64::total_cmp);
        let (median, worst) = (seconds[seconds.len() / 2], seconds[seconds.len() - 1]);
        Ok(json!({"case": "warm", "layers": layers, "seconds": median, "worst": worst, "first": cold}).to_string())
    }

    async fn stream(&self, mebibytes: usize) -> Result<String, Status> {
        let chunks = (mebibytes << 20) / 8 / MESSAGE;
        // Made before the clock runs, and shared: only the first chunk of each blob is its own.
        let shared = Bytes::from(noise(MESSAGE, 1));
        let blobs: Vec<_> = (0..8)
            .map(|n| {
                let mut blob = vec![shared.clone(); chunks];
                blob[0] = noise(MESSAGE, n + 2).into();
                let mut hasher = Hasher::new(Algorithm::Sha256);
                blob.iter().for_each(|chunk| hasher.update(chunk));
                (hasher.finish(), blob)
            })
            .collect();
        let export = self.open().await?;
        let begun = Instant::now();
        let sending = blobs.into_iter().map(|(digest, blob)| {
            let export = &export;
            async move { self.write(export, &digest, chunks * MESSAGE, blob).await }
        });
        stream::iter(sending).buffer_unordered(8).try_collect::<()>().await?;
        let seconds = begun.elapsed().as_secs_f64();
        self.abort(export).await?;
        let bytes = 8 * chunks * MESSAGE;
        let rate = bytes as f64 / seconds / f64::from(1 << 20);
        Ok(json!({"case": "stream", "bytes": bytes, "seconds": seconds, "mib_per_second": rate}).to_string())
    }

    async fn small(&self, count: usize) -> Result<String, Status> {
        let blobs: Vec<Bytes> = (0..count).map(|n| noise(1024, n as u64 + 1).into()).collect();
        let digests: Vec<_> = blobs.iter().map(|blob| Digest::sha256(blob)).collect();
        let export = self.open().await?;
        let begun = Instant::now();
        let sending = blobs.into_iter().zip(&digests).map(|(blob, digest)| {
            let export = &export;
            async move { self.write(export, digest, blob.len(), vec![blob]).await }
        });
        stream::iter(sending).buffer_unordered(16).try_collect::<()>().await?;
        let seconds = begun.elapsed().as_secs_f64();
        self.abort(export).await?;
        let rate = count as f64 / seconds;
        Ok(json!({"case": "small", "blobs": count, "seconds": seconds, "blobs_per_second": rate}).to_string())
    }
}

/// An image of many small layers; its root is first.
struct Image {
    blobs: Vec<(&'static str, Digest, Bytes)>,
}

impl Image {
    fn new(layers: usize) -> Self {
        let of = |media_type, bytes: Bytes| (media_type, Digest::sha256(&bytes), bytes);
        let layers: Vec<_> = (0..layers).map(|n| of(LAYER, layer(n))).collect();
        let describe = |(media_type, digest, bytes): &(&str, Digest, Bytes)| json!({"mediaType": media_type, "digest": digest, "size": bytes.len()});
        let host = Platform::host();
        let diff_ids: Vec<_> = layers.iter().map(|(_, digest, _)| digest).collect();
        let config = json!({
            "architecture": host.architecture, "os": host.os, "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        let config = of(CONFIG, serde_json::to_vec(&config).unwrap().into());
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "config": describe(&config),
            "layers": layers.iter().map(describe).collect::<Vec<_>>(),
        });
        let manifest = of(MANIFEST, serde_json::to_vec(&manifest).unwrap().into());
        Self { blobs: [manifest, config].into_iter().chain(layers).collect() }
    }

    fn descriptors(&self) -> Vec<Descriptor> {
        let descriptor = |(media_type, digest, bytes): &(&str, Digest, Bytes)| Descriptor {
            media_type: (*media_type).to_owned(),
            digest: digest.to_string(),
            size: bytes.len() as i64,
            ..Descriptor::default()
        };
        self.blobs.iter().map(descriptor).collect()
    }
}

/// A tar of one empty file (POSIX.1-1988 ustar).
fn layer(number: usize) -> Bytes {
    let mut header = vec![0_u8; 512];
    let mut put = |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, &format!("file-{number:05}"));
    for (at, text) in [(100, "0000644"), (108, "0000000"), (116, "0000000"), (124, "00000000000"), (136, "00000000000")]
    {
        put(at, text);
    }
    put(148, "        ");
    put(156, "0");
    put(257, "ustar");
    put(263, "00");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header.resize(512 + 1024, 0);
    header.into()
}

/// Bytes that are different for each seed (xorshift64*).
fn noise(size: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        bytes.extend_from_slice(&state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
    }
    bytes.truncate(size);
    bytes
}
