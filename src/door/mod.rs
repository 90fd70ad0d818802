//! How clients reach Linkspan.

pub mod buildkit;
