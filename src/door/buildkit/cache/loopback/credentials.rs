//! The password of the registry, and how a builder learns it: from its client's session, as that of any registry.

use std::io;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use futures_util::FutureExt as _;
use http::header::AUTHORIZATION;
use http::{HeaderMap, Request};
use hyper::body::Incoming;
use rustix::rand::{GetRandomFlags, getrandom};
use tokio::sync::Mutex as AsyncMutex;
use tonic::Status;

use super::super::super::grpc::{Unary, error_response, frame, grpc_response};
use super::super::super::session::{Answer, Answered};
use super::super::super::wire::{fields, put_bytes};
use super::{Listener, Loopback};
use crate::image::Digest;

/// The call by which a builder asks for a registry's password (BuildKit `session/auth/auth.proto`).
pub(in super::super) const CREDENTIALS: &str = "/moby.filesync.v1.Auth/Credentials";
/// `CredentialsRequest.Host`.
const HOST: u32 = 1;
/// `CredentialsResponse.Username` and `.Secret`.
const USERNAME: u32 = 1;
const SECRET: u32 = 2;

const USER: &str = "linkspan";

/// A password that nobody chose.
pub(super) struct Password {
    text: String,
    /// The digest of the header that has it. Digests are compared, so that the time of it tells nothing.
    header: Digest,
}

impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Password")
    }
}

impl Password {
    /// A new one.
    pub(super) fn new() -> io::Result<Self> {
        let mut random = [0; 16];
        getrandom(&mut random, GetRandomFlags::empty())?;
        let text = hex::encode(random);
        let header = format!("Basic {}", BASE64.encode(format!("{USER}:{text}")));
        Ok(Self { text, header: Digest::sha256(header.as_bytes()) })
    }

    /// Whether a request has it.
    pub(super) fn is_in(&self, headers: &HeaderMap) -> bool {
        headers.get(AUTHORIZATION).is_some_and(|header| Digest::sha256(header.as_bytes()) == self.header)
    }
}

impl Loopback {
    /// Answers the question for a password, if it is for this registry.
    pub(in super::super) fn credentials(&self) -> Answer {
        let listener = self.listener.clone();
        Box::new(move |call| respond(listener, call).boxed())
    }
}

async fn respond(listener: Arc<AsyncMutex<Option<Listener>>>, call: Request<Incoming>) -> Answered {
    let (parts, body) = call.into_parts();
    let call = match Unary::read(body).await {
        Ok(call) => call,
        Err(error) => return Answered::Response(error_response(&Status::unavailable(format!("linkspan: {error}")))),
    };
    let host = call.message().and_then(|message| host(&message));
    match &*listener.lock().await {
        Some(open) if host == Some(format!("localhost:{}", open.port)) => {
            let mut message = Vec::new();
            put_bytes(&mut message, USERNAME, USER.as_bytes());
            put_bytes(&mut message, SECRET, open.password.text.as_bytes());
            Answered::Response(grpc_response(frame(&message)))
        }
        _ => Answered::Pass(Request::from_parts(parts, call.into_body())),
    }
}

fn host(message: &[u8]) -> Option<String> {
    let host = fields(message).filter_map(Result::ok).find(|field| field.number == HOST)?;
    host.text().ok().map(str::to_owned)
}
