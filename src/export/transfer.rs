//! Moves what a plan found missing, several blobs at a time.

use futures_util::{StreamExt, TryStreamExt, stream};
use tracing::{Instrument as _, debug_span};

use crate::engine::{ImageTransaction, InFlight, Opened, PARALLEL};
use crate::image::Descriptor;
use crate::progress::{Event, Events};
use crate::source::Source;

use super::ExportError;
use super::copy_blob::copy_blob;
use super::single_flight::SingleFlight;

/// Up to this size a blob is opened at its source while the engine opens it for writing, for a round trip counts there, and
/// what is read in vain does not.
const SMALL: u64 = 1 << 20;

/// Sends `missing` and returns how many blobs and bytes went. Blobs that another export of this process, or
/// another client of the engine, brought in meanwhile are not sent.
pub(super) async fn transfer<'a>(
    source: &dyn Source,
    image: &dyn ImageTransaction,
    missing: &'a [Descriptor],
    flights: &SingleFlight,
    events: &Events,
) -> Result<(usize, u64), ExportError> {
    let in_flight = &InFlight::new();
    // Collected first: a lazy iterator held across an await defeats the compiler's check that this is `Send`.
    let send = |blob: &'a Descriptor| {
        let span = debug_span!("blob", digest = %blob.digest, bytes = blob.size as i64);
        send(source, image, blob, flights, in_flight, events).instrument(span)
    };
    let sending: Vec<_> = missing.iter().map(send).collect();
    stream::iter(sending)
        .buffer_unordered(PARALLEL)
        .try_fold((0, 0), |(blobs, bytes), sent| async move {
            Ok(sent.map_or((blobs, bytes), |size| (blobs + 1, bytes + size)))
        })
        .await
}

/// Sends one blob; `None` if that turned out to be unnecessary, else its size.
async fn send(
    source: &dyn Source,
    image: &dyn ImageTransaction,
    blob: &Descriptor,
    flights: &SingleFlight,
    in_flight: &InFlight,
    events: &Events,
) -> Result<Option<u64>, ExportError> {
    // First: whoever holds the flight is expected to send.
    let _permit = in_flight.enter(blob).await;
    let flight = flights.acquire(&blob.digest).await;
    if flight.is_taken_over {
        let digest = &blob.digest;
        tracing::info!(%digest, source = source.name(), "another export's source of this blob is silent or slow; sending it");
        events.emit(Event::Note(format!("another export that sends {digest} makes no progress; sending it")));
    }
    let (writer, opened) = if blob.size <= SMALL {
        let (writer, opened) = tokio::join!(image.writer(blob), flight.listen(source.open(blob, 0), |_| 0));
        (writer?, Some(opened))
    } else {
        (image.writer(blob).await?, None)
    };
    let sent = match writer {
        Opened::Present => None,
        Opened::Writer(writer) => {
            copy_blob(source, blob, writer, opened, &flight, events).await?;
            Some(blob.size)
        }
    };
    events.emit(Event::Stored { digest: blob.digest.clone() });
    Ok(sent)
}
