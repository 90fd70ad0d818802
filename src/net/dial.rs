//! Opens streams to an upstream: the interface between HTTP/2 and the streams that it runs on.

use std::fmt::Debug;

use async_trait::async_trait;
use rustix::process::Pid;

use super::stream_failure::StreamFailure;
use super::upstream::{Stream, Upstream};

/// Why an upstream cannot be reached; names the upstream.
pub type DialError = Box<dyn std::error::Error + Send + Sync>;

/// Opens streams to one upstream: a socket ([`Upstream`]), or a process in a container.
#[async_trait]
pub trait Dial: Debug + Send + Sync {
    /// The upstream's name for messages, such as `unix:///run/buildkit/buildkitd.sock`.
    fn name(&self) -> String;

    /// Opens a stream. Bounded in time by the implementation.
    ///
    /// # Errors
    /// The error names the upstream and the reason.
    async fn dial(&self) -> Result<Box<dyn Stream>, DialError>;

    /// Opens a stream together with why it ends, where the upstream is reached by a program that says so: a protocol on the
    /// stream may lose the stream's own error.
    ///
    /// # Errors
    /// As [`Dial::dial`].
    async fn dial_with_failure(&self) -> Result<(Box<dyn Stream>, StreamFailure), DialError> {
        Ok((self.dial().await?, StreamFailure::default()))
    }

    /// The upstream's process; `None` if it does not run on this host, or if that cannot be proven.
    async fn process(&self) -> Option<Pid>;
}

#[async_trait]
impl Dial for Upstream {
    fn name(&self) -> String {
        self.address().to_string()
    }

    async fn dial(&self) -> Result<Box<dyn Stream>, DialError> {
        Ok(self.connect().await?)
    }

    async fn process(&self) -> Option<Pid> {
        Upstream::process(self).await
    }
}
