use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use http::Uri;
use tokio::io::{DuplexStream, duplex};
use tokio::sync::mpsc;

use super::*;
use crate::http2::{full, serve};
use crate::net::DialError;

/// Leads to a server that responds to everything, once for each stream that it is handed.
#[derive(Debug)]
struct Counted {
    dials: Arc<AtomicUsize>,
    /// The far ends, for tests that serve them.
    far: mpsc::UnboundedSender<DuplexStream>,
}

#[async_trait]
impl Dial for Counted {
    fn name(&self) -> String {
        "a test".to_owned()
    }

    async fn dial(&self) -> Result<Box<dyn Stream>, DialError> {
        self.dials.fetch_add(1, Ordering::Relaxed);
        let (near, far) = duplex(1 << 16);
        let sent = self.far.send(far);
        sent.map(|()| Box::new(near) as Box<dyn Stream>).map_err(Into::into)
    }

    async fn process(&self) -> Option<Pid> {
        None
    }
}

struct Rig {
    link: Arc<ConnectionPool>,
    dials: Arc<AtomicUsize>,
    /// One word for each stream whose other end was closed.
    closed: mpsc::UnboundedReceiver<()>,
    /// Ends every server, as a builder that is killed.
    kill: CancellationToken,
    /// Keeps every server from responding, as a builder that is stuck.
    mute: CancellationToken,
    /// Keeps the servers that are there from responding, and no later ones.
    silence: CancellationToken,
}

fn rig(sharing: ConnectionSharing) -> Rig {
    let (far, mut streams) = mpsc::unbounded_channel();
    let (closing, closed) = mpsc::unbounded_channel();
    let (dials, kill, mute) = (Arc::new(AtomicUsize::new(0)), CancellationToken::new(), CancellationToken::new());
    let silence = CancellationToken::new();
    let (server, all, present) = (kill.clone(), mute.clone(), silence.clone());
    tokio::spawn(async move {
        while let Some(stream) = streams.recv().await {
            let (closing, server) = (closing.clone(), server.clone());
            let silent = if present.is_cancelled() { all.clone() } else { present.clone() };
            let all = all.clone();
            tokio::spawn(async move {
                let served = serve(stream, CancellationToken::new(), |_| {
                    let is_mute = silent.is_cancelled() || all.is_cancelled();
                    async move {
                        if is_mute {
                            std::future::pending::<()>().await;
                        }
                        Ok(Response::new(full("".into())))
                    }
                });
                server.run_until_cancelled(served).await;
                // The test may have ended.
                let _ = closing.send(());
            });
        }
    });
    Rig {
        link: ConnectionPool::new(Box::new(Counted { dials: dials.clone(), far }), sharing),
        dials,
        closed,
        kill,
        mute,
        silence,
    }
}

async fn send(connection: &UpstreamConnection) -> Result<(), ProxyError> {
    let request = Request::post(Uri::from_static("http://localhost/")).body(full("".into())).unwrap();
    connection.send(request).await.map(drop)
}

const IDLE: ConnectionSharing = ConnectionSharing::Shared { idle: Duration::from_secs(100) };

#[tokio::test]
async fn each_client_has_its_own() {
    let rig = rig(ConnectionSharing::PerClient);
    let (one, two) = (rig.link.connect().await.unwrap(), rig.link.connect().await.unwrap());
    send(&one).await.unwrap();
    send(&two).await.unwrap();
    assert_eq!(rig.dials.load(Ordering::Relaxed), 2);
    assert!(rig.link.present().await.is_none());
}

#[tokio::test]
async fn everybody_shares_one_that_is_made_once() {
    let rig = rig(IDLE);
    let clients = futures_util::future::join_all((0..8).map(|_| rig.link.connect())).await;
    for client in clients {
        send(&client.unwrap()).await.unwrap();
    }
    assert_eq!(rig.dials.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn it_is_closed_when_it_was_not_used_for_a_while() {
    let mut rig = rig(IDLE);
    let held = rig.link.connect().await.unwrap();
    send(&held).await.unwrap();
    // Time passes only while everybody waits: a holder keeps it however long that is.
    tokio::time::sleep(Duration::from_secs(1000)).await;
    drop(held);
    tokio::time::sleep(Duration::from_secs(99)).await;
    drop(rig.link.present().await.unwrap());
    tokio::time::sleep(Duration::from_secs(99)).await;
    assert!(rig.closed.try_recv().is_err(), "a use in between starts the time anew");
    rig.closed.recv().await.unwrap();
    assert!(rig.link.present().await.is_none());
    send(&rig.link.connect().await.unwrap()).await.unwrap();
    assert_eq!(rig.dials.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn a_connection_that_has_ended_is_not_given_to_anybody() {
    let rig = rig(IDLE);
    let held = rig.link.connect().await.unwrap();
    send(&held).await.unwrap();
    rig.kill.cancel();
    held.cut().cancelled().await;
    assert!(rig.link.present().await.is_none());
    assert!(send(&held).await.is_err());
    // The first call may come before the connection's task has noticed; the upstream is named from then on.
    let reason = async {
        loop {
            match send(&held).await {
                Err(error) if error.reason().contains("cannot be reached") => return error.reason(),
                _ => tokio::task::yield_now().await,
            }
        }
    };
    let reason = tokio::time::timeout(Duration::from_secs(60), reason).await.unwrap();
    assert!(reason.starts_with("a test cannot be reached: the connection to it has ended"), "{reason}");
}

#[tokio::test]
async fn one_that_was_made_elsewhere_takes_its_place() {
    let mut rig = rig(IDLE);
    let first = rig.link.connect().await.unwrap();
    send(&first).await.unwrap();
    let (near, far) = duplex(1 << 16);
    tokio::spawn(serve(far, CancellationToken::new(), |_| async { Ok(Response::new(full("".into()))) }));
    let second = rig.link.adopt(Box::new(near)).await.unwrap();
    send(&second).await.unwrap();
    send(&first).await.unwrap();
    drop(first);
    rig.closed.recv().await.unwrap();
    send(&rig.link.connect().await.unwrap()).await.unwrap();
    assert_eq!(rig.dials.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn one_that_does_not_respond_is_replaced() {
    let rig = rig(IDLE);
    send(&rig.link.connect().await.unwrap()).await.unwrap();
    drop(rig.link.connect().await.unwrap());
    assert_eq!(rig.dials.load(Ordering::Relaxed), 1);
    rig.mute.cancel();
    assert!(rig.link.present().await.is_none());
    // It responded a moment ago, and counts as there until then.
    tokio::time::sleep(Duration::from_secs(2)).await;
    futures_util::future::join_all((0..4).map(|_| rig.link.connect())).await;
    assert_eq!(rig.dials.load(Ordering::Relaxed), 2, "once for all that wait");
}

/// One call of ours, as tonic's clients make it.
async fn call(link: &Arc<ConnectionPool>) -> Result<(), Status> {
    let request = Request::post(Uri::from_static("http://localhost/")).body(tonic::body::Body::empty()).unwrap();
    tower::Service::call(&mut Calls::new(Arc::clone(link)), request).await.map(drop)
}

#[tokio::test(start_paused = true)]
async fn our_own_calls_do_not_wait_for_a_connection_that_was_dropped_in_silence() {
    let rig = rig(ConnectionSharing::PerClient);
    call(&rig.link).await.unwrap();
    call(&rig.link).await.unwrap();
    assert_eq!(rig.dials.load(Ordering::Relaxed), 1, "one that was just heard is used again, without a question");
    tokio::time::sleep(Duration::from_secs(900)).await;
    call(&rig.link).await.unwrap();
    assert_eq!(rig.dials.load(Ordering::Relaxed), 1, "and so is one that still responds");
    tokio::time::sleep(Duration::from_secs(900)).await;
    // No signal that it has gone: its bytes just lead nowhere. A new one does respond.
    rig.silence.cancel();
    let begun = tokio::time::Instant::now();
    call(&rig.link).await.unwrap();
    assert_eq!(rig.dials.load(Ordering::Relaxed), 2);
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
}
