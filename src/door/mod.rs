//! How clients reach Linkspan: the APIs as services, for [`api_server`](crate::api_server) or a server of one's own.

#[doc(hidden)]
pub mod buildkit;
pub mod cache_api;
#[doc(hidden)]
pub mod docker;
pub mod export_api;
#[doc(hidden)]
pub mod registry;
