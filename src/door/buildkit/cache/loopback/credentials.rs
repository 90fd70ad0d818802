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
use super::super::super::session::{CallHandler, Handled};
use super::super::super::wire::{fields, put_bytes};
use super::{LOOPBACK, Listener, Loopback, lock};
use crate::image::Digest;

/// The call by which a builder requests a registry's password (BuildKit `session/auth/auth.proto`).
pub(in super::super) const CREDENTIALS: &str = "/moby.filesync.v1.Auth/Credentials";
/// `CredentialsRequest.Host`.
const HOST: u32 = 1;
/// `CredentialsResponse.Username` and `.Secret`.
const USERNAME: u32 = 1;
const SECRET: u32 = 2;

const USER: &str = "linkspan";

/// A random password, one per listener.
pub(super) struct Password {
    text: String,
    /// The digest of the header that has it: digests are compared, so timing reveals nothing about it.
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
    /// Responds to a request for the password in the session called `session`, if it is for this registry; `None` if the session
    /// has no build that imports from it.
    pub(in super::super) fn credentials(&self, session: &str) -> Option<CallHandler> {
        let listener = self.listener.clone();
        let is_of_import = lock(&self.offers).iter().any(|offer| offer.session == session);
        is_of_import.then(|| Box::new(move |call| respond(listener, call).boxed()) as _)
    }
}

async fn respond(listener: Arc<AsyncMutex<Option<Listener>>>, call: Request<Incoming>) -> Handled {
    let (parts, body) = call.into_parts();
    let call = match Unary::read(body).await {
        Ok(call) => call,
        Err(error) => return Handled::Response(error_response(&Status::unavailable(format!("linkspan: {error}")))),
    };
    let host = call.message().and_then(|message| host(&message));
    match &*listener.lock().await {
        Some(open) if host == Some(format!("{LOOPBACK}:{}", open.port)) => {
            let mut message = Vec::new();
            put_bytes(&mut message, USERNAME, USER.as_bytes());
            put_bytes(&mut message, SECRET, open.password.text.as_bytes());
            Handled::Response(grpc_response(frame(&message)))
        }
        _ => Handled::Forward(Request::from_parts(parts, call.into_body())),
    }
}

fn host(message: &[u8]) -> Option<String> {
    let host = fields(message).filter_map(Result::ok).find(|field| field.number == HOST)?;
    host.text().ok().map(str::to_owned)
}
