//! The properties that the fuzz target `archive_filter` checks for any archive.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use futures_util::stream;
use tokio::sync::mpsc;

use super::filter::run;
use super::fixture::{Import, Memory, try_import};
use super::guard::Watch;
use super::pipe::{Output, Piece};

/// The engine's blobs: the seeds contain blobs with these contents.
const HELD: [&[u8]; 2] = [b"the first blob", &[7; 1500]];

/// Runs an archive through the filter, in chunks whose length is given by its first byte. containerd's importer must
/// have the same state after the output as after the archive itself, except for blobs that the engine has; by the byte's lowest bit
/// new ones are stored there.
pub fn filter(bytes: &[u8]) {
    let Some((chunk, archive)) = bytes.split_first() else { return };
    let (chunk, stores) = (usize::from(*chunk) * 16 + 1, chunk & 1 == 1);
    let hold = Arc::new(Memory { stores, ..Memory::of(HELD) });
    let into = hold.clone();
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().build() else { return };
    let (sent, is_complete) = runtime.block_on(async {
        let (sender, mut pieces) = mpsc::channel(4);
        let chunks: Vec<_> = archive.chunks(chunk).map(|chunk| Ok(Bytes::copy_from_slice(chunk))).collect();
        let running = async move {
            let mut output = Output::new(sender);
            run(into, Watch::unrestricted(), Box::pin(stream::iter(chunks)), &mut output, &OnceLock::new())
                .await
                .is_ok()
        };
        let reading = async {
            let (mut bytes, mut ended) = (Vec::new(), false);
            while let Some(piece) = pieces.recv().await {
                match piece {
                    Piece::Bytes(more) => bytes.extend_from_slice(&more),
                    Piece::End => ended = true,
                }
            }
            (bytes, ended)
        };
        let (is_ok, (bytes, ended)) = tokio::join!(running, reading);
        assert_eq!(is_ok, ended);
        (bytes, ended)
    });
    // An archive that readers may read in different ways passes unchanged from that point on.
    let (Ok(mut direct), Ok(mut through)) = (try_import(archive), try_import(&sent)) else { return };
    if !is_complete || !direct.complete {
        return;
    }
    assert!(through.complete);
    let is_layout = |import: &Import| import.files.contains_key("oci-layout");
    if !is_layout(&direct) {
        assert_eq!(direct.files, through.files);
    }
    let held = HELD.map(<[u8]>::to_vec);
    direct.stored.extend(held.clone());
    through.stored.extend(held);
    through.stored.extend(hold.new_blobs());
    assert_eq!(direct.stored, through.stored);
}
