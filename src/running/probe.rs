//! Requests the status of a Linkspan.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use crate::net::{Address, Stream, Tls, Upstream, connect_unix};
use crate::status::{MAX_BYTES, PATH, SERVER, Status};

/// The time limit for connecting, and again for the response.
const TIMEOUT: Duration = Duration::from_secs(2);

/// The protocol that is tried first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum First {
    /// The protocol of dockerd and the docker door.
    Http1,
    /// The protocol of builders and the other doors.
    Http2,
}

/// What was found at a socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    /// A door of a running Linkspan.
    Linkspan(Box<Status>),
    /// The registry door of a running Linkspan that says more only to its users.
    Reserved,
    /// Another program: it responded, or closed the connection.
    OtherProgram,
    /// A program that accepts connections and says nothing, as one that is stopped: it may be a Linkspan.
    Silent,
    /// A server that has TLS. Whose it is, it says only to clients that trust it.
    Tls,
    /// No listener.
    Closed,
    /// This process may not connect.
    Denied,
}

/// It does not speak the protocol, or has closed the connection.
#[derive(Debug)]
struct Broken;

/// Probes the listener at `address`.
pub async fn probe(address: &Address, first: First) -> Probe {
    let order = match first {
        First::Http1 => [First::Http1, First::Http2],
        First::Http2 => [First::Http2, First::Http1],
    };
    let (mut has_responded, mut is_silent) = (false, false);
    for protocol in order {
        let stream = match timeout(TIMEOUT, connect(address)).await {
            Ok(Ok(stream)) => TokioIo::new(stream),
            Ok(Err(error)) if error.kind() == io::ErrorKind::PermissionDenied => return Probe::Denied,
            Ok(Err(_)) => return Probe::Closed,
            // It listens, but its queue is full.
            Err(_) => return Probe::Silent,
        };
        let exchange = async {
            match protocol {
                First::Http1 => over_http1(stream).await,
                First::Http2 => over_http2(stream).await,
            }
        };
        match timeout(TIMEOUT, exchange).await {
            Ok(Ok(Some(found))) => return found,
            Ok(Ok(None)) => has_responded = true,
            Ok(Err(Broken)) => {}
            Err(_) => is_silent = true,
        }
    }
    match has_tls(address).await {
        true => Probe::Tls,
        // What speaks the one protocol and is stuck cannot be asked in the other.
        false if is_silent && !has_responded => Probe::Silent,
        false => Probe::OtherProgram,
    }
}

/// Whether a server at a TCP address responds to TLS, with whatever certificate.
async fn has_tls(address: &Address) -> bool {
    let any = Tls { skip_verify: true, ..Tls::default() };
    // A unix socket has none.
    let Ok(upstream) = Upstream::docker(address.clone(), Some(&any)) else { return false };
    match timeout(TIMEOUT, upstream.connect()).await {
        Ok(Ok(_)) => true,
        // It wants a certificate, or none of our protocols.
        Ok(Err(error)) => error.is_of_tls_peer(),
        Err(_) => false,
    }
}

/// Probes the listener at `address` with TLS. Of Linkspan's doors with TLS only that of the registry says what runs.
pub async fn probe_with_tls(address: &Address, tls: &Tls) -> Probe {
    let Ok(upstream) = Upstream::docker(address.clone(), Some(tls)) else { return Probe::OtherProgram };
    let exchange = async {
        let stream = upstream.connect().await.ok()?;
        over_http1(TokioIo::new(stream)).await.ok().flatten()
    };
    match timeout(TIMEOUT * 2, exchange).await {
        Ok(found) => found.unwrap_or(Probe::OtherProgram),
        Err(_) => Probe::Silent,
    }
}

pub(super) async fn connect(address: &Address) -> io::Result<Box<dyn Stream>> {
    Ok(match address {
        Address::Unix(path) => Box::new(connect_unix(path).await?),
        Address::Tcp { host, port } => Box::new(TcpStream::connect((host.as_str(), *port)).await?),
    })
}

/// What is found by one request; `None` if another program responds.
async fn over_http1(stream: TokioIo<Box<dyn Stream>>) -> Result<Option<Probe>, Broken> {
    let (mut sender, connection) = http1::handshake(stream).await.map_err(|_| Broken)?;
    let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
    // The registry door takes no other name of clients that it does not know.
    let request = Request::get(PATH).header(header::HOST, "localhost").header(header::CONNECTION, "close");
    let request = request.body(Empty::<Bytes>::new()).map_err(|_| Broken)?;
    Ok(read(sender.send_request(request).await.map_err(|_| Broken)?).await)
}

async fn over_http2(stream: TokioIo<Box<dyn Stream>>) -> Result<Option<Probe>, Broken> {
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), stream).await.map_err(|_| Broken)?;
    let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
    let uri = Uri::builder().scheme("http").authority("localhost").path_and_query(PATH).build().map_err(|_| Broken)?;
    let request = Request::get(uri).body(Empty::<Bytes>::new()).map_err(|_| Broken)?;
    Ok(read(sender.send_request(request).await.map_err(|_| Broken)?).await)
}

async fn read(response: Response<Incoming>) -> Option<Probe> {
    match response.status() {
        StatusCode::OK => {
            let document = Limited::new(response.into_body(), MAX_BYTES).collect().await.ok()?.to_bytes();
            Some(Probe::Linkspan(Box::new(serde_json::from_slice(&document).ok()?)))
        }
        StatusCode::UNAUTHORIZED | StatusCode::NOT_FOUND => {
            let is_ours = response.headers().get(header::SERVER).is_some_and(|server| server == SERVER);
            is_ours.then_some(Probe::Reserved)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{UnixListener, UnixStream};

    use super::*;

    /// What is found at a socket whose owner sends `response` to every request.
    async fn probed(response: &'static str) -> Probe {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let serving = tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let _ = stream.read(&mut [0; 4096]).await;
                let _ = stream.write_all(response.as_bytes()).await;
            }
        });
        let probed = probe(&Address::Unix(path), First::Http1).await;
        serving.abort();
        probed
    }

    #[tokio::test]
    async fn only_a_linkspan_is_taken_for_one() {
        let ours = "HTTP/1.1 200 OK\r\nContent-Length: 77\r\n\r\n\
                    {\"version\":\"1\",\"instance\":\"i\",\"door\":{\"kind\":\"docker\",\"address\":\"unix:///d\"}}";
        assert!(matches!(probed(ours).await, Probe::Linkspan(status) if status.instance == "i"));
        for other in [
            "HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\n{}",
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
            "HTTP/1.1 200 OK\r\nContent-Length: 9999999\r\n\r\n{",
            "HTTP/1.1 401 Unauthorized\r\nServer: nginx\r\nContent-Length: 0\r\n\r\n",
            "220 mail.example ESMTP\r\n",
        ] {
            assert_eq!(probed(other).await, Probe::OtherProgram, "{other}");
        }
    }

    #[tokio::test]
    async fn a_door_with_passwords_says_whose_it_is() {
        let response = "HTTP/1.1 401 Unauthorized\r\nServer: linkspan\r\nContent-Length: 0\r\n\r\n";
        assert_eq!(probed(response).await, Probe::Reserved);
    }

    #[tokio::test]
    async fn a_socket_without_a_listener_is_closed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        assert_eq!(probe(&Address::Unix(path.clone()), First::Http2).await, Probe::Closed);
        drop(UnixListener::bind(&path).unwrap());
        assert_eq!(probe(&Address::Unix(path), First::Http2).await, Probe::Closed);
        assert_eq!(probe(&Address::Unix(folder.path().into()), First::Http1).await, Probe::Closed);
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_listener_is_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let _listener = UnixListener::bind(&path).unwrap();
        assert_eq!(probe(&Address::Unix(path), First::Http1).await, Probe::Silent);
        let (listener, any) = (tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap(), Tls::default());
        let address: Address = format!("tcp://{}", listener.local_addr().unwrap()).parse().unwrap();
        assert_eq!(probe(&address, First::Http2).await, Probe::Silent);
        assert_eq!(probe_with_tls(&address, &any).await, Probe::Silent);
    }

    #[tokio::test]
    async fn a_server_of_http2_that_is_stuck_is_no_other_program() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address: Address = format!("tcp://{}", listener.local_addr().unwrap()).parse().unwrap();
        let serving = tokio::spawn(async move {
            let mut clients = Vec::new();
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                // Its settings, and nothing else.
                stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
                clients.push(stream);
            }
        });
        assert_eq!(probe(&address, First::Http2).await, Probe::Silent);
        serving.abort();
    }

    #[tokio::test]
    async fn a_listener_whose_queue_is_full_is_not_closed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        rustix::net::listen(&listener, 0).unwrap();
        let mut waiting = Vec::new();
        while let Ok(stream) = UnixStream::connect(&path).await {
            waiting.push(stream);
        }
        assert_eq!(probe(&Address::Unix(path), First::Http2).await, Probe::Silent);
    }
}
