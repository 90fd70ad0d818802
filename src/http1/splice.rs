//! Joins two byte streams.

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

use super::buffered::{BufferedIo, Source};

/// How one direction ended.
enum End {
    /// The reader reached its end, and the writer was shut down.
    Read,
    /// The writer failed.
    Refused,
}

/// Copies bytes in both directions until both have ended.
///
/// The end of one direction is forwarded as a half-close. A peer that accepts no more bytes may already have sent its
/// last ones, so the opposite direction is still copied to its end; bytes that can no longer be delivered are read and
/// dropped, so that their sender does not block.
pub(super) async fn splice<C, U>(client: &mut BufferedIo<C>, upstream: &mut BufferedIo<U>)
where
    C: AsyncRead + AsyncWrite + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
{
    // `pass` is cancel-safe: its state is in the two `BufferedIo`s.
    let (is_up, end) = tokio::select! {
        end = pass(&mut client.source, &mut upstream.writer) => (true, end),
        end = pass(&mut upstream.source, &mut client.writer) => (false, end),
    };
    match (is_up, end) {
        (true, End::Read) => {
            pass(&mut upstream.source, &mut client.writer).await;
        }
        (false, End::Read) => {
            pass(&mut client.source, &mut upstream.writer).await;
        }
        (true, End::Refused) => tokio::select! {
            _ = pass(&mut upstream.source, &mut client.writer) => {}
            () = client.source.discard() => {}
        },
        (false, End::Refused) => tokio::select! {
            _ = pass(&mut client.source, &mut upstream.writer) => {}
            () = upstream.source.discard() => {}
        },
    }
}

/// Joins two streams until both directions have ended, as [`ClientConnection`](super::ClientConnection) joins its own.
pub async fn join<C, U>(client: C, upstream: U)
where
    C: AsyncRead + AsyncWrite + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
{
    splice(&mut BufferedIo::new(client), &mut BufferedIo::new(upstream)).await;
}

/// Copies bytes in one direction until its end.
async fn pass<S: AsyncRead>(source: &mut Source<S>, writer: &mut (impl AsyncWrite + Unpin)) -> End {
    loop {
        if source.unread.write_all(writer).await.is_err() {
            return End::Refused;
        }
        if !source.fill().await {
            // Fails only if the peer is gone, and then it needs no half-close.
            let _ = writer.shutdown().await;
            return End::Read;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, DuplexStream, duplex};

    use super::*;

    /// A splice between two pipes of `room` bytes each; returns their far ends.
    fn spliced(room: usize) -> (DuplexStream, DuplexStream, tokio::task::JoinHandle<()>) {
        let ((client, near), (upstream, far)) = (duplex(room), duplex(room));
        let task = tokio::spawn(async move {
            let (mut near, mut far) = (BufferedIo::new(near), BufferedIo::new(far));
            splice(&mut near, &mut far).await;
        });
        (client, upstream, task)
    }

    #[tokio::test]
    async fn each_way_ends_by_itself() {
        let (mut client, mut upstream, task) = spliced(64);
        client.write_all(b"last words").await.unwrap();
        client.shutdown().await.unwrap();
        let mut received = String::new();
        upstream.read_to_string(&mut received).await.unwrap();
        assert_eq!(received, "last words");
        assert!(!task.is_finished());
        upstream.write_all(b"answer").await.unwrap();
        drop(upstream);
        received.clear();
        client.read_to_string(&mut received).await.unwrap();
        assert_eq!(received, "answer");
        task.await.unwrap();
    }

    #[tokio::test]
    async fn what_was_sent_before_leaving_arrives() {
        for client_leaves in [true, false] {
            let (client, upstream, task) = spliced(1 << 10);
            let (mut leaving, mut staying) = if client_leaves { (client, upstream) } else { (upstream, client) };
            leaving.write_all(&[1; 1000]).await.unwrap();
            drop(leaving);
            // These bytes cannot be delivered, and must not block their sender.
            let (mut reader, mut writer) = tokio::io::split(&mut staying);
            let mut received = Vec::new();
            let (_, read) = tokio::join!(writer.write_all(&[2; 100_000]), reader.read_to_end(&mut received));
            read.unwrap();
            assert_eq!(received, [1; 1000]);
            drop(staying);
            task.await.unwrap();
        }
    }

    #[tokio::test]
    async fn much_passes_both_ways_at_once() {
        let (client, upstream, task) = spliced(4096);
        let bytes: Vec<_> = (0..1_000_000_u32).map(|number| (number % 251) as u8).collect();
        let side = |stream: DuplexStream| {
            let bytes = bytes.clone();
            async move {
                let (mut reader, mut writer) = tokio::io::split(stream);
                let mut received = Vec::new();
                let send = async {
                    writer.write_all(&bytes).await.unwrap();
                    writer.shutdown().await.unwrap();
                };
                tokio::join!(send, async { reader.read_to_end(&mut received).await.unwrap() });
                assert!(received == bytes);
            }
        };
        tokio::join!(side(client), side(upstream));
        task.await.unwrap();
    }
}
