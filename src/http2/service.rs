//! What serves the clients of one builder.

use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;

use super::pool::PooledConnection;
use crate::net::{Connection, Drain, Stream};

/// Serves the clients of one builder, for whoever has a connection to it. It is the same for all of them, because calls of
/// one build come over several connections.
#[async_trait]
pub trait BuilderService: Debug + Send + Sync {
    /// Serves `client` over `upstream` until either ends.
    async fn serve(self: Arc<Self>, upstream: PooledConnection, client: Connection<Box<dyn Stream>>, drain: Drain);
}
