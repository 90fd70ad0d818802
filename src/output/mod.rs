//! What can be made of an image beside a record in an engine: streams of bytes that other programs read.
//!
//! Everything here reads from a [`Source`](crate::source::Source) and knows neither who asks nor where the bytes go.

pub mod archive;
