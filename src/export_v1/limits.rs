//! The numbers of this server: `proto/README.md`, "Limits".

use std::time::Duration;

/// Bytes of a message, either way: containerd's own limit (`defaults.DefaultMaxRecvMsgSize`).
pub(crate) const MESSAGE_BYTES: usize = 16 << 20;
/// Bytes of a call's metadata.
pub(crate) const METADATA_BYTES: u32 = 64 << 10;
/// Exports that have not ended.
pub(crate) const OPEN_EXPORTS: usize = 256;
/// Exports that have ended and are remembered. The oldest are forgotten first.
pub(crate) const ENDED_EXPORTS: usize = 1024;
pub(crate) const EXPORTERS: usize = 16;
pub(crate) const NEGOTIATE_DESCRIPTORS: usize = 10_000;
pub(crate) const BLOBS: usize = 100_000;
pub(crate) const WRITES: usize = 64;
/// Refs of one export that were begun and are not committed. An engine keeps each of them, with what was written.
pub(crate) const REFS: usize = 1024;
pub(crate) const NAMES: usize = 64;
/// Bytes of what survives of an export. An engine keeps it as labels.
pub(crate) const RECORD_BYTES: usize = 32 << 10;
pub(crate) const KEY_BYTES: usize = 128;
pub(crate) const DEFAULT_TTL: Duration = Duration::from_secs(3600);
/// Less than the life of an engine's lease, so that no export outlives what it is made of.
pub(crate) const MAX_LIFETIME: Duration = Duration::from_secs(7 * 3600);
pub(crate) const RESULT_RETENTION: Duration = Duration::from_secs(600);
pub(crate) const IDLE: Duration = Duration::from_secs(600);
/// Labels of one blob: how many, and the longest together with its key (containerd `pkg/labels/validate.go`).
pub(crate) const LABELS: usize = 64;
pub(crate) const LABEL_BYTES: usize = 4096;
/// Exports on a page of List.
pub(crate) const PAGE: usize = 100;
