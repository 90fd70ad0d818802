//! A proxy in front of dockerd that stops `POST /images/load`, the commit of an export.
//!
//! dockerd speaks HTTP/1 and HTTP/2 on one socket, so bytes are passed on as they come. A load
//! has a connection of its own, which begins with its request line.

use std::{
    os::unix::net::UnixListener as StdListener,
    path::PathBuf,
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::{UnixListener, UnixStream},
    runtime::{Builder, Runtime},
    sync::watch,
};

use crate::common::{Stack, until};

const LOAD: &[u8] = b"POST /images/load";

/// Where a load is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Before dockerd receives it. It never will.
    Requested,
    /// When dockerd has all of the archive but its end.
    Half,
    /// When dockerd has done it. Nobody will ever receive that.
    Done,
}

#[derive(Debug)]
struct State {
    upstream: PathBuf,
    stage: Mutex<Option<Stage>>,
    /// Whether a load is being stopped.
    stopped: watch::Sender<bool>,
}

/// The proxy. Dropping it closes everything.
#[derive(Debug)]
pub(crate) struct Load {
    socket: PathBuf,
    state: Arc<State>,
    _runtime: Runtime,
}

impl Load {
    /// In front of the dockerd of `stack`.
    pub(crate) fn before(stack: &Stack) -> Self {
        let socket = stack.fresh_path(".sock");
        let listener = StdListener::bind(&socket).unwrap();
        listener.set_nonblocking(true).unwrap();
        let upstream = stack.docker_host().trim_start_matches("unix://").into();
        let state = Arc::new(State { upstream, stage: Mutex::default(), stopped: watch::Sender::new(false) });
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let shared = state.clone();
        runtime.spawn(async move {
            let listener = UnixListener::from_std(listener).unwrap();
            while let Ok((client, _)) = listener.accept().await {
                let state = shared.clone();
                // Either side may be killed, so how it ends does not matter.
                tokio::spawn(async move { connection(&state, client).await.ok() });
            }
        });
        Self { socket, state, _runtime: runtime }
    }

    /// Its socket, as `unix:///…`.
    pub(crate) fn address(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    /// Stops the next load at `stage`.
    pub(crate) fn stop_at(&self, stage: Stage) {
        *self.state.stage.lock().unwrap() = Some(stage);
    }

    /// Waits until a load is stopped.
    #[track_caller]
    pub(crate) fn stopped(&self) {
        until("a load to be stopped by the proxy", || *self.state.stopped.borrow(), |stopped| *stopped);
    }

    /// Lets it go on, and passes everything from now on.
    pub(crate) fn restore(&self) {
        *self.state.stage.lock().unwrap() = None;
        self.state.stopped.send_replace(false);
    }
}

async fn connection(state: &State, mut client: UnixStream) -> std::io::Result<()> {
    let mut server = UnixStream::connect(&state.upstream).await?;
    let mut request = vec![0; LOAD.len()];
    client.read_exact(&mut request).await?;
    let stage = *state.stage.lock().unwrap();
    if let Some(stage) = stage.filter(|_| request == LOAD) {
        read_request(&mut client, &mut request).await?;
        let before = match stage {
            Stage::Requested => 0,
            Stage::Half => request.len() - 600,
            Stage::Done => request.len(),
        };
        server.write_all(&request[..before]).await?;
        let mut response = Vec::new();
        // The status comes before the work, these words after it.
        while stage == Stage::Done && !contains(&response, b"Loaded image") {
            if server.read_buf(&mut response).await? == 0 {
                break;
            }
        }
        let mut stopped = state.stopped.subscribe();
        state.stopped.send_replace(true);
        // Never fails: the sender is in the state.
        let _ = stopped.wait_for(|stopped| !stopped).await;
        if stage != Stage::Half {
            return Ok(());
        }
        server.write_all(&request[before..]).await?;
    } else {
        server.write_all(&request).await?;
    }
    copy_bidirectional(&mut client, &mut server).await.map(drop)
}

/// Reads on until `request` holds a whole request, body included.
async fn read_request(client: &mut UnixStream, request: &mut Vec<u8>) -> std::io::Result<()> {
    loop {
        if let Some(end) = request.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&request[..end]).to_lowercase();
            let length = head.split("content-length: ").nth(1).and_then(|rest| rest.split("\r\n").next());
            let length: usize = length.unwrap().parse().unwrap();
            if request.len() >= end + 4 + length {
                return Ok(());
            }
        }
        if client.read_buf(request).await? == 0 {
            return Ok(());
        }
    }
}

fn contains(bytes: &[u8], words: &[u8]) -> bool {
    bytes.windows(words.len()).any(|window| window == words)
}
