//! The start of an exec that connects to a builder.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::super::target::Target;
use super::Builders;
use super::create::MAX_BODY_BYTES;
use super::exec::Exec;
use super::pool::{Entry, Key};
use crate::http1::{ClientConnection, Exchange, PrefixedIo, RelayError, RequestHead, Switched, Upgrade, join};
use crate::http2::PooledConnection;
use crate::net::{self, Drain, Principal, Stream};
use crate::tunnel::sniff::{self, Protocol};
use crate::tunnel::{Client, MAX_ERRORS_WAITING, Output};

/// How long to wait for the client's first bytes: one that speaks HTTP/2 sends them at once.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(2);

/// How long to wait for the builder's first bytes: it sends them as soon as runc has made the process, which takes a
/// tenth of a second on an idle machine.
const PROCESS_TIMEOUT: Duration = Duration::from_secs(10);

/// The first API version with a media type of its own for streams in frames (moby
/// `daemon/server/router/container/exec.go`).
const MULTIPLEXED_SINCE: (u32, u32) = (1, 42);

/// moby `api/types/container/exec_start_request.go`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Start {
    #[serde(default)]
    detach: bool,
    #[serde(default)]
    tty: bool,
}

impl Builders {
    /// Starts exec `id`: forwarded unchanged, or with the buildkit door in between.
    pub(in super::super) async fn start<T>(
        &self,
        mut exchange: Exchange<T>,
        id: &str,
        peer: &Principal,
        drain: Drain,
    ) -> Result<Option<ClientConnection<T>>, RelayError>
    where
        T: Stream + 'static,
    {
        let Some(Exec { container, container_id, process, head }) = self.pending.take(id) else {
            return exchange.pass().await;
        };
        let body = exchange.body(MAX_BODY_BYTES).await?;
        let attaches = body.as_deref().and_then(|body| serde_json::from_slice(body).ok());
        let attaches = attaches.is_some_and(|Start { detach, tty }| !detach && !tty);
        let (true, true, Ok(Some(container_id))) =
            (attaches, exchange.head().headers().get("upgrade").is_some(), container_id.await)
        else {
            return exchange.pass().await;
        };
        let key = Key { container: container_id, process };
        let name = format!("docker-container://{container}");
        let Some(entry) = self.pool.entry(&key, &name) else { return exchange.pass().await };
        match entry.present().await {
            Some(held) => {
                tracing::debug!(builder = name, id, "exec served from a connection that is there");
                let switching = switching(exchange.head(), &head);
                let client = net::Connection { io: exchange.respond(&switching).await?, peer: peer.clone() };
                self.serve_pooled(id, &entry, held, client, body.unwrap_or_default(), drain).await;
                Ok(None)
            }
            None => {
                tracing::debug!(builder = name, id, "exec started");
                match exchange.upgrade().await? {
                    Upgrade::Switched(switched) => {
                        self.serve_over_exec(key, &entry, *switched, peer, drain).await.map(|()| None)
                    }
                    Upgrade::Declined(connection) => Ok(connection),
                }
            }
        }
    }

    /// Serves a client over the open connection `held`, without starting its exec.
    async fn serve_pooled<T>(
        &self,
        id: &str,
        entry: &Entry,
        held: PooledConnection,
        client: net::Connection<PrefixedIo<T>>,
        body: Bytes,
        drain: Drain,
    ) where
        T: Stream + 'static,
    {
        let net::Connection { io: client, peer } = client;
        let (client, protocol) = client_protocol(client).await;
        if protocol == Protocol::Http2 {
            entry.deferred.add(id.to_owned());
            let (_, errors) = mpsc::channel(1);
            let client = net::Connection { io: boxed(Client::new(client, errors)), peer };
            return Arc::clone(&entry.service).serve(held, client, drain).await;
        }
        drop(held);
        // The client already has its response, so dockerd's is dropped; the stream after it is forwarded.
        let failure = match self.docker.upgrade(&format!("/exec/{id}/start"), "tcp", body).await {
            Ok(Ok(upstream)) => {
                let _tunnel = drain.tunnel();
                return join(client, TokioIo::new(upstream)).await;
            }
            Ok(Err(response)) => response.message(),
            Err(error) => error.to_string(),
        };
        tracing::debug!(id, failure, "the exec cannot be started");
        // dockerd reports errors after the response in the same way (moby `daemon/server/router/container/exec.go`).
        let (_, errors) = mpsc::channel(1);
        let written = Client::new(client, errors).write_all(format!("{failure}\r\n").as_bytes()).await;
        written.unwrap_or_else(|error| tracing::debug!(id, %error, "the client has gone"));
    }

    /// Serves a client over the exec that dockerd has started for it, if both speak HTTP/2.
    async fn serve_over_exec<T>(
        &self,
        key: Key,
        entry: &Arc<Entry>,
        switched: Switched<T>,
        peer: &Principal,
        drain: Drain,
    ) -> Result<(), RelayError>
    where
        T: Stream + 'static,
    {
        let head = switched.head().raw().clone();
        let (mut client, upstream) = switched.into_streams();
        client.write_all(&head).await.map_err(RelayError::Client)?;
        let (client, protocol) = client_protocol(client).await;
        if protocol != Protocol::Http2 {
            let _tunnel = drain.tunnel();
            join(client, upstream).await;
            return Ok(());
        }
        let (client, upstream, protocol) = process_protocol(client, upstream).await.map_err(RelayError::Client)?;
        if protocol != Protocol::Http2 {
            let _tunnel = drain.tunnel();
            join(client, upstream).await;
            return Ok(());
        }
        let (error_sender, errors) = mpsc::channel(MAX_ERRORS_WAITING);
        match self.pool.adopt(key, entry, Box::new(Output::new(upstream, Some(error_sender)))).await {
            Ok(held) => {
                let client = net::Connection { io: boxed(Client::new(client, errors)), peer: peer.clone() };
                Arc::clone(&entry.service).serve(held, client, drain).await;
            }
            Err(error) => tracing::warn!(%error, "the builder cannot be reached"),
        }
        Ok(())
    }
}

fn boxed(stream: impl Stream + 'static) -> Box<dyn Stream> {
    Box::new(stream)
}

/// dockerd's response to the start of an attached exec (moby `daemon/server/router/container/exec.go`): its own
/// headers, and then, sorted, those that are in every response.
fn switching(request: &RequestHead, every: &[(&'static str, Vec<u8>)]) -> Vec<u8> {
    let newest = every.iter().find(|(name, _)| *name == "Api-Version").map(|(_, value)| String::from_utf8_lossy(value));
    let target = Target::of(request.target());
    let version = target.version().and_then(version).or_else(|| version(&newest?)).unwrap_or(MULTIPLEXED_SINCE);
    let kind = if version >= MULTIPLEXED_SINCE { "multiplexed" } else { "raw" };
    let mut head = format!(
        "HTTP/1.1 101 UPGRADED\r\nContent-Type: application/vnd.docker.{kind}-stream\r\nConnection: Upgrade\r\nUpgrade: \
         tcp\r\n"
    )
    .into_bytes();
    for (name, value) in every {
        head.extend_from_slice(name.as_bytes());
        head.extend_from_slice(b": ");
        head.extend_from_slice(value);
        head.extend_from_slice(b"\r\n");
    }
    head.extend_from_slice(b"\r\n");
    head
}

/// Parses a version such as `1.42`.
fn version(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// Reads until the client's protocol is known. The returned stream begins with the bytes that were read.
async fn client_protocol<S: AsyncRead + Unpin>(mut client: S) -> (PrefixedIo<S>, Protocol) {
    let mut read = BytesMut::new();
    let judge = async {
        loop {
            let protocol = sniff::client(&read);
            // The next reader gets the error or the end again.
            if protocol != Protocol::Unclear || !matches!(client.read_buf(&mut read).await, Ok(1..)) {
                return protocol;
            }
        }
    };
    // A silent client does not speak HTTP/2.
    let protocol = timeout(CLIENT_TIMEOUT, judge).await.unwrap_or(Protocol::Other);
    (PrefixedIo::new(read.freeze(), client), protocol)
}

/// Reads until the process's protocol is known. Its first standard error is forwarded to the client at once; the
/// returned stream begins with all other bytes.
async fn process_protocol<C, S>(mut client: C, mut process: S) -> std::io::Result<(C, PrefixedIo<S>, Protocol)>
where
    C: AsyncWrite + Unpin,
    S: AsyncRead + Unpin,
{
    let mut read = BytesMut::new();
    let mut late = std::pin::pin!(tokio::time::sleep(PROCESS_TIMEOUT));
    loop {
        let (errors, protocol) = sniff::output(&read);
        if errors > 0 {
            client.write_all(&read.split_to(errors)).await?;
            client.flush().await?;
        }
        let more = protocol == Protocol::Unclear
            && tokio::select! {
                more = process.read_buf(&mut read) => matches!(more, Ok(1..)),
                () = &mut late => false,
            };
        if !more {
            return Ok((client, PrefixedIo::new(read.freeze(), process), protocol));
        }
    }
}

#[cfg(test)]
mod tests;
