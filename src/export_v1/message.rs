//! The one message of containerd's Content service that is not taken as `containerd-client` defines it.

use std::collections::HashMap;

use bytes::Bytes;
use containerd_client::services::v1::WriteAction;

/// A message of Content.Write (containerd `api/services/content/v1/content.proto`). Other than in `containerd-client`, the
/// bytes of the blob stay where the connection put them: copying them costs as much as hashing them.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct WriteContentRequest {
    /// What to do: a [`WriteAction`].
    #[prost(enumeration = "WriteAction", tag = "1")]
    pub action: i32,
    /// The name of the ingest; needed in the first message only.
    #[prost(string, tag = "2")]
    pub r#ref: String,
    /// The size of the whole blob in bytes; 0 if it is not known.
    #[prost(int64, tag = "3")]
    pub total: i64,
    /// The digest of the whole blob; empty if it is not known.
    #[prost(string, tag = "4")]
    pub expected: String,
    /// Where `data` begins.
    #[prost(int64, tag = "5")]
    pub offset: i64,
    /// The next bytes.
    #[prost(bytes = "bytes", tag = "6")]
    pub data: Bytes,
    /// What the blob is labelled with at a commit.
    #[prost(map = "string, string", tag = "7")]
    pub labels: HashMap<String, String>,
}

#[cfg(test)]
mod tests {
    use containerd_client::services::v1 as containerd;
    use prost::Message as _;

    use super::*;

    #[test]
    fn it_is_containerds_message() {
        let labels = HashMap::from([("key".to_owned(), "value".to_owned())]);
        let (action, total, offset) = (WriteAction::Commit.into(), 1 << 40, 7);
        let (name, expected) = ("a ref".to_owned(), "sha256:1".to_owned());
        let theirs = containerd::WriteContentRequest {
            action,
            r#ref: name.clone(),
            total,
            expected: expected.clone(),
            offset,
            data: b"bytes".to_vec(),
            labels: labels.clone(),
        };
        let data = Bytes::from_static(b"bytes");
        let ours = WriteContentRequest { action, r#ref: name, total, expected, offset, data, labels };
        assert_eq!(WriteContentRequest::decode(theirs.encode_to_vec().as_slice()).unwrap(), ours);
        assert_eq!(ours.encode_to_vec(), theirs.encode_to_vec());
    }
}
