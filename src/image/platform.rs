//! Platforms, and which of several fits this machine.

use serde::{Deserialize, Serialize};

/// An OCI platform (image-spec `image-index.md`).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Platform {
    /// The CPU architecture in Go's words (`amd64`, `arm64`, …).
    pub architecture: String,
    /// The operating system in Go's words.
    pub os: String,
    /// The CPU variant, such as `v8`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// The operating-system version (Windows).
    #[serde(default, rename = "os.version", skip_serializing_if = "Option::is_none")]
    pub os_version: Option<String>,
    /// Required operating-system features (Windows).
    #[serde(default, rename = "os.features", skip_serializing_if = "Vec::is_empty")]
    pub os_features: Vec<String>,
}

impl Platform {
    /// The platform of this machine.
    pub fn host() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            "x86" => "386",
            other => other,
        };
        Self { architecture: architecture.into(), os: std::env::consts::OS.into(), ..Self::default() }
    }

    /// How well this platform runs on `host`: `None` not at all, else higher is better.
    pub fn fit(&self, host: &Self) -> Option<u32> {
        (self.os == host.os && self.architecture == host.architecture).then_some(1)
    }
}
