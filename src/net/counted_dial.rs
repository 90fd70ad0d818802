//! A way to an upstream whose connections are counted.

use async_trait::async_trait;
use rustix::process::Pid;

use super::counted::ConnectionCount;
use super::dial::{Dial, DialError};
use super::stream_failure::StreamFailure;
use super::upstream::Stream;

/// A way to an upstream whose connections are counted.
#[derive(Debug)]
pub struct CountedDial {
    dial: Box<dyn Dial>,
    count: &'static ConnectionCount,
}

impl CountedDial {
    /// Counts what `dial` opens in `count`.
    pub fn new(dial: Box<dyn Dial>, count: &'static ConnectionCount) -> Self {
        Self { dial, count }
    }
}

#[async_trait]
impl Dial for CountedDial {
    fn name(&self) -> String {
        self.dial.name()
    }

    async fn dial(&self) -> Result<Box<dyn Stream>, DialError> {
        Ok(Box::new(self.count.count(self.dial.dial().await?)))
    }

    async fn dial_with_failure(&self) -> Result<(Box<dyn Stream>, StreamFailure), DialError> {
        let (stream, failure) = self.dial.dial_with_failure().await?;
        Ok((Box::new(self.count.count(stream)), failure))
    }

    async fn process(&self) -> Option<Pid> {
        self.dial.process().await
    }
}
