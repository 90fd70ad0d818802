mod random;
mod storing;

use std::io;
use std::sync::Arc;

use futures_util::stream;
use tokio::sync::mpsc;

use super::super::fixture::{Import, Memory, Tar, blob_name, header, import, seal};
use super::super::pipe::Piece;
use super::*;
use crate::tar::BLOCK;

const A: &[u8] = b"the first blob";
const B: &[u8] = &[7; 1500];
/// As long as `A`.
const LIE: &[u8] = b"the other blob";

struct Filtered {
    bytes: Vec<u8>,
    outcome: Result<(usize, u64), FilterError>,
    /// Whether the engine had every blob of it.
    are_all_held: bool,
    /// Whether dockerd got the end of the archive.
    ended: bool,
}

/// Runs an archive through the filter, in chunks of `chunk` bytes.
async fn filter_in(hold: Arc<Memory>, archive: &[u8], chunk: usize) -> Filtered {
    let chunks: Vec<_> = archive.chunks(chunk).map(|chunk| Ok(Bytes::copy_from_slice(chunk))).collect();
    filter_chunks(hold, Box::pin(stream::iter(chunks))).await
}

async fn filter_chunks(hold: Arc<Memory>, chunks: Chunks) -> Filtered {
    let (sender, mut pieces) = mpsc::channel(4);
    let running = tokio::spawn(async move {
        let savings = OnceLock::new();
        let mut output = Output::new(sender);
        let outcome = run(hold, Watch::unrestricted(), chunks, &mut output, &savings).await;
        if outcome.is_err() {
            // The receiver may already be gone.
            let _ = output.truncate().await;
        }
        let savings = savings.get().copied();
        let are_all_held = savings.is_some_and(|savings: Savings| savings.are_all);
        (outcome.map(|()| savings.map(|it| (it.blobs, it.bytes)).unwrap()), are_all_held)
    });
    let (mut bytes, mut ended) = (Vec::new(), false);
    while let Some(piece) = pieces.recv().await {
        match piece {
            Piece::Bytes(more) => bytes.extend_from_slice(&more),
            Piece::End => ended = true,
        }
    }
    let (outcome, are_all_held) = running.await.unwrap();
    Filtered { bytes, outcome, are_all_held, ended }
}

async fn filter(hold: Memory, archive: &[u8]) -> Filtered {
    filter_in(Arc::new(hold), archive, archive.len().max(1)).await
}

fn savings(contents: &[&[u8]]) -> (usize, u64) {
    (contents.len(), contents.iter().map(|content| content.len() as u64).sum())
}

#[tokio::test]
async fn an_archive_of_which_the_engine_has_every_blob_changes_nothing() {
    let held = [A, B];
    for (blobs, expected) in
        [(&[A, B][..], true), (&[A], true), (&[A, b"new"], false), (&[b"new"], false), (&[], false)]
    {
        let archive = blobs.iter().fold(Tar::default(), |tar, blob| tar.blob(blob)).layout().end();
        let filtered = filter(Memory::of(held), &archive).await;
        assert_eq!(filtered.are_all_held, expected, "{} blobs", blobs.len());
    }
    // One that is not what its name says is sent.
    let archive = Tar::default().blob(B).file(&blob_name(A), LIE).layout().end();
    assert!(!filter(Memory::of(held), &archive).await.are_all_held);
}

#[tokio::test]
async fn blobs_that_are_held_are_left_out_at_every_split() {
    let archive = Tar::default().blob(A).blob(b"new").blob(B).file("index.json", b"{}").layout().end();
    let expected = Tar::default().blob(b"new").file("index.json", b"{}").layout().end();
    let hold = Arc::new(Memory::of([A, B]));
    for chunk in (1..600).chain([archive.len()]) {
        let filtered = filter_in(hold.clone(), &archive, chunk).await;
        assert!(filtered.bytes == expected, "in chunks of {chunk}");
        assert_eq!(filtered.outcome.unwrap(), savings(&[A, B]));
        assert!(filtered.ended);
    }
}

#[tokio::test]
async fn several_blobs_are_pinned_at_once() {
    let contents: Vec<Vec<u8>> = (0..500u32).map(|number| number.to_le_bytes().to_vec()).collect();
    let hold = Arc::new(Memory::of(contents.iter().map(Vec::as_slice)));
    let archive = contents.iter().fold(Tar::default().layout(), |tar, content| tar.blob(content)).end();
    let filtered = filter_in(hold.clone(), &archive, archive.len()).await;
    assert_eq!(filtered.outcome.unwrap().0, 500);
    assert_eq!(filtered.bytes, Tar::default().layout().end());
    let pinned = hold.pinned.lock().unwrap();
    assert_eq!(pinned.iter().map(Vec::len).sum::<usize>(), 500, "each of them once");
    assert!(pinned.len() <= 50, "{} calls", pinned.len());
}

#[tokio::test]
async fn without_a_layout_everything_is_sent_after_all() {
    let archive = Tar::default().blob(A).file("manifest.json", b"[]").blob(B).end();
    let expected = Tar::default().file("manifest.json", b"[]").blob(A).blob(B).end();
    for cut in [0, BLOCK, 2 * BLOCK] {
        // Two blocks, one, or none at the end are the same to Go.
        let filtered = filter(Memory::of([A, B]), &archive[..archive.len() - cut]).await;
        assert!(import(&filtered.bytes) == import(&expected));
        assert_eq!(filtered.outcome.unwrap(), (0, 0));
        assert!(filtered.ended);
    }
}

#[tokio::test]
async fn an_uncertain_layout_is_none() {
    for text in ["{}", r#"{"imageLayoutVersion":""}"#, &" ".repeat(5000)] {
        let archive = Tar::default().layout().blob(A).file("oci-layout", text.as_bytes()).end();
        let filtered = filter(Memory::of([A]), &archive).await;
        assert_eq!(import(&filtered.bytes), import(&archive));
        assert_eq!(filtered.outcome.unwrap(), (0, 0));
    }
}

#[tokio::test]
async fn a_blob_that_differs_from_its_name_is_sent() {
    let large: Vec<u8> = (0..3 * PIECE as usize + 77).map(|at| (at % 251) as u8).collect();
    for at in [0, 1, PIECE as usize - 1, PIECE as usize, 2 * PIECE as usize + 5, large.len() - 1] {
        let mut lie = large.clone();
        lie[at] ^= 1;
        let archive = Tar::default().file(&blob_name(&large), &lie).blob(A).layout().end();
        let expected = Tar::default().file(&blob_name(&large), &lie).layout().end();
        for chunk in [5000, 65_536, archive.len()] {
            let filtered = filter_in(Arc::new(Memory::of([&large[..], A])), &archive, chunk).await;
            assert!(filtered.bytes == expected, "a lie at {at}, in chunks of {chunk}");
            assert_eq!(filtered.outcome.unwrap(), savings(&[A]));
        }
    }
}

#[tokio::test]
async fn the_last_of_a_name_counts() {
    let lie_last = Tar::default().blob(A).file(&blob_name(A), LIE).end();
    let lie_first = Tar::default().file(&blob_name(A), LIE).blob(A).end();
    for archive in [lie_last, lie_first] {
        let filtered = filter(Memory::of([A]), &archive).await;
        assert_eq!(import(&filtered.bytes).files, import(&archive).files);
        assert!(filtered.outcome.is_ok());
    }
}

#[tokio::test]
async fn another_size_is_another_blob() {
    let archive = Tar::default().file(&blob_name(A), &A[1..]).file(&blob_name(B), &[B, B].concat()).layout().end();
    let filtered = filter(Memory::of([A, B]), &archive).await;
    assert_eq!(filtered.bytes, archive);
}

#[tokio::test]
async fn only_plain_files_of_exactly_that_name_are_left_out() {
    let name = blob_name(A);
    let hex = name.strip_prefix("blobs/sha256/").unwrap();
    let mut time = header(b'0', &name, A.len() as u64);
    time[136..148].copy_from_slice(&[0xff; 12]);
    seal(&mut time);
    let mut before_1970 = Tar::default();
    before_1970.0.extend(time);
    let archives = [
        Tar::default().file(&format!("/{name}"), A),
        Tar::default().file(&format!("../{name}"), A),
        Tar::default().file(&format!("x/{name}"), A),
        Tar::default().file(&name.to_uppercase(), A),
        Tar::default().file(&format!("blobs/sha384/{hex}"), A),
        Tar::default().file(&format!("blobs/sha256/{}", hex.to_uppercase()), A),
        Tar::default().file(&format!("{name}x"), A),
        Tar::default().member(b'7', &name, A),
        Tar::default().member(b'V', &name, A),
        Tar::default().member(b'1', &name, b""),
        Tar::default().member(b'2', &name, b""),
        Tar::default().member(b'5', &name, b""),
        Tar::default().pax(&[("comment", "who knows")], &name, A),
        Tar::default().pax(&[("mtime", "yesterday")], &name, A),
        before_1970.content(A),
    ];
    for archive in archives {
        let archive = archive.layout().end();
        let filtered = filter(Memory::of([A]), &archive).await;
        assert!(filtered.bytes == archive, "{}", String::from_utf8_lossy(&archive[..200]));
        assert_eq!(filtered.outcome.unwrap(), (0, 0));
    }
}

#[tokio::test]
async fn usual_spellings_are_recognized() {
    let name = blob_name(A);
    let size = A.len().to_string();
    let mut gnu = header(b'0', &name, A.len() as u64);
    gnu[257..265].copy_from_slice(b"ustar  \0");
    seal(&mut gnu);
    let mut oldest = header(0, &name, A.len() as u64);
    oldest[257..265].fill(0);
    seal(&mut oldest);
    let archives = [
        Tar::default().file(&format!("./{name}"), A),
        Tar::default().file(&name.replace('/', "//"), A),
        Tar::default().file(&format!("blobs/../{name}"), A),
        Tar::default().pax(&[("mtime", "1700000000.123456789"), ("uid", "1000"), ("uname", "me")], &name, A),
        Tar::default().pax(&[("path", &name), ("size", &size)], "short", A),
        Tar(gnu.to_vec()).content(A),
        Tar(oldest.to_vec()).content(A),
    ];
    for archive in archives {
        let start = archive.0.len();
        let filtered = filter(Memory::of([A]), &archive.layout().end()).await;
        assert_eq!(filtered.bytes, Tar::default().layout().end(), "of {start} bytes");
        assert_eq!(filtered.outcome.unwrap(), savings(&[A]));
    }
}

#[tokio::test]
async fn unknown_members_pass_and_so_does_the_rest() {
    let strange = [
        Tar::default().member(b'S', "sparse", b"data"),
        Tar::default().member(b'5', "folder", b"with content"),
        Tar::default().pax(&[("GNU.sparse.major", "1")], "sparse", b"1\n0\n4\n"),
        Tar::default().pax(&[("size", "3"), ("size", "4")], "twice", b"data"),
        Tar::default().member(b'x', "PaxHeaders/x", b"not a record").file("name", b""),
        Tar::default().member(b'x', "x", b"").member(b'g', "g", b""),
        Tar(vec![0x55; BLOCK]),
        Tar([vec![0; BLOCK], vec![1; BLOCK]].concat()),
    ];
    for odd in strange {
        for has_layout in [true, false] {
            let start = if has_layout { Tar::default().layout() } else { Tar::default() };
            let rest = Tar(odd.0.clone()).blob(B).end();
            let archive = [start.clone().blob(A).0, rest.clone()].concat();
            let sent_again = [start.clone().blob(A).0, rest.clone()].concat();
            let left_out = [start.0, rest].concat();
            let filtered = filter(Memory::of([A, B]), &archive).await;
            // How dockerd reads it is not known, so it gets everything. For Go, zeros with other bytes after them are
            // an error in any case.
            let is_error = odd.0.starts_with(&[0; BLOCK]);
            let expected = if is_error { &left_out } else { &sent_again };
            assert_eq!(without_attributes(&filtered.bytes), without_attributes(expected), "{:?}", &odd.0[..8]);
            assert!(filtered.ended);
        }
    }
}

/// Restored members have no time, and a mode of their own.
fn without_attributes(archive: &[u8]) -> Vec<u8> {
    let mut archive = archive.to_vec();
    for block in archive.chunks_mut(BLOCK).filter(|block| block.starts_with(b"blobs/")) {
        block[100..108].fill(0);
        block[136..156].fill(0);
    }
    archive
}

#[tokio::test]
async fn what_follows_the_end_passes() {
    let mut archive = Tar::default().blob(A).layout().end();
    archive.extend([3; 100_000]);
    let filtered = filter(Memory::of([A]), &archive).await;
    assert_eq!(filtered.bytes, [Tar::default().layout().end(), vec![3; 100_000]].concat());
    assert_eq!(filtered.outcome.unwrap(), savings(&[A]));
}

#[tokio::test]
async fn a_cut_is_a_cut_at_the_same_place() {
    let archive = Tar::default().layout().blob(A).blob(B).end();
    for length in 0..archive.len() - 2 * BLOCK {
        let filtered = filter(Memory::of([A, B]), &archive[..length]).await;
        let (before, after) = (import(&archive[..length]), import(&filtered.bytes));
        assert_eq!(before.complete, after.complete, "cut at {length}");
        assert!(filtered.ended && filtered.outcome.is_ok(), "it is for docker to complain, cut at {length}");
    }
}

#[tokio::test]
async fn an_archive_that_breaks_off_is_no_archive() {
    // Whatever was sent so far, dockerd must fail with it and finish.
    let archive = Tar::default().blob(A).layout().file("small", b"x").blob(b"new").end();
    for length in 0..archive.len() {
        let chunks = [Ok(Bytes::copy_from_slice(&archive[..length])), Err(io::Error::other("gone"))];
        let filtered = filter_chunks(Arc::new(Memory::of([A])), Box::pin(stream::iter(chunks))).await;
        assert!(filtered.ended, "broken off at {length}");
        assert!(matches!(filtered.outcome, Err(FilterError::Input(_))), "broken off at {length}");
        assert!(!import(&filtered.bytes).complete, "broken off at {length}");
    }
    // After a member that can be read in two ways the position is not known.
    let strange = Tar::default().member(b'S', "sparse", b"").end();
    let chunks = [Ok(Bytes::from(strange)), Err(io::Error::other("gone"))];
    let filtered = filter_chunks(Arc::new(Memory::of([A])), Box::pin(stream::iter(chunks))).await;
    assert!(!filtered.ended && filtered.outcome.is_err());
}

#[tokio::test]
async fn what_is_wrong_behind_the_end_is_ignored() {
    for archive in [Tar::default().blob(A).layout().end(), Tar::default().blob(A).file("manifest.json", b"[]").end()] {
        for behind in [0, 1, 5000] {
            let chunks = [
                Ok(Bytes::from(archive.clone())),
                Ok(Bytes::from(vec![7; behind])),
                Err(io::Error::other("a checksum is wrong")),
            ];
            let filtered = filter_chunks(Arc::new(Memory::of([A])), Box::pin(stream::iter(chunks))).await;
            assert!(filtered.outcome.is_ok() && filtered.ended && import(&filtered.bytes).complete);
        }
    }
}

#[tokio::test]
async fn a_reader_that_is_gone_ends_it() {
    let archive = Tar::default().layout().file("large", &[1; 100_000]).end();
    let (sender, pieces) = mpsc::channel(1);
    drop(pieces);
    let chunks: Chunks = Box::pin(stream::iter([Ok(Bytes::from(archive))]));
    let outcome =
        run(Arc::new(Memory::default()), Watch::unrestricted(), chunks, &mut Output::new(sender), &OnceLock::new())
            .await;
    assert!(matches!(outcome, Err(FilterError::Output)));
}

#[tokio::test]
async fn what_is_lost_before_it_is_pinned_is_sent() {
    let archive = Tar::default().layout().blob(A).blob(B).file("index.json", b"{}").end();
    let hold = Memory { fleeting: [Digest::sha256(B)].into(), ..Memory::of([A, B]) };
    let filtered = filter(hold, &archive).await;
    let seen = import(&filtered.bytes);
    assert!(seen.complete && seen.stored.contains(B) && !seen.stored.contains(A));
    assert_eq!(filtered.outcome.unwrap(), savings(&[A]));
}

#[tokio::test]
async fn an_engine_that_does_not_pin_gets_everything() {
    let archive = Tar::default().layout().blob(A).blob(B).file("index.json", b"{}").end();
    let filtered = filter(Memory { broken_pins: true, ..Memory::of([A, B]) }, &archive).await;
    assert_eq!(import(&filtered.bytes), import(&archive));
    assert_eq!(filtered.outcome.unwrap(), (0, 0));
}

#[tokio::test]
async fn countless_members_take_bounded_memory() {
    let member = Tar::default().blob(A).0;
    let chunks = stream::iter((0..MEMBERS).map(move |_| Ok(Bytes::from(member.clone()))));
    const MEMBERS: usize = 120_000;
    let filtered = filter_chunks(Arc::new(Memory::of([A])), Box::pin(chunks)).await;
    // The members beyond the limit, and one for all members below it.
    let expected = MEMBERS - super::super::omitted::MOST;
    assert_eq!(filtered.bytes.len(), expected * 2 * BLOCK);
}
