//! Messages that carry blobs from a content store.

use containerd_client::services::v1::{ReadContentRequest, ReadContentResponse};
use prost::Message as _;

use super::proxy::{Direction, Message, Verdict};

const READ: &str = "/containerd.services.content.v1.Content/Read";

/// The digest that `message` requests, if it is a request to read a blob.
pub(crate) fn read_digest(message: &Message<'_>) -> Option<String> {
    let is_request = message.path == READ && message.direction == Direction::Request;
    is_request.then(|| ReadContentRequest::decode(message.bytes.clone()).unwrap().digest)
}

/// Whether `message` carries the first bytes of a big layer.
pub(crate) fn is_first_of_layer(message: &Message<'_>) -> bool {
    is_read(message, 0) && message.bytes.len() > 100_000
}

/// Whether it carries the next ones. Only big layers need more than one message.
pub(crate) fn is_second_of_layer(message: &Message<'_>) -> bool {
    is_read(message, 1)
}

/// Whether it carries a document with `words` in it.
pub(crate) fn is_document(message: &Message<'_>, words: &str) -> bool {
    let data = if is_read(message, 0) { data(message) } else { Vec::new() };
    data.starts_with(b"{") && String::from_utf8(data).unwrap().contains(words)
}

fn is_read(message: &Message<'_>, index: usize) -> bool {
    message.path == READ && message.direction == Direction::Response && message.index == index
}

fn data(message: &Message<'_>) -> Vec<u8> {
    ReadContentResponse::decode(message.bytes.clone()).unwrap().data
}

/// The same message, of which one byte differs.
pub(crate) fn flipped(message: &Message<'_>) -> Verdict {
    let mut read = ReadContentResponse::decode(message.bytes.clone()).unwrap();
    let middle = read.data.len() / 2;
    read.data[middle] ^= 1;
    Verdict::Instead(vec![read.encode_to_vec().into()])
}

/// The same message twice.
pub(crate) fn doubled(message: &Message<'_>) -> Verdict {
    Verdict::Instead(vec![message.bytes.clone(), message.bytes.clone()])
}

/// A rule that holds the first message of which `is_target` is true, and lets all others pass.
pub(crate) fn hold_first(
    is_target: impl Fn(&Message<'_>) -> bool + Send + 'static,
) -> impl FnMut(&Message<'_>) -> Verdict + Send + 'static {
    let mut met = false;
    move |message| {
        let meets = !met && is_target(message);
        met |= meets;
        if meets { Verdict::Hold } else { Verdict::Pass }
    }
}
