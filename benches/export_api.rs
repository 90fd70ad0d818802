//! A client of the exporter API that measures: `cargo bench --bench export_api -- ADDRESS CASE [SIZE]`.
//!
//! Prints one line of JSON with the seconds that the case took. Needs a `linkspan serve --export-listen ADDRESS`, but for
//! `floor`, where ADDRESS is a folder.
//!
//! * `warm [LAYERS]`: an image of so many layers (100) that the engine holds, from Open to the end of Commit; the median
//!   of 20 exports, after one that sent it.
//! * `stream [MIB]`: an image of 8 layers with so many MiB (3072) in all, over 8 streams at a time, from Open to the end of
//!   Commit: then all of it is on the disk.
//! * `small [COUNT]`: so many blobs (10,000) of 1 KiB, 16 at a time, not committed.
//! * `small-kept [COUNT]`: the same as layers of images, until the Commit has ended.
//! * `floor [MIB]`: what the machine can do at most: the rate of SHA-256 on one core, and of writing so many MiB (3072)
//!   into a new file of the folder until they are on the disk.
//!
//! The client runs on the same cores as the server that it measures. So it only does what no client can leave out, which
//! is sending: the bytes are made and their digests are known before the clock runs, and a message's bytes are copied
//! once, into the connection. They are different for each run and cannot be compressed.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a program for measuring, which ends at the first error")]

use std::io::Write as _;
use std::path::Path;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use containerd_client::services::v1::{WriteAction, WriteContentResponse};
use futures_util::{StreamExt, TryStreamExt, stream};
use http::uri::PathAndQuery;
use linkspan::export_v1::proto::commit_response::Event;
use linkspan::export_v1::proto::exports_client::ExportsClient;
use linkspan::export_v1::proto::{
    AbortRequest, CommitRequest, Descriptor, Exporter, NegotiateRequest, OpenRequest, Standing, Target,
    WriteContentRequest,
};
use linkspan::image::{Algorithm, Digest, Hasher, Platform};
use serde_json::{Value, json};
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status, Streaming};
use tonic_prost::ProstCodec;

/// How much goes into a message: what `content.Copy` of containerd's Go client makes of a reader.
const MESSAGE: usize = 1 << 20;
/// Streams of the case `stream`.
const STREAMS: usize = 8;
/// How many bytes are made of which the blobs of the case `stream` consist: more than a processor's caches hold.
const POOL: usize = 64;
/// Writes at a time in the case `small`.
const WRITES: usize = 16;
/// Layers of an image in the case `small-kept`; a server may refuse manifests with more than 5,000 children.
const LAYERS: usize = 4000;
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

#[tokio::main]
async fn main() {
    // cargo itself adds `--bench`.
    let words: Vec<_> = std::env::args().skip(1).filter(|word| !word.starts_with("--")).collect();
    let [address, case, size @ ..] = &words[..] else {
        let usage = "usage: cargo bench --bench export_api -- ADDRESS warm|stream|small|small-kept|floor [SIZE]";
        println!("{}", json!({ "skipped": usage }));
        return;
    };
    let size = |default| size.first().map_or(default, |size| size.parse().unwrap());
    if case == "floor" {
        println!("{}", floor(Path::new(address), size(3072)));
        return;
    }
    let client = Client { channel: connect(address).await };
    let result = match case.as_str() {
        "warm" => client.warm(size(100)).await,
        "stream" => client.stream(size(3072)).await,
        "small" => client.small(size(10_000), false).await,
        "small-kept" => client.small(size(10_000), true).await,
        _ => panic!("{case} is no case; expected warm, stream, small, small-kept or floor"),
    };
    println!("{}", result.unwrap());
}

fn floor(folder: &Path, mebibytes: usize) -> Value {
    let rate = |begun: Instant| mebibytes as f64 / begun.elapsed().as_secs_f64();
    let chunks = pool(seed());
    let mut hasher = Hasher::new(Algorithm::Sha256);
    let begun = Instant::now();
    chunks.iter().cycle().take(mebibytes).for_each(|chunk| hasher.update(chunk));
    std::hint::black_box(hasher.finish());
    let hashed = rate(begun);
    let path = folder.join("floor");
    let mut file = std::fs::File::create_new(&path).unwrap();
    let begun = Instant::now();
    chunks.iter().cycle().take(mebibytes).for_each(|chunk| file.write_all(chunk).unwrap());
    file.sync_data().unwrap();
    let written = rate(begun);
    std::fs::remove_file(path).unwrap();
    json!({"case": "floor", "sha256_mib_per_second": hashed, "disk_mib_per_second": written})
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

/// A blob: its media type, its digest, and the messages that it is sent in.
type Blob = (&'static str, Digest, Vec<Bytes>);

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

    async fn write(&self, export: &str, (_, digest, chunks): &Blob) -> Result<(), Status> {
        let (name, total, last) = (digest.to_string(), size(chunks), chunks.len() - 1);
        let mut offset = 0;
        let messages = chunks.clone().into_iter().enumerate().map(move |(at, data)| {
            let expected = if at == 0 { name.clone() } else { String::new() };
            let action = if at == last { WriteAction::Commit } else { WriteAction::Write };
            let (action, begin) = (action.into(), offset);
            offset += data.len() as i64;
            let name = name.clone();
            WriteContentRequest { action, r#ref: name, total, expected, offset: begin, data, ..Default::default() }
        });
        let mut request = Request::new(stream::iter(messages));
        request.metadata_mut().insert("linkspan-export", export.parse().unwrap());
        let path = PathAndQuery::from_static("/containerd.services.content.v1.Content/Write");
        let mut grpc = Grpc::new(self.channel.clone());
        let written = async {
            grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
            let codec = ProstCodec::default();
            let answers: tonic::Response<Streaming<WriteContentResponse>> =
                grpc.streaming(request, path, codec).await?;
            let mut answers = answers.into_inner();
            while answers.message().await?.is_some() {}
            Ok(())
        };
        written.await.or_else(|status: Status| if status.code() == Code::AlreadyExists { Ok(()) } else { Err(status) })
    }

    async fn write_all(&self, export: &str, blobs: &[Blob], at_once: usize) -> Result<(), Status> {
        let writes: Vec<_> = blobs.iter().map(|blob| self.write(export, blob)).collect();
        stream::iter(writes).buffer_unordered(at_once).try_collect::<()>().await
    }

    async fn commit(&self, export: String, root: &Blob, name: &str) -> Result<(), Status> {
        let names = vec![name.to_owned()];
        let target = Target { exporter_id: "a".to_owned(), root: Some(descriptor(root)), names, ..Target::default() };
        let request = CommitRequest { export_id: export, targets: vec![target] };
        let mut answers = self.exports().commit(request).await?.into_inner();
        while let Some(answer) = answers.message().await? {
            if let Some(Event::Results(results)) = answer.event {
                assert!(results.results[0].error.is_none(), "{results:?}");
            }
        }
        Ok(())
    }

    async fn warm(&self, layers: usize) -> Result<Value, Status> {
        let mut blobs: Vec<_> = (0..layers).map(|n| blob(LAYER, vec![layer(n)])).collect();
        let documents = documents(&blobs);
        blobs.splice(0..0, documents);
        let mut seconds = Vec::new();
        for _ in 0..21 {
            let begun = Instant::now();
            let export = self.open().await?;
            let descriptors = blobs.iter().map(descriptor).collect();
            let message = NegotiateRequest { export_id: export.clone(), descriptors };
            let mut answers = self.exports().negotiate(stream::iter([message])).await?.into_inner();
            let answer = answers.message().await?.unwrap();
            for (negotiated, blob) in answer.blobs.iter().zip(&blobs) {
                if negotiated.standing() != Standing::Present {
                    self.write(&export, blob).await?;
                }
            }
            self.commit(export, &blobs[0], "bench/api-warm").await?;
            seconds.push(begun.elapsed().as_secs_f64());
        }
        let cold = seconds.remove(0);
        seconds.sort_by(f64::total_cmp);
        let (median, worst) = (seconds[seconds.len() / 2], seconds[seconds.len() - 1]);
        Ok(json!({"case": "warm", "layers": layers, "seconds": median, "worst": worst, "first": cold}))
    }

    async fn stream(&self, mebibytes: usize) -> Result<Value, Status> {
        let (pool, count) = (pool(seed()), (mebibytes << 20) / STREAMS / MESSAGE);
        let layer = |n: usize| {
            // Each in an order of its own, and with a beginning of its own.
            let first = Bytes::from(noise(MESSAGE, seed()));
            let rest = pool.iter().cycle().skip(n * POOL / STREAMS).take(count - 1).cloned();
            blob(LAYER, [first].into_iter().chain(rest).collect())
        };
        let layers: Vec<_> = (0..STREAMS).map(layer).collect();
        let documents = documents(&layers);
        let begun = Instant::now();
        let export = self.open().await?;
        self.write_all(&export, &layers, STREAMS).await?;
        let sent = begun.elapsed().as_secs_f64();
        self.write_all(&export, &documents, 1).await?;
        self.commit(export, &documents[0], "bench/api-stream").await?;
        let seconds = begun.elapsed().as_secs_f64();
        let bytes = STREAMS * count * MESSAGE;
        let rate = bytes as f64 / seconds / f64::from(1 << 20);
        Ok(json!({"case": "stream", "bytes": bytes, "seconds": seconds, "sent": sent, "mib_per_second": rate}))
    }

    async fn small(&self, count: usize, is_kept: bool) -> Result<Value, Status> {
        let seed = seed();
        let layers: Vec<_> = (0..count).map(|n| blob(LAYER, vec![noise(1024, seed + n as u64).into()])).collect();
        let mut documents: Vec<_> = layers.chunks(LAYERS).flat_map(documents).collect();
        let manifests: Vec<_> = documents.iter().filter(|blob| blob.0 == MANIFEST).map(describe).collect();
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests});
        documents.insert(0, blob(INDEX, vec![serde_json::to_vec(&index).unwrap().into()]));
        let begun = Instant::now();
        let export = self.open().await?;
        self.write_all(&export, &layers, WRITES).await?;
        if is_kept {
            self.write_all(&export, &documents, 1).await?;
            self.commit(export.clone(), &documents[0], "bench/api-small").await?;
        }
        let seconds = begun.elapsed().as_secs_f64();
        if !is_kept {
            self.abort(export).await?;
        }
        let rate = count as f64 / seconds;
        Ok(json!({"case": "small", "blobs": count, "seconds": seconds, "blobs_per_second": rate}))
    }
}

/// Different for each call and each run.
fn seed() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64
}

/// Chunks of which large blobs are made.
fn pool(seed: u64) -> Vec<Bytes> {
    (0..POOL as u64).map(|n| noise(MESSAGE, seed.wrapping_add(n)).into()).collect()
}

fn blob(media_type: &'static str, chunks: Vec<Bytes>) -> Blob {
    let mut hasher = Hasher::new(Algorithm::Sha256);
    chunks.iter().for_each(|chunk| hasher.update(chunk));
    (media_type, hasher.finish(), chunks)
}

fn size(chunks: &[Bytes]) -> i64 {
    chunks.iter().map(|chunk| chunk.len() as i64).sum()
}

/// The manifest and the config of an image with these layers.
fn documents(layers: &[Blob]) -> Vec<Blob> {
    let host = Platform::host();
    let diff_ids: Vec<_> = layers.iter().map(|(_, digest, _)| digest).collect();
    let config = json!({
        "architecture": host.architecture, "os": host.os, "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    let config = blob(CONFIG, vec![serde_json::to_vec(&config).unwrap().into()]);
    let manifest = json!({
        "schemaVersion": 2, "mediaType": MANIFEST, "config": describe(&config),
        "layers": layers.iter().map(describe).collect::<Vec<_>>(),
    });
    vec![blob(MANIFEST, vec![serde_json::to_vec(&manifest).unwrap().into()]), config]
}

fn describe((media_type, digest, chunks): &Blob) -> Value {
    json!({"mediaType": media_type, "digest": digest, "size": size(chunks)})
}

fn descriptor((media_type, digest, chunks): &Blob) -> Descriptor {
    let (media_type, digest) = ((*media_type).to_owned(), digest.to_string());
    Descriptor { media_type, digest, size: size(chunks), ..Descriptor::default() }
}

/// A tar of one empty file.
fn layer(number: usize) -> Bytes {
    let mut header = tar_core::EntryBuilder::new_ustar();
    header.path(format!("file-{number:05}")).entry_type(tar_core::EntryType::Regular);
    header.mode(0o644).unwrap().uid(0).unwrap().gid(0).unwrap().size(0).unwrap().mtime(0).unwrap();
    let mut tar = header.finish_bytes();
    tar.resize(512 + 1024, 0);
    tar.into()
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
