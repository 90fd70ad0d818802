//! The locations of images that `linkspan copy` takes, spelled as skopeo does.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::cli::client_tls::ClientTls;
use crate::cli::engine::Target;
use crate::config::Config;
use crate::engine::remote::{DaemonAddress, DaemonAddressError};
use crate::engine::select::Selection;
use crate::engine::{BucketAddress, BucketAddressError, ClusterAddress, ClusterAddressError, EngineKind};
use crate::image::{Reference, ReferenceError};
use crate::net::Address;
use crate::output::archive::ArchiveFormat;

/// Where an image is read from or copied to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ImageLocation {
    Docker(Option<String>),
    Containerd(String, Option<String>),
    Layout(PathBuf, Option<String>),
    Object(BucketAddress, Option<String>),
    Cluster(ClusterAddress, Option<String>),
    Archive(ArchiveFormat, PathBuf, Option<String>),
    Registry(Reference),
    Daemon(DaemonAddress, Option<String>),
    Configured(String),
}

/// What a layout's folder has (image-spec `image-layout.md`).
const LAYOUT: &str = "oci-layout";
/// The transports whose names are long enough to be told from those of images.
const TRANSPORTS: [&str; 4] = ["docker-daemon", "containerd", "oci-archive", "docker-archive"];
/// How many letters may be wrong, missing, added or swapped in a misspelled transport.
const MAX_TYPOS: usize = 2;

impl FromStr for ImageLocation {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let name = |name: &str| Some(name.to_owned()).filter(|name| !name.is_empty());
        let (kind, rest) = text.split_once(':').unwrap_or((text, ""));
        let is_path = text.starts_with(['/', '.']);
        if kind == text && !is_path {
            return match text {
                "docker-daemon" | "containerd" | "oci" | "oci-archive" | "docker-archive" => {
                    Err(format!("a location of this kind begins with `{text}:`; the image is `{text}:latest`"))
                }
                _ => Ok(Self::Configured(text.to_owned())),
            };
        }
        match kind {
            "docker-daemon" => Ok(Self::Docker(name(rest))),
            "containerd" => match rest.split_once('/') {
                _ if rest.is_empty() || rest.starts_with('/') => {
                    Err("expected a namespace, as in `containerd:k8s.io/NAME`".to_owned())
                }
                _ if rest.split('/').next().is_some_and(|namespace| namespace.contains(':')) => Err(format!(
                    "expected `containerd:NAMESPACE/NAME`, as in `containerd:default/{rest}`: a namespace has no `:`"
                )),
                Some((namespace, rest)) => Ok(Self::Containerd(namespace.to_owned(), name(rest))),
                None => Ok(Self::Containerd(rest.to_owned(), None)),
            },
            "oci" => match rest.split_once(':') {
                _ if rest.is_empty() || rest.starts_with(':') => {
                    Err("expected a folder, as in `oci:DIR:NAME`".to_owned())
                }
                Some((folder, rest)) => Ok(Self::Layout(folder.into(), name(rest))),
                None => Ok(Self::Layout(rest.into(), None)),
            },
            "oci-archive" | "docker-archive" if rest.is_empty() || rest.starts_with(':') => {
                Err(format!("expected a file, as in `{kind}:image.tar`"))
            }
            "oci-archive" | "docker-archive" => {
                let (file, rest) = rest.split_once(':').unwrap_or((rest, ""));
                let kind = if kind == "oci-archive" { ArchiveFormat::Oci } else { ArchiveFormat::Save };
                Ok(Self::Archive(kind, file.into(), name(rest)))
            }
            "s3" | "gs" | "az" if rest.starts_with("//") => {
                // Neither a bucket nor a prefix has a colon.
                let (address, rest) = rest.split_once(':').unwrap_or((rest, ""));
                let address = format!("{kind}:{address}").parse();
                Ok(Self::Object(address.map_err(|error: BucketAddressError| error.to_string())?, name(rest)))
            }
            "kind" | "k3d" if rest.starts_with("//") => {
                // Neither a cluster nor a node has a colon.
                let (address, rest) = rest.split_once(':').unwrap_or((rest, ""));
                let address = format!("{kind}:{address}").parse();
                Ok(Self::Cluster(address.map_err(|error: ClusterAddressError| error.to_string())?, name(rest)))
            }
            "docker" if rest.starts_with("//") => {
                let name = rest[2..].parse().map_err(|error: ReferenceError| error.to_string())?;
                Ok(Self::Registry(name))
            }
            "unix" | "tcp" | "ssh" if rest.starts_with("//") => {
                // A path ends at the first colon, an authority at the first slash.
                let slash = rest[2..].find('/').map(|at| at + 2);
                let at = match kind {
                    "unix" => rest.find(':'),
                    "ssh" => slash.and_then(|slash| Some(slash + rest[slash..].find(':')?)),
                    _ => slash,
                };
                let (address, rest) = at.map_or((rest, ""), |at| (&rest[..at], &rest[at + 1..]));
                let form = match kind {
                    "unix" => "unix:///PATH:NAME",
                    "tcp" => "tcp://HOST:PORT/NAME",
                    _ => "ssh://HOST/:NAME",
                };
                let form = |error: DaemonAddressError| format!("{error}; an image behind it is named as in `{form}`");
                Ok(Self::Daemon(format!("{kind}:{address}").parse().map_err(form)?, name(rest)))
            }
            // A path: names of images do not begin so.
            _ if text.starts_with(['/', '.']) => {
                let (address, rest) = text.split_once(':').unwrap_or((text, ""));
                Ok(Self::Daemon(address.parse().map_err(|error: DaemonAddressError| error.to_string())?, name(rest)))
            }
            // `docker:dind` is an image.
            "docker" => Ok(Self::Configured(text.to_owned())),
            "dir" | "containers-storage" | "ostree" => {
                Err(format!("`{kind}:` is no transport here; skopeo copies from it into `oci:DIR:NAME`"))
            }
            "oci-layout" => Err("`oci-layout:` is no transport; a layout in a folder is `oci:DIR:NAME`".to_owned()),
            "tarball" => {
                Err("`tarball:` is no transport; an archive is `oci-archive:FILE` or `docker-archive:FILE`".to_owned())
            }
            // A misspelled transport also parses as an image's name, and the copy would go to the wrong place.
            _ => match TRANSPORTS.iter().find(|transport| strsim::osa_distance(kind, transport) <= MAX_TYPOS) {
                Some(transport) => {
                    let image = text.parse::<Reference>();
                    let image = image.map_or_else(|_| String::new(), |name| format!(" The image is `{name}`."));
                    Err(format!("`{kind}:` is no transport; is `{transport}:` meant?{image}"))
                }
                None => Ok(Self::Configured(text.to_owned())),
            },
        }
    }
}

/// What the names of archives end with, which names of images hardly do.
const ARCHIVES: [&str; 4] = [".tar", ".tar.gz", ".tgz", ".tar.zst"];

impl ImageLocation {
    /// The location that is meant, where this one is taken for an image's name, or for a socket, and a file or a layout's folder is
    /// called so; and the path.
    pub(super) fn meant(&self) -> Option<(String, &Path)> {
        let path = match self {
            Self::Configured(name) => Path::new(name),
            Self::Daemon(DaemonAddress::Socket(Address::Unix(path)), None) => path,
            _ => return None,
        };
        let is_file = path.is_file();
        let is_archive = |text: &str| !path.exists() && ARCHIVES.iter().any(|end| text.ends_with(end));
        if is_file || path.to_str().is_some_and(is_archive) {
            return Some((format!("docker-archive:{}", path.display()), path));
        }
        path.join(LAYOUT).is_file().then(|| (format!("oci:{}", path.display()), path))
    }

    /// How an image at this place is named.
    pub(super) fn example(&self) -> String {
        match self {
            Self::Docker(_) => "docker-daemon:NAME".to_owned(),
            Self::Containerd(namespace, _) => format!("containerd:{namespace}/NAME"),
            Self::Layout(folder, _) => format!("oci:{}:NAME", folder.display()),
            Self::Object(bucket, _) => format!("{bucket}:NAME"),
            Self::Cluster(cluster, _) => format!("{cluster}:NAME"),
            Self::Archive(_, file, _) => format!("docker-archive:{}:NAME", file.display()),
            Self::Daemon(DaemonAddress::Ssh(address), _) if address.socket().is_none() => {
                format!("{}/:NAME", address.to_string().trim_end_matches('/'))
            }
            Self::Daemon(address @ DaemonAddress::Socket(Address::Tcp { .. }), _) => format!("{address}/NAME"),
            Self::Daemon(address, _) => format!("{address}:NAME"),
            Self::Configured(_) | Self::Registry(_) => "NAME".to_owned(),
        }
    }

    /// The engine, and the image in it; `None` for an archive or a registry. Where only an image is named, the engine is
    /// `target`.
    pub(super) fn engine<'a>(&'a self, config: &Config, target: &Target) -> Option<(Target, Option<&'a str>)> {
        let selection = config.engine.clone();
        let (selection, name) = match self {
            Self::Docker(name) => {
                // With either image store, and through its API alone where that is configured.
                let kind = selection.kind.filter(|kind| *kind == EngineKind::DockerApi);
                let docker_host = Some(selection.docker_address());
                (
                    Selection {
                        kind,
                        docker_host,
                        namespace: None,
                        layout: None,
                        object: None,
                        cluster: None,
                        ..selection
                    },
                    name.as_deref(),
                )
            }
            Self::Containerd(namespace, name) => {
                let namespace = Some(namespace.clone());
                (
                    Selection {
                        kind: Some(EngineKind::Containerd),
                        namespace,
                        layout: None,
                        object: None,
                        cluster: None,
                        ..selection
                    },
                    name.as_deref(),
                )
            }
            Self::Cluster(cluster, name) => {
                let (kind, cluster) = (Some(EngineKind::Cluster), Some(cluster.clone()));
                (Selection { kind, cluster, namespace: None, layout: None, object: None, ..selection }, name.as_deref())
            }
            Self::Layout(folder, name) => {
                let selection =
                    Selection { kind: Some(EngineKind::Layout), layout: Some(folder.clone()), ..Selection::default() };
                (selection, name.as_deref())
            }
            Self::Object(bucket, name) => {
                let selection =
                    Selection { kind: Some(EngineKind::Object), object: Some(bucket.clone()), ..Selection::default() };
                (selection, name.as_deref())
            }
            Self::Configured(name) => return Some((target.clone(), Some(name.as_str()))),
            Self::Daemon(address, name) => {
                let daemon = ClientTls::default().of(address.clone());
                return Some((Target::Daemon(daemon), name.as_deref()));
            }
            Self::Archive(..) | Self::Registry(_) => return None,
        };
        Some((Target::Engine(Box::new(selection)), name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Layer;
    use crate::engine::select::DockerAddress;

    #[test]
    fn a_docker_behind_tls_is_asked_with_tls_for_the_nodes_of_a_cluster_and_for_an_image() {
        let address = DockerAddress::parse("tcp://docker.example:2376", Some(crate::net::Tls::default())).unwrap();
        let engine = Selection { docker_host: Some(address.clone()), ..Selection::default() };
        let target = Target::Engine(Box::new(engine.clone()));
        let mut config = Config::load(Layer::default(), &|_: &str| None).unwrap();
        config.engine = engine;
        for text in ["docker-daemon:demo:1", "kind://dev", "demo:1"] {
            let location: ImageLocation = text.parse().unwrap();
            let Some((Target::Engine(chosen), _)) = location.engine(&config, &target) else { panic!("{text}") };
            assert_eq!(chosen.docker_host, Some(address.clone()));
        }
    }

    #[test]
    fn a_file_and_a_layout_are_no_images_names() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name).display().to_string();
        std::fs::write(at("saved"), "").unwrap();
        std::fs::create_dir_all(at("layout")).unwrap();
        std::fs::write(at("layout/oci-layout"), "{}").unwrap();
        std::fs::create_dir_all(at("app")).unwrap();
        let meant = |text: &str| text.parse::<ImageLocation>().unwrap().meant().map(|(meant, _)| meant);
        assert_eq!(meant(&at("saved")), Some(format!("docker-archive:{}", at("saved"))));
        assert_eq!(meant(&at("layout")), Some(format!("oci:{}", at("layout"))));
        assert_eq!(meant(&at("new.tar.gz")), Some(format!("docker-archive:{}", at("new.tar.gz"))));
        assert_eq!(meant("out.tar").as_deref(), Some("docker-archive:out.tar"));
        // A folder that is called like an image is usually that of its Dockerfile.
        for text in [&*at("app"), &at("absent.sock"), "demo", "out.tar:latest", "src"] {
            assert_eq!(meant(text), None, "{text}");
        }
    }

    #[test]
    fn locations_are_spelled_as_skopeo_does() {
        let some = |text: &str| Some(text.to_owned());
        for (text, expected) in [
            ("docker-daemon:demo:1", ImageLocation::Docker(some("demo:1"))),
            ("docker-daemon:", ImageLocation::Docker(None)),
            (
                "containerd:k8s.io/example.com/a:1",
                ImageLocation::Containerd("k8s.io".to_owned(), some("example.com/a:1")),
            ),
            ("containerd:k8s.io", ImageLocation::Containerd("k8s.io".to_owned(), None)),
            ("oci:./dir:demo:1", ImageLocation::Layout("./dir".into(), some("demo:1"))),
            ("oci:/dir", ImageLocation::Layout("/dir".into(), None)),
            ("docker-archive:a.tar", ImageLocation::Archive(ArchiveFormat::Save, "a.tar".into(), None)),
            ("oci-archive:/b.tar:demo:1", ImageLocation::Archive(ArchiveFormat::Oci, "/b.tar".into(), some("demo:1"))),
            ("s3://b/p:demo:1", ImageLocation::Object("s3://b/p".parse().unwrap(), some("demo:1"))),
            ("gs://b", ImageLocation::Object("gs://b".parse().unwrap(), None)),
            ("kind://dev:demo:1", ImageLocation::Cluster("kind://dev".parse().unwrap(), some("demo:1"))),
            ("kind://", ImageLocation::Cluster("kind://kind".parse().unwrap(), None)),
            ("k3d://?nodes=a,b:", ImageLocation::Cluster("k3d://?nodes=a,b".parse().unwrap(), None)),
            ("kind:1", ImageLocation::Configured("kind:1".to_owned())),
            ("docker://alpine", ImageLocation::Registry("alpine".parse().unwrap())),
            ("docker://localhost:5000/a/b:1", ImageLocation::Registry("localhost:5000/a/b:1".parse().unwrap())),
            ("unix:///run/a.sock:demo:1", ImageLocation::Daemon("unix:///run/a.sock".parse().unwrap(), some("demo:1"))),
            ("unix:///run/a.sock:", ImageLocation::Daemon("unix:///run/a.sock".parse().unwrap(), None)),
            ("unix:///run/a.sock", ImageLocation::Daemon("unix:///run/a.sock".parse().unwrap(), None)),
            ("tcp://[::1]:80/a/b:1", ImageLocation::Daemon("tcp://[::1]:80".parse().unwrap(), some("a/b:1"))),
            ("/run/a.sock", ImageLocation::Daemon("unix:///run/a.sock".parse().unwrap(), None)),
            ("/run/a.sock:demo:1", ImageLocation::Daemon("unix:///run/a.sock".parse().unwrap(), some("demo:1"))),
            ("tcp://localhost:80", ImageLocation::Daemon("tcp://localhost:80".parse().unwrap(), None)),
            ("ssh://u@h:22", ImageLocation::Daemon("ssh://u@h:22".parse().unwrap(), None)),
            ("ssh://h/:demo:1", ImageLocation::Daemon("ssh://h".parse().unwrap(), some("demo:1"))),
            ("ssh://h/run/a.sock", ImageLocation::Daemon("ssh://h/run/a.sock".parse().unwrap(), None)),
            ("ssh://h:22/a.sock:demo:1", ImageLocation::Daemon("ssh://h:22/a.sock".parse().unwrap(), some("demo:1"))),
            ("demo:1", ImageLocation::Configured("demo:1".to_owned())),
            ("docker:dind", ImageLocation::Configured("docker:dind".to_owned())),
            ("localhost:5000/demo:1", ImageLocation::Configured("localhost:5000/demo:1".to_owned())),
        ] {
            assert_eq!(text.parse(), Ok(expected), "{text}");
        }
        for (text, words) in [
            ("containerd:demo:3", "as in `containerd:default/demo:3`"),
            ("ssh://far:demo:1", "`ssh://HOST/:NAME`"),
            ("tcp://far:demo:1", "`tcp://HOST:PORT/NAME`"),
            ("oci", "begins with `oci:`; the image is `oci:latest`"),
        ] {
            let error = text.parse::<ImageLocation>().unwrap_err();
            assert!(error.contains(words), "{text}: {error}");
        }
        for (text, example) in [
            ("ssh://u@far/", "ssh://u@far/:NAME"),
            ("ssh://far/run/a.sock", "ssh://far/run/a.sock:NAME"),
            ("kind://dev", "kind://dev:NAME"),
            ("tcp://localhost:80", "tcp://localhost:80/NAME"),
            ("/run/a.sock", "unix:///run/a.sock:NAME"),
            ("oci:./images", "oci:./images:NAME"),
            ("containerd:k8s.io", "containerd:k8s.io/NAME"),
        ] {
            assert_eq!(text.parse::<ImageLocation>().unwrap().example(), example);
        }
        let slip = |text: &str| text.parse::<ImageLocation>().unwrap_err();
        assert_eq!(slip("oci-archve:/x.tar"), "`oci-archve:` is no transport; is `oci-archive:` meant?");
        assert!(slip("containers:1").ends_with("The image is `docker.io/library/containers:1`."));
        for text in [
            "containerd:",
            "containerd:/a",
            "oci:",
            "oci::1",
            "oci-archive:",
            "oci-archive::x",
            "docker://",
            "docker://Upper/Case",
            "dir:/x",
            "oci-layout:/x",
            "tarball:/x",
            "oci-archve:x.tar",
            "docker-deamon:demo:1",
            "containrd:k8s.io",
            "unix://x",
            "s3://",
            "s3://B:demo",
            "kind://Dev",
            "kind://a/b:demo",
            "tcp://x",
        ] {
            text.parse::<ImageLocation>().unwrap_err();
        }
    }
}
