//! Users with passwords: the password file of listeners, and who a request's credentials name.
//!
//! bcrypt is slow on purpose. So few passwords are checked at once, and what was right is remembered for a short time by a keyed
//! hash; the file's own changes end that at once. A user that does not exist takes as long as one that does.

mod htpasswd;
mod queue;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::HeaderValue;
use sha2::{Digest as _, Sha256};
use tokio::sync::Semaphore;

use crate::net::Principal;
use crate::reload::Reloaded;
use htpasswd::Users;
use queue::{Queue, Refused};

/// How many passwords are checked at once: each takes one core for about a tenth of a second.
const CHECKS: usize = 2;
/// How long a password that was right is remembered.
const REMEMBERED: Duration = Duration::from_secs(60);
/// How many are remembered.
const MAX_REMEMBERED: usize = 1024;
/// The longest password, in bytes: bcrypt reads no more, so that longer ones would be right whatever follows.
const MAX_PASSWORD: usize = 72;
/// What a client is told whose password is longer.
pub(crate) const TOO_LONG: &str = "the password has more than 72 bytes, and bcrypt reads no more; choose a shorter one";
/// The longest credentials, encoded.
const MAX_CREDENTIALS: usize = 4096;

/// Why a password file cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the password file {path}: {reason}", path = path.display())]
pub struct PasswordFileError {
    path: PathBuf,
    reason: String,
}

/// Why a request has no user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unauthenticated {
    /// It names none.
    NoCredentials,
    /// There is no such user, or the password is another.
    Wrong,
    /// The password is longer than what is checked of it.
    TooLong,
    /// Too many passwords are being checked.
    Busy,
}

/// The users of a password file.
#[derive(Debug)]
pub struct Passwords {
    file: Reloaded<Known>,
    checks: Semaphore,
    queue: Queue,
    refused: Refused,
    /// The key of the hashes that are remembered; of this process only.
    key: [u8; 32],
}

/// The users, and which of their passwords were right a short time ago.
#[derive(Debug)]
struct Known {
    users: Users,
    remembered: Mutex<HashMap<[u8; 32], Instant>>,
}

impl Passwords {
    /// Reads the file at `path`, and again when it changes.
    ///
    /// # Errors
    /// When it cannot be read, or has anything but bcrypt hashes.
    pub fn open(path: &Path) -> Result<Self, PasswordFileError> {
        let read = path.to_owned();
        let load = move || match htpasswd::read(&read) {
            Ok(users) => Ok(Known { users, remembered: Mutex::default() }),
            Err(reason) => Err(PasswordFileError { path: read.clone(), reason }),
        };
        let mut key = [0; 32];
        rustix::rand::getrandom(&mut key, rustix::rand::GetRandomFlags::empty()).map_err(|error| {
            PasswordFileError { path: path.to_owned(), reason: format!("no random numbers: {error}") }
        })?;
        let file = Reloaded::open("the password file", vec![path.to_owned()], load)?;
        let (checks, queue) = (Semaphore::new(CHECKS), Queue::default());
        Ok(Self { file, checks, queue, refused: Refused::default(), key })
    }

    /// The user that the `Authorization` of a request from `peer` names (RFC 7617).
    pub(crate) async fn authenticate(
        &self,
        peer: &Principal,
        authorization: Option<&HeaderValue>,
    ) -> Result<Principal, Unauthenticated> {
        let (user, password) = credentials(authorization.ok_or(Unauthenticated::NoCredentials)?)?;
        if password.len() > MAX_PASSWORD {
            self.refused.log();
            return Err(Unauthenticated::TooLong);
        }
        let known = self.file.current();
        let (hash, exists) = known.users.hash_of(&user, |text| self.hashed(&[text]));
        let shown = self.hashed(&[user.as_bytes(), &password, hash.as_bytes()]);
        if exists && known.remembers(&shown) {
            return Ok(Principal::User { name: user });
        }
        let _place = self.queue.enter(peer).ok_or(Unauthenticated::Busy)?;
        let _check = self.checks.acquire().await.map_err(|_| Unauthenticated::Busy)?;
        // Another request of the same client may have been quicker.
        if exists && known.remembers(&shown) {
            return Ok(Principal::User { name: user });
        }
        let hash = hash.to_owned();
        let checked = tokio::task::spawn_blocking(move || bcrypt::verify(password, &hash).unwrap_or(false)).await;
        if exists && checked.unwrap_or(false) {
            known.remember(shown);
            return Ok(Principal::User { name: user });
        }
        self.refused.log();
        Err(Unauthenticated::Wrong)
    }

    /// A keyed hash of several texts.
    fn hashed(&self, parts: &[&[u8]]) -> [u8; 32] {
        let mut inner = Sha256::new_with_prefix(self.key);
        for part in parts {
            inner.update((part.len() as u64).to_le_bytes());
            inner.update(part);
        }
        // Twice, so that nobody can lengthen the text of a hash.
        Sha256::new_with_prefix(self.key).chain_update(inner.finalize()).finalize().into()
    }
}

impl Known {
    fn remembers(&self, shown: &[u8; 32]) -> bool {
        let remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        remembered.get(shown).is_some_and(|since| since.elapsed() < REMEMBERED)
    }

    fn remember(&self, shown: [u8; 32]) {
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        if remembered.len() >= MAX_REMEMBERED {
            remembered.retain(|_, since| since.elapsed() < REMEMBERED);
        }
        if remembered.len() < MAX_REMEMBERED {
            remembered.insert(shown, Instant::now());
        }
    }
}

/// The name and the password of `Basic` credentials.
fn credentials(header: &HeaderValue) -> Result<(String, Vec<u8>), Unauthenticated> {
    let text = header.to_str().ok().filter(|text| text.len() <= MAX_CREDENTIALS).ok_or(Unauthenticated::Wrong)?;
    let (scheme, encoded) = text.split_once(' ').ok_or(Unauthenticated::Wrong)?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return Err(Unauthenticated::Wrong);
    }
    let decoded = BASE64_STANDARD.decode(encoded.trim()).map_err(|_| Unauthenticated::Wrong)?;
    let colon = decoded.iter().position(|&byte| byte == b':').ok_or(Unauthenticated::Wrong)?;
    let user = String::from_utf8(decoded[..colon].to_vec()).map_err(|_| Unauthenticated::Wrong)?;
    Ok((user, decoded[colon + 1..].to_vec()))
}

/// Users that are shared by doors.
pub type SharedPasswords = Option<Arc<Passwords>>;

/// The client of a request that came from `peer`. One with a certificate may name a user, and one without a name must where
/// there are users; programs of this machine that open a socket file are known by that.
pub(crate) async fn client_of(
    passwords: &SharedPasswords,
    peer: &Principal,
    authorization: Option<&HeaderValue>,
) -> Result<Principal, Unauthenticated> {
    match (passwords, peer) {
        (None, _) | (_, Principal::Unix { .. } | Principal::Internal) => Ok(peer.clone()),
        (Some(_), Principal::Certificate { .. }) if authorization.is_none() => Ok(peer.clone()),
        (Some(passwords), _) => passwords.authenticate(peer, authorization).await,
    }
}

#[cfg(test)]
mod tests;
