//! How clients reach Linkspan.

pub mod buildkit;
pub mod export_api;
