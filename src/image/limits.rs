//! What a walk accepts at most.

use super::Kind;

/// Bounds on the graph of one image.
///
/// The defaults leave real images a wide margin and keep a hostile one from taking more
/// than `total_bytes` of memory here, or more than `visits` steps in an engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The largest index or manifest, in bytes. 4 MiB, the size that registries must accept
    /// (distribution-spec, "Pushing Manifests").
    pub document_bytes: u64,
    /// The largest image config, in bytes. Configs carry history, labels and health checks,
    /// for which no specification sets a limit.
    pub config_bytes: u64,
    /// All documents of an image together, in bytes: they are held in memory.
    pub total_bytes: u64,
    /// How many indexes and manifests may lie one within the other, the root included.
    pub depth: usize,
    /// How many blobs one document may name.
    pub children: usize,
    /// How many distinct blobs an image may have, documents included.
    pub blobs: usize,
    /// How many blobs a walk meets that remembers nothing, as containerd's
    /// `images.Walk` does: a small graph of shared documents can take it exponentially long.
    pub visits: u64,
}

impl Limits {
    /// The largest document of this kind, in bytes.
    pub fn bytes_of(&self, kind: Kind) -> u64 {
        match kind {
            Kind::Config => self.config_bytes,
            _ => self.document_bytes,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            document_bytes: 4 << 20,
            config_bytes: 16 << 20,
            total_bytes: 64 << 20,
            depth: 4,
            children: 5_000,
            blobs: 20_000,
            visits: 200_000,
        }
    }
}
