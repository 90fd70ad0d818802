//! Connects to unix sockets.

use std::io;
use std::path::Path;
use std::time::Duration;

use tokio::net::UnixStream;

/// How long after a refusal for lack of room it is tried again.
const AGAIN: Duration = Duration::from_millis(20);

/// Connects to the socket at `path`. Where the queue of its listener is full, this waits for room, as for TCP the system does: on a
/// socket that does not block it refuses at once (connect(2), `EAGAIN`). The caller limits the time.
pub(crate) async fn connect_unix(path: impl AsRef<Path>) -> io::Result<UnixStream> {
    loop {
        match UnixStream::connect(&path).await {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => tokio::time::sleep(AGAIN).await,
            outcome => return outcome,
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixListener;

    use super::*;

    #[tokio::test]
    async fn a_full_queue_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        rustix::net::listen(&listener, 0).unwrap();
        let mut waiting = Vec::new();
        while let Ok(stream) = UnixStream::connect(&path).await {
            waiting.push(stream);
        }
        let mut connecting = std::pin::pin!(connect_unix(&path));
        assert!(futures_util::poll!(connecting.as_mut()).is_pending());
        drop(listener.accept().await.unwrap());
        connecting.await.unwrap();
        // Other refusals are final.
        drop(listener);
        assert_eq!(connect_unix(&path).await.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    }
}
