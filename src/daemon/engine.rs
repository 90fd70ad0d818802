//! Waiting for an engine that starts when we do, as when a machine does.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

use crate::engine::EngineError;
use crate::engine::select::{Selected, Selection, select};
use crate::telemetry::say;

use super::notify;

/// The pause between two looks.
const PAUSE: Duration = Duration::from_millis(250);

/// How long a containerd is waited for that is not dockerd's own.
const UNPROVEN: Duration = Duration::from_secs(5);

/// How much longer than the engine is waited for a start may take: the first look may end late, and all the rest follows.
const REST: Duration = Duration::from_secs(60);

/// The engine that `selection` asks for; one that is not up is waited for, for `timeout` at most. What is wrong otherwise
/// does not become right by waiting.
pub(super) async fn wait(selection: &Selection, timeout: Duration) -> Result<Selected, EngineError> {
    let (begun, end) = (Instant::now(), Instant::now() + timeout);
    // However long was asked for: the service manager's own limit (TimeoutStartSec=) is only for those who do not say.
    notify::state(&format!("EXTEND_TIMEOUT_USEC={}", timeout.saturating_add(REST).as_micros()));
    let (mut last, mut said) = (None, false);
    loop {
        let look = select(selection);
        let outcome = match last.take() {
            // It takes the time that it needs: who does not want to wait wants to know.
            None => look.await,
            Some(error) => match timeout_at(end, look).await {
                Ok(outcome) => outcome,
                Err(_) => return Err(error),
            },
        };
        match outcome {
            Err(error) if Instant::now() < patience(&error, begun, timeout) => {
                if !said {
                    say(&format!("waiting for the engine, {} s at most: {error}", timeout.as_secs()));
                    said = true;
                }
                sleep(PAUSE.min(end.saturating_duration_since(Instant::now()))).await;
                last = Some(error);
            }
            outcome => return outcome,
        }
    }
}

/// Until when the engine may still come.
fn patience(error: &EngineError, begun: Instant, timeout: Duration) -> Instant {
    match error {
        // Where systemd holds dockerd's socket, one that is starting accepts, and does not answer.
        EngineError::Unreachable { .. } | EngineError::Stopped { .. } | EngineError::Timeout { .. } => begun + timeout,
        // dockerd can be up a moment before its containerd answers. Otherwise another containerd was named.
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

    /// A dockerd that gives each of `answers` to who asks; `None` is silence.
    fn dockerd(socket: UnixListener, answers: Vec<Option<&'static str>>) -> tokio::task::JoinHandle<()> {
        tokio::spawn(async move {
            let mut silent = Vec::new();
            for answer in answers {
                let (mut stream, _) = socket.accept().await.unwrap();
                let Some(answer) = answer else {
                    silent.push(stream);
                    continue;
                };
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    request.push(stream.read_u8().await.unwrap());
                }
                let head = format!("HTTP/1.1 {answer}\r\nContent-Length: 2\r\n\r\n{{}}");
                stream.write_all(head.as_bytes()).await.unwrap();
            }
        })
    }

    #[tokio::test(start_paused = true)]
    async fn a_docker_that_accepts_and_does_not_answer_yet_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("docker.sock");
        let socket = UnixListener::bind(&path).unwrap();
        let answers =
            vec![None, Some("503 Service Unavailable"), Some("500 Internal Server Error"), Some("404 Not Found")];
        let asked = dockerd(socket, answers);
        let docker_host = Some(format!("unix://{}", path.display()));
        let selection = Selection { kind: Some(EngineKind::Docker), docker_host, ..Selection::default() };
        let error = wait(&selection, Duration::from_secs(120)).await.unwrap_err();
        // What is no sign of a start is not waited for.
        assert!(matches!(error, EngineError::Protocol { .. }), "{error}");
        asked.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_docker_that_never_answers_is_waited_for_as_long_as_was_said() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("docker.sock");
        let _socket = UnixListener::bind(&path).unwrap();
        let docker_host = Some(format!("unix://{}", path.display()));
        let selection = Selection { kind: Some(EngineKind::Docker), docker_host, ..Selection::default() };
        let begun = Instant::now();
        let error = wait(&selection, Duration::from_secs(100)).await.unwrap_err();
        assert!(matches!(error, EngineError::Timeout { .. }), "{error}");
        assert_eq!(begun.elapsed().as_secs(), 100);
    }
}
