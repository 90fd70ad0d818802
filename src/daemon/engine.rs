//! Waits for an engine that starts at the same time, as when the machine boots.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

use crate::engine::EngineError;
use crate::engine::select::{Selected, Selection, select, select_with_containerd};
use crate::telemetry::announce;

use super::notify;

/// The pause between two attempts.
const PAUSE: Duration = Duration::from_millis(250);

/// How long to wait while the containerd that was found is not proven to be dockerd's own.
const UNPROVEN: Duration = Duration::from_secs(5);

/// How much longer than the wait for the engine a start may take: the first attempt may end late, and the other steps
/// of the start follow.
const START_MARGIN: Duration = Duration::from_secs(60);

/// Selects the engine, and waits up to `timeout` if it is not up. Other errors are returned at once: waiting does not
/// resolve them.
pub(super) async fn wait(selection: &Selection, timeout: Duration) -> Result<Selected, EngineError> {
    let (begun, end) = (Instant::now(), Instant::now() + timeout);
    // Extends the service manager's own limit (TimeoutStartSec=), so that any `timeout` works.
    notify::state(&format!("EXTEND_TIMEOUT_USEC={}", timeout.saturating_add(START_MARGIN).as_micros()));
    let (mut last, mut announced) = (None, false);
    loop {
        let look = select_with_containerd(selection);
        let outcome = match last.take() {
            // The first attempt has no deadline: even with a timeout of 0 it reports the actual error.
            None => look.await,
            Some(error) => match timeout_at(end, look).await {
                Ok(outcome) => outcome,
                Err(_) => return Err(error),
            },
        };
        match outcome {
            Err(error) if Instant::now() < patience(&error, begun, timeout) => {
                if !announced {
                    announce(&format!("waiting for the engine, {} s at most: {error}", timeout.as_secs()));
                    announced = true;
                }
                sleep(PAUSE.min(end.saturating_duration_since(Instant::now()))).await;
                last = Some(error);
            }
            // containerd does not come, or is not for this user: whatever does without it.
            Err(error) if error.is_containerd_out_of_reach() => return select(selection).await,
            outcome => return outcome,
        }
    }
}

/// Until when to retry after `error`.
fn patience(error: &EngineError, begun: Instant, timeout: Duration) -> Instant {
    match error {
        // With dockerd's socket in systemd, connections succeed while dockerd starts, but get no response.
        EngineError::Unreachable { .. } | EngineError::Stopped { .. } | EngineError::Timeout { .. } => begun + timeout,
        // Nodes of a cluster start with their docker, one after the other.
        EngineError::Cluster { is_passing: true, .. } => begun + timeout,
        EngineError::Node { error, .. } => patience(error, begun, timeout),
        // dockerd can be up shortly before its containerd responds. Later, the one that was found is not dockerd's.
        EngineError::NotProven { .. } => begun + timeout.min(UNPROVEN),
        _ => begun,
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::UnixListener;

    use super::*;
    use crate::engine::EngineKind;
    use crate::engine::select::DockerAddress;

    /// A dockerd that sends one of `responses` on each connection; `None` is no response.
    fn dockerd(socket: UnixListener, responses: Vec<Option<&'static str>>) -> tokio::task::JoinHandle<()> {
        tokio::spawn(async move {
            let mut silent = Vec::new();
            for response in responses {
                let (mut stream, _) = socket.accept().await.unwrap();
                let Some(response) = response else {
                    silent.push(stream);
                    continue;
                };
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    request.push(stream.read_u8().await.unwrap());
                }
                let head = format!("HTTP/1.1 {response}\r\nContent-Length: 2\r\n\r\n{{}}");
                stream.write_all(head.as_bytes()).await.unwrap();
            }
        })
    }

    #[tokio::test(start_paused = true)]
    async fn a_docker_that_accepts_and_does_not_respond_yet_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("docker.sock");
        let socket = UnixListener::bind(&path).unwrap();
        let responses =
            vec![None, Some("503 Service Unavailable"), Some("500 Internal Server Error"), Some("404 Not Found")];
        let server = dockerd(socket, responses);
        let docker_host = Some(DockerAddress::Unix(path));
        let selection = Selection { kind: Some(EngineKind::Docker), docker_host, ..Selection::default() };
        let error = wait(&selection, Duration::from_secs(120)).await.unwrap_err();
        // An error that does not indicate a starting dockerd is returned at once.
        assert!(matches!(error, EngineError::Protocol { .. }), "{error}");
        server.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_docker_that_never_responds_is_waited_for_until_the_timeout() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("docker.sock");
        let _socket = UnixListener::bind(&path).unwrap();
        let docker_host = Some(DockerAddress::Unix(path));
        let selection = Selection { kind: Some(EngineKind::Docker), docker_host, ..Selection::default() };
        let begun = Instant::now();
        let error = wait(&selection, Duration::from_secs(100)).await.unwrap_err();
        assert!(matches!(error, EngineError::Timeout { .. }), "{error}");
        assert_eq!(begun.elapsed().as_secs(), 100);
    }
}
