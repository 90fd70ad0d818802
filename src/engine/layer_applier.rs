//! The setting of who unpacks layers.

/// Who unpacks layers into containerd's snapshots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ApplierChoice {
    /// This process where it can do it as containerd would, else containerd.
    #[default]
    Auto,
    /// containerd.
    Containerd,
}
