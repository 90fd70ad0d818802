//! Where the doors of a daemon usually are.

use super::{DEFAULT_DOCKER_LISTEN, DEFAULT_EXPORT_LISTEN, DEFAULT_LISTEN};

/// Where the doors of this user's daemon are, if no setting names other places: what `serve` opens, and what messages name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsualDoors {
    /// The docker door.
    pub docker: String,
    /// The exporter API's door.
    pub export: String,
    /// A single builder's door.
    pub buildkit: String,
    /// Whether there is a folder for them. Without one `serve` opens only doors that are named, and the addresses here are examples.
    pub has_folder: bool,
}

impl Default for UsualDoors {
    /// Those of root.
    fn default() -> Self {
        let [docker, export, buildkit] =
            [DEFAULT_DOCKER_LISTEN, DEFAULT_EXPORT_LISTEN, DEFAULT_LISTEN].map(str::to_owned);
        Self { docker, export, buildkit, has_folder: true }
    }
}
