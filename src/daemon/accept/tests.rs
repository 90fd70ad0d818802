//! Connections before, during and at the end of a drain.

use std::path::{Path, PathBuf};
use std::{fs, future};

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::mpsc;

use super::*;
use crate::net::Address;

async fn listener(folder: &TempDir) -> (Listener, PathBuf) {
    let path = folder.path().join("door");
    let gid = rustix::process::getegid().as_raw();
    (Listener::bind(&Address::Unix(path.clone()), gid, None).await.unwrap(), path)
}

/// Sends each received byte back, until the client closes the connection.
async fn echo(client: Client) {
    let mut stream = client.io;
    let mut byte = [0];
    while stream.read_exact(&mut byte).await.is_ok() {
        stream.write_all(&byte).await.unwrap();
    }
}

async fn round_trip(client: &mut UnixStream) {
    client.write_all(b"x").await.unwrap();
    client.read_exact(&mut [0]).await.unwrap();
}

async fn greeted(path: &Path) -> UnixStream {
    let mut client = UnixStream::connect(path).await.unwrap();
    round_trip(&mut client).await;
    client
}

#[tokio::test]
async fn a_drain_ends_when_the_last_client_leaves() {
    let folder = tempfile::tempdir().unwrap();
    let (listener, path) = listener(&folder).await;
    let listeners = Listeners::new(8, Activities::default());
    let (drained, mut drains) = mpsc::unbounded_channel();
    listeners.open("test", listener, move |stream, drain: Drain| {
        let drained = drained.clone();
        async move {
            tokio::join!(echo(stream), async {
                drain.cancelled().await;
                drained.send(()).unwrap();
            });
        }
    });
    let mut client = greeted(&path).await;
    assert_eq!(listeners.connections(), 1);

    let closing = tokio::spawn(listeners.close(Duration::from_secs(3600), future::pending()));
    drains.recv().await.unwrap();
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "a successor can have the name");
    round_trip(&mut client).await;
    assert!(!closing.is_finished());
    drop(client);
    closing.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_drain_ends_at_its_deadline() {
    let folder = tempfile::tempdir().unwrap();
    let (listener, path) = listener(&folder).await;
    let listeners = Listeners::new(8, Activities::default());
    listeners.open("test", listener, |stream, _| echo(stream));
    let mut client = greeted(&path).await;
    let error = listeners.close(Duration::from_secs(30), future::pending()).await.unwrap_err();
    assert_eq!(error.to_string(), "1 of the open connections did not finish within 30 s and were ended");
    assert_eq!(client.read(&mut [0]).await.unwrap(), 0, "the connection is cut");
}

#[tokio::test]
async fn a_second_signal_ends_a_drain() {
    let folder = tempfile::tempdir().unwrap();
    let (listener, path) = listener(&folder).await;
    let listeners = Listeners::new(8, Activities::default());
    listeners.open("test", listener, |stream, _| echo(stream));
    let _client = greeted(&path).await;
    let force = future::ready("before a second signal (SIGINT)".to_owned());
    let error = listeners.close(Duration::from_secs(3600), force).await.unwrap_err();
    assert!(error.to_string().contains("before a second signal (SIGINT)"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_drain_does_not_wait_for_what_is_not_to_be_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let (listener, path) = listener(&folder).await;
    let listeners = Listeners::new(8, Activities::default());
    // A client's first byte selects its kind: an endless stream, a tunnel, or an exchange.
    listeners.open("test", listener, |mut stream, drain| async move {
        let mut kind = [0];
        stream.io.read_exact(&mut kind).await.unwrap();
        stream.io.write_all(&kind).await.unwrap();
        let _mark = match kind[0] {
            b'e' => Some(drain.endless()),
            b't' => Some(drain.tunnel()),
            _ => None,
        };
        echo(stream).await;
    });
    let come = async |kind: &[u8]| {
        let mut client = UnixStream::connect(&path).await.unwrap();
        client.write_all(kind).await.unwrap();
        client.read_exact(&mut [0]).await.unwrap();
        round_trip(&mut client).await;
        client
    };
    let (mut endless, mut tunnel, exchange) = (come(b"e").await, come(b"t").await, come(b"x").await);
    let closing = tokio::spawn(listeners.close(Duration::from_secs(3600), future::pending()));
    tokio::time::sleep(10 * crate::net::IDLE).await;
    // While an exchange is under way, no connection is closed.
    round_trip(&mut endless).await;
    round_trip(&mut tunnel).await;
    drop(exchange);
    tokio::time::sleep(crate::net::IDLE / 2).await;
    assert!(!closing.is_finished(), "something has passed through the tunnel just now");
    round_trip(&mut tunnel).await;
    tokio::time::sleep(2 * crate::net::IDLE).await;
    closing.await.unwrap().unwrap();
    for client in [&mut endless, &mut tunnel] {
        assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
    }
}

#[tokio::test]
async fn who_has_come_when_a_drain_begins_is_served() {
    let folder = tempfile::tempdir().unwrap();
    let (listener, path) = listener(&folder).await;
    let listeners = Listeners::new(8, Activities::default());
    listeners.open("test", listener, |stream, _| echo(stream));
    // The accept loop has not run yet, so the connection is still in the queue.
    let client = std::os::unix::net::UnixStream::connect(&path).unwrap();
    client.set_nonblocking(true).unwrap();
    let mut client = UnixStream::from_std(client).unwrap();
    let served = async {
        round_trip(&mut client).await;
        drop(client);
    };
    let ((), closed) = tokio::join!(served, listeners.close(Duration::from_secs(3600), future::pending()));
    closed.unwrap();
}

#[tokio::test]
async fn connections_above_the_limit_wait_for_room() {
    let folder = tempfile::tempdir().unwrap();
    let (listener, path) = listener(&folder).await;
    let listeners = Listeners::new(2, Activities::default());
    listeners.open("test", listener, |stream, _| echo(stream));
    let (first, _second) = (greeted(&path).await, greeted(&path).await);
    let mut third = UnixStream::connect(&path).await.unwrap();
    third.write_all(b"x").await.unwrap();
    // The third connection stays in the queue while the other two are served.
    for _ in 0..100 {
        tokio::task::yield_now().await;
        assert_eq!(listeners.connections(), 2);
    }
    drop(first);
    third.read_exact(&mut [0]).await.unwrap();
    assert_eq!(listeners.connections(), 2);
}

#[test]
fn accept_errors_of_one_connection_are_ignored() {
    let lightly = |errno: Errno| is_the_clients(&io::Error::from(errno));
    assert!(lightly(Errno::CONNABORTED) && lightly(Errno::INTR));
    assert!(!lightly(Errno::MFILE) && !lightly(Errno::NFILE) && !lightly(Errno::NOMEM) && !lightly(Errno::BADF));
    assert!(!is_the_clients(&io::Error::other("no errno")));
}

/// A flood of a TCP port, which any user of this machine can make.
#[tokio::test]
async fn connections_over_tcp_leave_room_for_unix_sockets() {
    let folder = tempfile::tempdir().unwrap();
    let (unix, path) = listener(&folder).await;
    let tcp = Listener::bind(&"tcp://127.0.0.1:0".parse().unwrap(), 0, None).await.unwrap();
    let Address::Tcp { host, port } = tcp.address().clone() else { unreachable!("it is a TCP address") };
    let listeners = Listeners::new(8, Activities::default());
    listeners.open("tcp", tcp, |stream, _| echo(stream));
    listeners.open("unix", unix, |stream, _| echo(stream));
    let mut flood = Vec::new();
    for _ in 0..16 {
        let mut client = TcpStream::connect((host.as_str(), port)).await.unwrap();
        client.write_all(b"x").await.unwrap();
        flood.push(client);
    }
    for client in &mut flood[..2] {
        client.read_exact(&mut [0]).await.unwrap();
    }
    let served = async { [greeted(&path).await, greeted(&path).await, greeted(&path).await] };
    let local = tokio::time::timeout(Duration::from_secs(60), served).await.expect("the unix socket is not served");
    assert_eq!(listeners.connections(), 2 + local.len());
    // Those that wait are served when others have gone.
    drop(flood.drain(..2));
    flood[0].read_exact(&mut [0]).await.unwrap();
}

#[test]
fn each_transport_has_its_part() {
    let permits = Permits::new(8);
    let try_acquire = |transport| permits.of(transport, None).try_acquire();
    let mut held = Vec::new();
    for transport in [Transport::Tls, Transport::Tcp] {
        held.extend((0..2).map(|_| try_acquire(transport).unwrap()));
        assert!(try_acquire(transport).is_none());
    }
    held.extend((0..4).map(|_| try_acquire(Transport::Unix).unwrap()));
    assert!(try_acquire(Transport::Unix).is_none());
    held.clear();
    assert!(try_acquire(Transport::Tls).is_some() && try_acquire(Transport::Tcp).is_some());
}

/// Clients that send nothing keep nobody out, and those that are served stay.
#[tokio::test]
async fn who_owes_a_request_gives_way_when_there_is_no_room() {
    let folder = tempfile::tempdir().unwrap();
    let (listener, path) = listener(&folder).await;
    let listeners = Listeners::new(64, Activities::default());
    listeners.open_for(Some(2), "test", listener, |mut client, drain| async move {
        drain.waits();
        let mut byte = [0];
        while client.io.read_exact(&mut byte).await.is_ok() {
            drain.works();
            client.io.write_all(&byte).await.unwrap();
        }
    });
    let mut served = greeted(&path).await;
    let mut silent = UnixStream::connect(&path).await.unwrap();
    for _ in 0..3 {
        let late = tokio::time::timeout(Duration::from_secs(60), greeted(&path)).await.expect("there is no room");
        assert_eq!(silent.read(&mut [0]).await.unwrap(), 0, "the silent one gave way");
        round_trip(&mut served).await;
        drop(late);
        silent = UnixStream::connect(&path).await.unwrap();
    }
}
