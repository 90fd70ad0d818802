//! Opening a stream to an upstream: the seam between HTTP/2 and the streams that it runs on.

use std::fmt::Debug;

use async_trait::async_trait;

use super::upstream::{Stream, Upstream};

/// Why an upstream cannot be connected to; names it.
pub type DialError = Box<dyn std::error::Error + Send + Sync>;

/// Opens streams to one upstream: a socket ([`Upstream`]), or a process in a container.
#[async_trait]
pub trait Dial: Debug + Send + Sync {
    /// What it is, for messages: `unix:///run/buildkit/buildkitd.sock`.
    fn name(&self) -> String;

    /// Opens a stream. Bounded in time by the implementation.
    ///
    /// # Errors
    /// Names the place and what kept it from being reached.
    async fn dial(&self) -> Result<Box<dyn Stream>, DialError>;
}

#[async_trait]
impl Dial for Upstream {
    fn name(&self) -> String {
        self.address().to_string()
    }

    async fn dial(&self) -> Result<Box<dyn Stream>, DialError> {
        Ok(self.connect().await?)
    }
}
