//! What becomes of each session: whether it passes as bytes, or calls of ours are taken out of it.
//!
//! The call that carries a session and the build that it is for come in any order, perhaps over different connections. The
//! session's id ties them together.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

/// How long a session waits for its build. One that has come without a build by then is split, for that serves every build
/// that may come. Neither side minds: a builder's gRPC waits 20 s for its client's first words, the client's HTTP/2 10 s for
/// the builder's, and the first health check comes after 5 s (BuildKit `session/grpc.go`).
const DECISION_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a build waits for its session: a builder does so for 5 s (`session/group.go`).
const EXPECTED: Duration = Duration::from_secs(10);

/// How many builds may wait for their sessions.
const MAX_EXPECTED: usize = 256;

/// How a session is handled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SessionMode {
    /// It is forwarded as bytes.
    Bytes,
    /// Its HTTP/2 ends here, so that our calls are handled and the others forwarded.
    Split,
}

/// One session.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) id: String,
    mode: watch::Sender<Option<SessionMode>>,
    deadline: Instant,
    /// How many calls are being handled here.
    open_calls: watch::Sender<usize>,
}

/// A call that is being handled here, until this is dropped.
#[derive(Debug)]
pub(super) struct OpenCall(Arc<Session>);

impl Drop for OpenCall {
    fn drop(&mut self) {
        self.0.open_calls.send_modify(|calls| *calls -= 1);
    }
}

/// The sessions of one builder.
#[derive(Debug, Default)]
pub(super) struct Registry(Mutex<KnownSessions>);

#[derive(Debug, Default)]
struct KnownSessions {
    sessions: HashMap<String, Weak<Session>>,
    /// Builds whose session has not come, the oldest first.
    expected: VecDeque<Expected>,
}

#[derive(Debug)]
struct Expected {
    session: String,
    mode: SessionMode,
    since: Instant,
}

impl Session {
    /// Decides how it is handled, unless that is decided, and returns the decision.
    pub(super) fn settle(&self, mode: SessionMode) -> SessionMode {
        let mut settled = mode;
        self.mode.send_if_modified(|current| {
            settled = *current.get_or_insert(mode);
            true
        });
        settled
    }

    /// Counts a call that is handled here.
    pub(super) fn open_call(self: &Arc<Self>) -> OpenCall {
        self.open_calls.send_modify(|calls| *calls += 1);
        OpenCall(self.clone())
    }

    /// Waits until no call is being handled here.
    pub(super) async fn idle(self: Arc<Self>) {
        // The sender lives as long as the session.
        let _ = self.open_calls.subscribe().wait_for(|calls| *calls == 0).await;
    }

    /// Waits for the decision; a session without one at its deadline is split.
    pub(super) async fn mode(self: Arc<Self>) -> SessionMode {
        let mut mode = self.mode.subscribe();
        let settled = timeout_at(self.deadline, mode.wait_for(Option::is_some)).await;
        let settled = settled.ok().and_then(Result::ok).and_then(|mode| *mode);
        settled.unwrap_or_else(|| self.settle(SessionMode::Split))
    }
}

impl Registry {
    /// The session called `id` comes. `mode` is what becomes of it unless a build has come that needs otherwise.
    pub(super) fn enter(&self, id: &str, mode: Option<SessionMode>) -> Arc<Session> {
        let mut known = self.known();
        let expected = known.expected.iter().filter(|expected| expected.session == id).map(|expected| expected.mode);
        // One that needs calls of ours counts more than those that do not.
        let expected = expected.reduce(|one, other| if one == SessionMode::Split { one } else { other });
        known.expected.retain(|expected| expected.session != id);
        known.sessions.retain(|_, session| session.strong_count() > 0);
        let (mode, deadline) = (watch::Sender::new(expected.or(mode)), Instant::now() + DECISION_TIMEOUT);
        let open_calls = watch::Sender::new(0);
        let session = Arc::new(Session { id: id.to_owned(), mode, deadline, open_calls });
        // A builder, too, takes the newer of two with one id.
        known.sessions.insert(id.to_owned(), Arc::downgrade(&session));
        session
    }

    /// A build of the session called `id` comes, which needs `mode`. Returns what becomes of the session.
    pub(super) fn expect(&self, id: &str, mode: SessionMode) -> SessionMode {
        let mut known = self.known();
        if let Some(session) = known.sessions.get(id).and_then(Weak::upgrade) {
            return session.settle(mode);
        }
        known.expected.retain(|expected| expected.since.elapsed() < EXPECTED);
        if known.expected.len() == MAX_EXPECTED {
            known.expected.pop_front();
        }
        known.expected.push_back(Expected { session: id.to_owned(), mode, since: Instant::now() });
        mode
    }

    /// Whether there is a session called `id`.
    #[cfg(test)]
    pub(super) fn contains(&self, id: &str) -> bool {
        self.known().sessions.get(id).is_some_and(|session| session.strong_count() > 0)
    }

    fn known(&self) -> MutexGuard<'_, KnownSessions> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_first_build_settles_it() {
        let registry = Registry::default();
        let session = registry.enter("a", None);
        let waiting = tokio::spawn(session.clone().mode());
        assert_eq!(registry.expect("a", SessionMode::Bytes), SessionMode::Bytes);
        assert_eq!(registry.expect("a", SessionMode::Split), SessionMode::Bytes, "it is too late");
        assert_eq!(waiting.await.unwrap(), SessionMode::Bytes);

        let session = registry.enter("b", None);
        assert_eq!(registry.expect("b", SessionMode::Split), SessionMode::Split);
        assert_eq!(registry.expect("b", SessionMode::Bytes), SessionMode::Split, "it serves this one, too");
        assert_eq!(session.mode().await, SessionMode::Split);
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_without_a_build_is_split_after_a_while() {
        let registry = Registry::default();
        let (session, begin) = (registry.enter("a", None), Instant::now());
        assert_eq!(session.clone().mode().await, SessionMode::Split);
        assert_eq!(begin.elapsed(), DECISION_TIMEOUT);
        assert_eq!(registry.expect("a", SessionMode::Bytes), SessionMode::Split);
    }

    #[tokio::test(start_paused = true)]
    async fn a_build_may_come_before_its_session() {
        let registry = Registry::default();
        assert_eq!(registry.expect("a", SessionMode::Bytes), SessionMode::Bytes);
        assert_eq!(registry.expect("a", SessionMode::Split), SessionMode::Split);
        assert_eq!(registry.expect("a", SessionMode::Bytes), SessionMode::Bytes, "nothing has been settled yet");
        assert_eq!(registry.enter("a", Some(SessionMode::Bytes)).mode().await, SessionMode::Split);
        // That was it.
        assert_eq!(registry.enter("a", Some(SessionMode::Bytes)).mode().await, SessionMode::Bytes);

        registry.expect("b", SessionMode::Bytes);
        tokio::time::advance(EXPECTED).await;
        registry.expect("c", SessionMode::Bytes);
        assert_eq!(registry.known().expected.len(), 1);
        assert_eq!(registry.enter("b", None).mode().await, SessionMode::Split);
    }

    #[tokio::test]
    async fn what_is_known_is_bounded() {
        let registry = Registry::default();
        for n in 0..2 * MAX_EXPECTED {
            registry.expect(&n.to_string(), SessionMode::Split);
            registry.enter(&format!("session {n}"), None);
        }
        let known = registry.known();
        assert_eq!((known.expected.len(), known.sessions.len()), (MAX_EXPECTED, 1));
    }
}
