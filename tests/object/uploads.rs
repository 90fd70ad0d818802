//! Large blobs: in parts, in bounded memory, and visible only when they are right.

use bytes::Bytes;
use linkspan::engine::ingest::{Expected, OpenedIngest};
use linkspan::engine::{EngineError, Lifetime, Opened};
use linkspan::image::{Descriptor, Digest};

use crate::common::{Minio, Stack, until};
use crate::fixture::{Image, begin, export, names, origin, send};

/// `mib` MiB that no compression or deduplication makes shorter.
pub(crate) fn noise(mib: usize, seed: u64) -> Bytes {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(mib << 20);
    while bytes.len() < mib << 20 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.into()
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_of_any_size_come_back_as_they_were() {
    let minio = Minio::start(Stack::shared());
    let bucket = minio.bucket();
    let engine = bucket.engine().await.unwrap().engine;
    // Below, at and above the size of a part.
    let layers = [noise(1, 1), noise(8, 2), noise(33, 3), noise(8, 4).slice(1..)];
    let image = Image::new(&layers);
    export(&*engine, &image, &names(&["large:1"])).await.unwrap();
    let images = engine.images().unwrap();
    for (layer, bytes) in image.layers.iter().zip(&layers) {
        for offset in [0, layer.size / 2, layer.size - 1, layer.size] {
            use futures_util::TryStreamExt as _;
            let chunks: Vec<Bytes> = images.open(layer, offset).await.unwrap().try_collect().await.unwrap();
            assert!(chunks.concat() == bytes[usize::try_from(offset).unwrap()..], "{} from {offset}", layer.digest);
        }
    }
    assert_eq!(bucket.uploads(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_blob_is_never_visible_and_leaves_no_upload() {
    let minio = Minio::start(Stack::shared());
    let bucket = minio.bucket();
    let engine = bucket.engine().await.unwrap().engine;
    for mib in [1, 20] {
        let (right, wrong) = (noise(mib, 5), noise(mib, 6));
        let image = Image::new(std::slice::from_ref(&right));
        let layer = &image.layers[0];
        let lease = engine.lease(&origin(), Lifetime::Process).await.unwrap();
        let transaction = begin(&lease, image.graph()).await.unwrap();
        let error = send(&*transaction, layer, &wrong).await.unwrap_err();
        assert!(matches!(&error, EngineError::Corrupt { digest, .. } if *digest == layer.digest), "{error}");
        assert_eq!(engine.images().unwrap().size(&layer.digest).await.unwrap(), None);
        assert!(matches!(transaction.prepare().await, Err(EngineError::Missing { .. })));
        // More than was said.
        let Opened::Writer(mut writer) = transaction.writer(layer).await.unwrap() else { panic!("it is not there") };
        writer.write(right.clone()).await.unwrap();
        assert!(matches!(writer.write(Bytes::from_static(b"x")).await, Err(EngineError::Corrupt { .. })));
        drop(writer);
        send(&*transaction, layer, &right).await.unwrap();
        transaction.prepare().await.unwrap().commit(&names(&["right:1"]), &[]).await.unwrap();
        lease.release().await.unwrap();
    }
    until("the uploads to be aborted", || bucket.uploads(), |count| *count == 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ingest_is_suspended_resumed_and_named_at_its_end() {
    let minio = Minio::start(Stack::shared());
    let bucket = minio.bucket();
    let engine = bucket.engine().await.unwrap().engine;
    for (is_known, mib) in [(true, 1), (false, 1), (true, 20), (false, 40)] {
        let bytes = noise(mib, 10 + mib as u64 + u64::from(is_known));
        let blob = Descriptor::new("", Digest::sha256(&bytes), bytes.len() as u64);
        let expected = match is_known {
            true => Expected { digest: Some(blob.digest.clone()), size: Some(blob.size) },
            false => Expected::default(),
        };
        let lease = engine.lease(&origin(), Lifetime::Durable { record: "{}" }).await.unwrap();
        let ingests = lease.ingests().unwrap();
        let open = async || match ingests.open("ref", &expected).await.unwrap() {
            OpenedIngest::Writer(writer) => writer,
            OpenedIngest::Present => panic!("it is not there"),
        };
        let mut writer = open().await;
        writer.write(bytes.slice(..bytes.len() / 3)).await.unwrap();
        assert!(matches!(ingests.open("ref", &expected).await, Err(EngineError::Busy { .. })));
        writer.suspend().await.unwrap();
        let status = ingests.status("ref").await.unwrap().unwrap();
        let mut writer = open().await;
        assert_eq!((writer.offset(), status.offset), (bytes.len() as u64 / 3, bytes.len() as u64 / 3));
        writer.write(bytes.slice(usize::try_from(writer.offset()).unwrap()..bytes.len() - 1)).await.unwrap();
        let error = writer.commit(Expected { digest: Some(blob.digest.clone()), size: Some(blob.size) }).await;
        assert!(matches!(error, Err(EngineError::Corrupt { .. })), "{error:?}");
        let mut writer = open().await;
        writer.write(bytes.slice(usize::try_from(writer.offset()).unwrap()..)).await.unwrap();
        assert_eq!(writer.digest().await.unwrap(), blob.digest);
        let committed = writer.commit(Expected { digest: Some(blob.digest.clone()), size: None }).await.unwrap();
        assert_eq!(committed, (blob.digest.clone(), blob.size));
        assert_eq!(engine.images().unwrap().size(&blob.digest).await.unwrap(), Some(blob.size));
        assert_eq!(lease.pinned().await.unwrap(), [blob.digest]);
        lease.release().await.unwrap();
    }
    assert_eq!((bucket.uploads(), bucket.keys().iter().filter(|key| key.contains("_linkspan/")).count()), (0, 0));
}
