//! What clients may have open, and for how long.

use std::time::Duration;

/// How many repositories are being pushed to at once, over all clients.
pub(super) const PUSHES: usize = 1024;
/// How many of them one client pushes to.
pub(super) const PUSHES_OF_CLIENT: usize = 256;
/// How many uploads one client has open at once.
pub(super) const UPLOADS_OF_CLIENT: usize = 256;
/// How many uploads are open at once.
pub(super) const UPLOADS: usize = 2048;
/// How many seconds a client that has too much open is to wait.
pub(super) const RETRY_AFTER: &str = "10";
/// How long a push stays after its last request that keeps nothing.
pub(super) const EMPTY_IDLE: Duration = Duration::from_secs(600);
/// The same for one whose client has only asked what is there.
pub(super) const FOUND_IDLE: Duration = Duration::from_secs(3600);
/// The same for one with content: an index may come hours after its manifests.
pub(super) const IDLE: Duration = Duration::from_secs(3 * 3600);
/// After how long without a request a push with content may end early, when there are too many.
pub(super) const SENT_IDLE: Duration = Duration::from_secs(600);
/// The same for an upload to which nothing was sent: clients send at once.
pub(super) const UNSENT_IDLE: Duration = Duration::from_secs(20);
/// How long a push stays at most. Less than the life of an engine's lease.
pub(super) const LIFETIME: Duration = Duration::from_secs(7 * 3600);
/// How long an upload stays without a request.
pub(super) const UPLOAD_IDLE: Duration = Duration::from_secs(3600);
/// How long the store's stream of an upload stays open between requests. To open it again the store reads all that it has.
pub(super) const STREAM_IDLE: Duration = Duration::from_secs(30);
/// How long a request waits for another one on the same upload.
pub(super) const TURN: Duration = Duration::from_secs(10);
/// How long a body may be silent.
pub(super) const SILENCE: Duration = Duration::from_secs(60);
/// The largest blob, in bytes: more than any store here has room for, and few enough to be counted by all.
pub(super) const BLOB_BYTES: u64 = 1 << 42;
/// How often it is looked what is overdue.
pub(super) const SWEEP: Duration = Duration::from_secs(5);
/// How much of a refused request's body is read, and for how long, so that its client reads the refusal.
pub(super) const REFUSED_BODY: (u64, Duration) = (1 << 30, Duration::from_secs(5));
