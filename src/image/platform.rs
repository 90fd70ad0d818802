//! Platforms, and which of several fits this machine.
//!
//! The rules are containerd's (`github.com/containerd/platforms`: `Normalize` and `Only`),
//! so that what is picked here is what the engine picks.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::json::null_as_default;

/// An OCI platform (image-spec `image-index.md`).
///
/// Documents spell platforms in many ways; compare them with [`fit`](Self::fit) or after
/// [`normalised`](Self::normalised), not as they are.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Platform {
    /// The CPU architecture in Go's words (`amd64`, `arm64`, …).
    #[serde(default, deserialize_with = "null_as_default")]
    pub architecture: String,
    /// The operating system in Go's words.
    #[serde(default, deserialize_with = "null_as_default")]
    pub os: String,
    /// The CPU variant, such as `v8`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// The operating-system version (Windows).
    #[serde(default, rename = "os.version", skip_serializing_if = "Option::is_none")]
    pub os_version: Option<String>,
    /// Required operating-system features.
    #[serde(
        default,
        rename = "os.features",
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "null_as_default"
    )]
    pub os_features: Vec<String>,
}

impl Platform {
    /// The platform of this machine, as far as it was known when this program was compiled.
    pub fn host() -> Self {
        let (architecture, variant) = match std::env::consts::ARCH {
            "x86_64" => ("amd64", None),
            "x86" => ("386", None),
            "aarch64" => ("arm64", None),
            "arm" if cfg!(target_feature = "v7") => ("arm", Some("v7")),
            "arm" => ("arm", Some("v6")),
            "powerpc64" if cfg!(target_endian = "little") => ("ppc64le", None),
            "powerpc64" => ("ppc64", None),
            "loongarch64" => ("loong64", None),
            other => (other, None),
        };
        Self {
            architecture: architecture.into(),
            os: host_os().into(),
            variant: variant.map(Into::into),
            ..Self::default()
        }
    }

    /// The same platform in the one spelling that comparisons use.
    ///
    /// Lower case; `x86_64` is `amd64`, `aarch64` is `arm64`; the variants that go without
    /// saying (`amd64/v1`, `arm64/v8`) are left out, that of `arm` is put in (`v7`); no
    /// operating system means this machine's.
    pub fn normalised(&self) -> Self {
        let os = match self.os.to_lowercase().as_str() {
            "" => host_os().to_owned(),
            "macos" => "darwin".to_owned(),
            other => other.to_owned(),
        };
        let variant = self.variant.as_deref().unwrap_or_default();
        let (architecture, variant) = normalise(&self.architecture.to_lowercase(), &variant.to_lowercase());
        let mut os_features = self.os_features.clone();
        os_features.sort_unstable();
        os_features.dedup();
        Self {
            architecture,
            os,
            variant: Some(variant).filter(|variant| !variant.is_empty()),
            os_version: self.os_version.clone(),
            os_features,
        }
    }

    /// How well an image for this platform runs on `host`: `None` not at all, else higher is better.
    ///
    /// Best is the host's own platform, then its older variants (`arm64/v8` on `arm64/v9`), then
    /// the architectures that its CPU runs too (`386` on `amd64`, `arm` on `arm64`). Of two alike the
    /// one that uses more of the host's features wins. `unknown` fits nowhere: it marks attestations.
    /// Windows versions are not compared, as no host here runs Windows.
    pub fn fit(&self, host: &Self) -> Option<u32> {
        let (image, host) = (self.normalised(), host.normalised());
        if image.is_unknown() || image.os != host.os {
            return None;
        }
        if !image.os_features.iter().all(|feature| host.os_features.contains(feature)) {
            return None;
        }
        let runs = host.runs();
        let built = (image.architecture, image.variant.unwrap_or_default());
        let at = runs.iter().position(|runs| *runs == built)?;
        // Never more than some 30 entries, nor (after the check above) more features than the host has.
        let features = image.os_features.len().min(255);
        u32::try_from(((runs.len() - at) << 8) | features).ok()
    }

    /// Whether this is what attestation manifests give for a platform.
    pub fn is_unknown(&self) -> bool {
        self.os == "unknown" || self.architecture == "unknown"
    }

    /// The normalised architectures and variants that a normalised host runs, best first.
    fn runs(&self) -> Vec<(String, String)> {
        let variant = self.variant.as_deref().unwrap_or_default();
        let architecture = self.architecture.as_str();
        let mut runs = vec![(architecture.to_owned(), variant.to_owned())];
        match architecture {
            "amd64" => {
                runs.extend(older(variant, 1).map(|older| normalise("amd64", &older)));
                runs.push(("386".to_owned(), String::new()));
            }
            "arm" => runs.extend(older(variant, 5).map(|older| normalise("arm", &older))),
            "arm64" => {
                let variant = if variant.is_empty() { "v8" } else { variant };
                let versions: Vec<_> = arm64_versions(variant).map(|version| normalise("arm64", &version)).collect();
                if !versions.is_empty() {
                    runs.extend(versions);
                    runs.extend((5..=8).rev().map(|version| normalise("arm", &format!("v{version}"))));
                }
            }
            _ => {}
        }
        runs
    }
}

fn host_os() -> &'static str {
    match std::env::consts::OS {
        "macos" => "darwin",
        other => other,
    }
}

/// The canonical architecture and variant for lower-case ones.
fn normalise(architecture: &str, variant: &str) -> (String, String) {
    let (architecture, variant) = match (architecture, variant) {
        ("i386", _) => ("386", ""),
        ("x86_64" | "x86-64" | "amd64", "v1") => ("amd64", ""),
        ("x86_64" | "x86-64", variant) => ("amd64", variant),
        ("aarch64" | "arm64", "8" | "v8" | "v8.0") => ("arm64", ""),
        ("aarch64" | "arm64", "9" | "9.0" | "v9.0") => ("arm64", "v9"),
        ("aarch64", variant) => ("arm64", variant),
        ("armhf", _) | ("arm", "" | "7") => ("arm", "v7"),
        ("armel", _) | ("arm", "6") => ("arm", "v6"),
        ("arm", "5") => ("arm", "v5"),
        ("arm", "8") => ("arm", "v8"),
        other => other,
    };
    (architecture.to_owned(), variant.to_owned())
}

/// `v3` down to `v2`, `v1` for an oldest of 1; nothing where the variant is no such number.
fn older(variant: &str, oldest: u8) -> impl Iterator<Item = String> {
    let newest = variant.strip_prefix('v').unwrap_or(variant).parse().unwrap_or(oldest);
    (oldest..newest).rev().map(|version| format!("v{version}"))
}

/// The versions that an arm64 CPU of `variant` runs, best first. Armv9.x contains Armv8.(x+5).
fn arm64_versions(variant: &str) -> impl Iterator<Item = String> {
    let number = variant.strip_prefix('v').unwrap_or_default();
    let (major, minor) = number.split_once('.').unwrap_or((number, "0"));
    let minor = minor.parse::<u8>().unwrap_or(u8::MAX);
    // containerd's table ends at v8.9 and v9.7; a variant beyond it runs only itself.
    let (nine, eight) = match major {
        "8" if minor <= 9 => (None, Some(minor)),
        "9" if minor <= 7 => (Some(minor), Some((minor + 5).min(9))),
        _ => (None, None),
    };
    let down = |major: u8, from: Option<u8>| {
        from.into_iter().flat_map(|from| (0..=from).rev()).map(move |minor| match minor {
            0 => format!("v{major}"),
            minor => format!("v{major}.{minor}"),
        })
    };
    down(9, nine).chain(down(8, eight))
}

impl fmt::Display for Platform {
    /// `linux/arm64/v8`, as `docker --platform` takes it; without version and features.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [self.os.as_str(), self.architecture.as_str(), self.variant.as_deref().unwrap_or_default()];
        let mut slash = "";
        for part in parts.into_iter().filter(|part| !part.is_empty()) {
            write!(f, "{slash}{part}")?;
            slash = "/";
        }
        Ok(())
    }
}

/// Why a text is not a platform.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a platform: {reason}; expected `os/architecture` or `os/architecture/variant`")]
pub struct PlatformError {
    /// The text, cut to 80 characters.
    pub text: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

impl FromStr for Platform {
    type Err = PlatformError;

    /// Reads `os/architecture[/variant]` and normalises it; a variant that was given stays visible
    /// (`linux/arm64/v8`). Unlike containerd's, no part may be left out and no version given in parentheses.
    fn from_str(text: &str) -> Result<Self, PlatformError> {
        let error = |reason| PlatformError { text: text.chars().take(80).collect(), reason };
        let parts: Vec<&str> = text.splitn(4, '/').collect();
        let (os, architecture, variant) = match parts[..] {
            [os, architecture] => (os, architecture, ""),
            [os, architecture, variant] => (os, architecture, variant),
            _ => return Err(error("it needs two or three parts, as in `linux/arm64`")),
        };
        for part in &parts {
            if part.is_empty() {
                return Err(error("a part is empty"));
            }
            if !part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-')) {
                return Err(error("a part holds more than letters, digits, `_`, `.` and `-`"));
            }
        }
        let given = Self {
            architecture: architecture.to_owned(),
            os: os.to_owned(),
            variant: (!variant.is_empty()).then(|| variant.to_owned()),
            ..Self::default()
        };
        let mut platform = given.normalised();
        match platform.architecture.as_str() {
            "arm64" if given.variant.is_some() => platform.variant = platform.variant.or_else(|| Some("v8".to_owned())),
            "arm" if given.variant.is_none() && platform.variant.as_deref() == Some("v7") => platform.variant = None,
            _ => {}
        }
        Ok(platform)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(text: &str) -> Platform {
        text.parse().unwrap()
    }

    #[test]
    fn normalises_as_containerd_does() {
        for (given, normalised) in [
            (("linux", "x86_64", ""), "linux/amd64"),
            (("Linux", "X86-64", "v1"), "linux/amd64"),
            (("linux", "amd64", "v3"), "linux/amd64/v3"),
            (("linux", "i386", "v9"), "linux/386"),
            (("linux", "aarch64", "v8"), "linux/arm64"),
            (("linux", "arm64", "8"), "linux/arm64"),
            (("linux", "arm64", "v8.0"), "linux/arm64"),
            (("linux", "arm64", "9.0"), "linux/arm64/v9"),
            (("linux", "arm64", "v8.2"), "linux/arm64/v8.2"),
            (("linux", "arm", ""), "linux/arm/v7"),
            (("linux", "arm", "6"), "linux/arm/v6"),
            (("linux", "armhf", ""), "linux/arm/v7"),
            (("linux", "armel", "v5"), "linux/arm/v6"),
            (("macos", "arm64", ""), "darwin/arm64"),
            (("linux", "riscv64", ""), "linux/riscv64"),
        ] {
            let (os, architecture, variant) = given;
            let platform = Platform {
                os: os.into(),
                architecture: architecture.into(),
                variant: Some(variant.into()),
                ..Platform::default()
            };
            assert_eq!(platform.normalised().to_string(), normalised, "{given:?}");
            assert_eq!(platform.normalised().normalised(), platform.normalised(), "{given:?}");
        }
    }

    #[test]
    fn ranks_what_a_host_runs() {
        // Each host with what runs on it, best first. All else does not.
        let all = [
            "linux/amd64",
            "linux/amd64/v2",
            "linux/amd64/v3",
            "linux/386",
            "linux/arm64",
            "linux/arm64/v8.2",
            "linux/arm64/v9",
            "linux/arm/v8",
            "linux/arm/v7",
            "linux/arm/v6",
            "linux/arm/v5",
            "linux/s390x",
            "windows/amd64",
            "unknown/unknown",
            "linux/unknown",
        ];
        for (host, runs) in [
            ("linux/amd64", vec!["linux/amd64", "linux/386"]),
            ("linux/amd64/v3", vec!["linux/amd64/v3", "linux/amd64/v2", "linux/amd64", "linux/386"]),
            ("linux/386", vec!["linux/386"]),
            ("linux/arm64", vec!["linux/arm64", "linux/arm/v8", "linux/arm/v7", "linux/arm/v6", "linux/arm/v5"]),
            (
                "linux/arm64/v9",
                vec![
                    "linux/arm64/v9",
                    "linux/arm64/v8.2",
                    "linux/arm64",
                    "linux/arm/v8",
                    "linux/arm/v7",
                    "linux/arm/v6",
                    "linux/arm/v5",
                ],
            ),
            ("linux/arm", vec!["linux/arm/v7", "linux/arm/v6", "linux/arm/v5"]),
            ("linux/arm/v5", vec!["linux/arm/v5"]),
            ("linux/s390x", vec!["linux/s390x"]),
            ("unknown/unknown", vec![]),
        ] {
            let host = platform(host);
            let mut fits: Vec<_> = all.iter().filter_map(|image| Some((platform(image).fit(&host)?, *image))).collect();
            fits.sort_by(|a, b| b.cmp(a));
            assert_eq!(fits.iter().map(|(_, image)| *image).collect::<Vec<_>>(), runs, "{host}");
            assert!(fits.windows(2).all(|pair| pair[0].0 > pair[1].0), "{host}: {fits:?}");
        }
    }

    #[test]
    fn prefers_more_features_and_refuses_unknown_ones() {
        let with = |features: &[&str]| Platform {
            os_features: features.iter().map(|feature| (*feature).to_owned()).collect(),
            ..platform("linux/amd64")
        };
        let host = with(&["b", "a"]);
        assert!(with(&["a"]).fit(&host) > with(&[]).fit(&host));
        assert!(with(&["a", "b"]).fit(&host) > with(&["a", "a"]).fit(&host));
        assert_eq!(with(&["c"]).fit(&host), None);
        let (exact, lesser) = (platform("linux/amd64"), platform("linux/386"));
        assert!(exact.fit(&host) > Platform { os_features: host.os_features.clone(), ..lesser }.fit(&host));
    }

    #[test]
    fn this_machine_runs_its_own_images() {
        let host = Platform::host();
        assert!(host.fit(&host).is_some());
        assert!(Platform { os: String::new(), ..host.clone() }.fit(&host).is_some());
        assert!(Platform::default().fit(&host).is_none());
    }

    #[test]
    fn reads_and_writes_the_short_form() {
        for (text, shown) in [
            ("linux/amd64", "linux/amd64"),
            ("linux/arm64/v8", "linux/arm64/v8"),
            ("linux/aarch64", "linux/arm64"),
            ("linux/arm", "linux/arm"),
            ("linux/arm/v7", "linux/arm/v7"),
            ("Linux/armhf", "linux/arm"),
        ] {
            assert_eq!(platform(text).to_string(), shown);
            assert_eq!(platform(shown), platform(text));
        }
        for text in
            ["", "linux", "/", "linux/", "/amd64", "linux/amd64/", "linux/a/b/c", "linux/*", "windows(10)/amd64"]
        {
            let error = text.parse::<Platform>().unwrap_err();
            assert!(error.to_string().contains("expected `os/architecture`"), "{error}");
        }
    }

    #[test]
    fn reads_what_go_writes() {
        let nulls = r#"{"architecture":null,"os":"linux","variant":null,"os.version":null,"os.features":null}"#;
        let platform: Platform = serde_json::from_str(nulls).unwrap();
        assert_eq!(platform, Platform { os: "linux".into(), ..Platform::default() });
        let windows = r#"{"architecture":"amd64","os":"windows","os.version":"10.0.1","os.features":["win32k"]}"#;
        let platform: Platform = serde_json::from_str(windows).unwrap();
        assert_eq!(serde_json::to_string(&platform).unwrap(), windows);
    }
}
