//! How clients reach Linkspan.

pub mod buildkit;
pub mod cache_api;
pub mod docker;
pub mod export_api;
pub mod registry;
