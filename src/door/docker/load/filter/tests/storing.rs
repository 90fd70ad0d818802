//! Blobs that the engine lacks, and stores from the archive.

use super::*;

/// An engine that stores new blobs.
fn storing(contents: &[&[u8]]) -> Arc<Memory> {
    Arc::new(Memory { stores: true, ..Memory::of(contents.iter().copied()) })
}

#[tokio::test]
async fn new_blobs_are_stored_and_left_out_at_every_split() {
    let archive = Tar::default().blob(A).blob(b"new").blob(B).blob(b"new").file("index.json", b"{}").layout().end();
    let expected = Tar::default().file("index.json", b"{}").layout().end();
    for chunk in (1..600).chain([archive.len()]) {
        let hold = storing(&[A]);
        let filtered = filter_in(hold.clone(), &archive, chunk).await;
        assert!(filtered.bytes == expected, "in chunks of {chunk}");
        assert_eq!(filtered.outcome.unwrap(), savings(&[A]), "only what the engine had is said to be left out");
        assert!(filtered.ended);
        assert_eq!(hold.new_blobs(), [B.to_vec(), b"new".to_vec()].into());
        assert_eq!(*hold.unpacks.lock().unwrap(), 1);
    }
}

#[tokio::test]
async fn a_new_blob_that_differs_from_its_name_is_sent() {
    let large: Vec<u8> = (0..3 * PIECE as usize + 77).map(|at| (at % 251) as u8).collect();
    let archive = Tar::default().file(&blob_name(A), &large).blob(A).layout().end();
    let expected = Tar::default().file(&blob_name(A), &large).layout().end();
    for chunk in [5000, 65_536, archive.len()] {
        let filtered = filter_in(storing(&[]), &archive, chunk).await;
        assert!(filtered.bytes == expected, "in chunks of {chunk}");
    }
}

#[tokio::test]
async fn new_blobs_are_sent_after_all_without_a_layout() {
    let archive = Tar::default().blob(A).file("manifest.json", b"[]").blob(B).end();
    for cut in [0, BLOCK, 2 * BLOCK] {
        let hold = storing(&[]);
        let filtered = filter_in(hold.clone(), &archive[..archive.len() - cut], archive.len()).await;
        assert!(filtered.outcome.is_ok() && filtered.ended);
        assert!(import(&filtered.bytes) == import(&archive));
        assert_eq!(*hold.unpacks.lock().unwrap(), 0, "dockerd may see another image in it");
    }
}

#[tokio::test]
async fn a_cut_in_a_new_blob_is_a_cut() {
    let archive = Tar::default().layout().blob(A).blob(B).end();
    // The file, and all of `A`, are two blocks each.
    let content_of_b = 5 * BLOCK..5 * BLOCK + B.len();
    for length in 0..archive.len() - 2 * BLOCK {
        let filtered = filter_in(storing(&[]), &archive[..length], archive.len()).await;
        let (before, after) = (import(&archive[..length]), import(&filtered.bytes));
        assert_eq!(before.complete, after.complete, "cut at {length}");
        assert!(filtered.ended && filtered.outcome.is_ok(), "it is for docker to complain, cut at {length}");
        if content_of_b.contains(&length) {
            assert_eq!(filtered.bytes.len(), length - 2 * BLOCK, "docker says how much of a blob came");
        }
        let chunks = [Ok(Bytes::copy_from_slice(&archive[..length])), Err(io::Error::other("gone"))];
        let filtered = filter_chunks(storing(&[]), Box::pin(stream::iter(chunks))).await;
        assert!(filtered.ended && filtered.outcome.is_err(), "broken off at {length}");
        assert!(!import(&filtered.bytes).complete, "broken off at {length}");
    }
}

#[tokio::test]
async fn an_engine_that_is_full_ends_the_load() {
    let archive = Tar::default().layout().blob(A).blob(B).end();
    let hold = Arc::new(Memory { stores: true, is_full: true, ..Memory::of([A]) });
    let filtered = filter_in(hold, &archive, archive.len()).await;
    assert!(matches!(filtered.outcome, Err(FilterError::Store(EngineError::NoSpace { .. }))));
    assert!(!import(&filtered.bytes).complete);
}
