//! How clients reach Linkspan.

pub mod buildkit;
pub mod docker;
pub mod export_api;
