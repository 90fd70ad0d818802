//! Where Linkspans may listen on this machine: the folders of their sockets, and systemd units.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use super::First;
use super::units::{self, Named};
use crate::config::{Config, Layer, Setting, runtime_folder};
use crate::net::Address;

/// The name of Linkspan's folders and units.
const NAME: &str = "linkspan";
/// The folders of system units (systemd.unit(5)).
const SYSTEM_UNITS: [&str; 5] = [
    "etc/systemd/system",
    "run/systemd/system",
    "usr/local/lib/systemd/system",
    "usr/lib/systemd/system",
    "lib/systemd/system",
];
/// The folders of units for every user's systemd.
const USER_UNITS: [&str; 3] = ["etc/systemd/user", "usr/local/lib/systemd/user", "usr/lib/systemd/user"];
/// The most entries of a folder, and bytes of a file, that are read.
const MAX_ENTRIES: usize = 1024;
const MAX_UNIT: u64 = 256 << 10;

/// The folders to search.
#[derive(Debug, Clone)]
pub struct SearchFolders {
    root: PathBuf,
    /// The folder of the user's own sockets.
    runtime: Option<PathBuf>,
    /// The folder of the user's own configuration.
    config: Option<PathBuf>,
}

impl SearchFolders {
    /// The folders of this machine, and of the user with this environment.
    pub fn new(variable: impl Fn(&str) -> Option<OsString>) -> Self {
        let folder = |name: &str| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
        Self {
            root: "/".into(),
            runtime: runtime_folder(&variable),
            config: folder("XDG_CONFIG_HOME").or_else(|| Some(folder("HOME")?.join(".config"))),
        }
    }

    /// Every socket in Linkspan's folders and in Linkspan's units.
    pub fn sockets(&self) -> Vec<(Address, First)> {
        let mut found = Vec::new();
        let folders = [Some(self.root.join("run").join(NAME)), self.runtime.as_ref().map(|folder| folder.join(NAME))];
        for folder in folders.into_iter().flatten() {
            found.extend(entries(&folder).into_iter().filter(|path| path.extension().is_some_and(|it| it == "sock")));
        }
        for path in self.runtime.iter().flat_map(|folder| entries(folder)) {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if name.starts_with(NAME) && name.ends_with(".sock") {
                found.push(path);
            }
        }
        let mut found: Vec<_> = found.into_iter().map(Address::Unix).collect();
        for named in self.named() {
            found.extend(named.addresses);
            found.extend(named.configs.iter().flat_map(|file| doors(file)));
        }
        found.into_iter().map(|address| (address, First::Http1)).collect()
    }

    fn named(&self) -> Vec<Named> {
        let system: Vec<_> = SYSTEM_UNITS.iter().map(|folder| self.root.join(folder)).collect();
        let mut named: Vec<_> =
            units_in(&system).iter().map(|texts| units::read(texts, Path::new("/run"), &text)).collect();
        if let Some(runtime) = &self.runtime {
            let own = self.config.iter().map(|folder| folder.join("systemd/user"));
            let of_users = own.chain(USER_UNITS.iter().map(|folder| self.root.join(folder))).collect::<Vec<_>>();
            named.extend(units_in(&of_users).iter().map(|texts| units::read(texts, runtime, &text)));
        }
        named
    }
}

/// The doors in a configuration file; none if it is invalid, because a daemon does not start with it.
fn doors(file: &Path) -> Vec<Address> {
    let mut layer = Layer::default();
    layer.add_flag(Setting::Config, file.to_str().map(str::to_owned));
    let Ok(config) = Config::load(layer, &|_: &str| None) else { return Vec::new() };
    let builders = config.builders.into_iter().map(|builder| builder.listen);
    let docker = config.docker_door.map(|door| door.listen);
    let registry = config.registry_door.map(|door| door.listen);
    docker.into_iter().chain(config.export_listen).chain(registry).chain(builders).collect()
}

/// The texts of each of Linkspan's units in `folders`, of which earlier ones take precedence: the unit's own text, then its
/// drop-ins sorted by name.
fn units_in(folders: &[PathBuf]) -> Vec<Vec<String>> {
    let mut units: BTreeMap<String, Parts> = BTreeMap::new();
    for path in folders.iter().flat_map(|folder| entries(folder)) {
        let Some(name) = path.file_name().and_then(|name| name.to_str()).filter(|name| name.starts_with(NAME)) else {
            continue;
        };
        let (unit, is_drop_ins) = name.strip_suffix(".d").map_or((name, false), |unit| (unit, true));
        if !unit.ends_with(".service") && !unit.ends_with(".socket") {
            continue;
        }
        let parts = units.entry(unit.to_owned()).or_default();
        if is_drop_ins {
            for path in entries(&path).into_iter().filter(|path| path.extension().is_some_and(|it| it == "conf")) {
                parts.drop_ins.entry(path.file_name().map(OsString::from).unwrap_or_default()).or_insert(path);
            }
        } else {
            parts.own.get_or_insert(path);
        }
    }
    // A masked unit is a link to /dev/null.
    let is_masked =
        |parts: &Parts| parts.own.as_ref().is_some_and(|path| path.metadata().is_ok_and(|it| !it.is_file()));
    let texts = |parts: Parts| parts.own.iter().chain(parts.drop_ins.values()).filter_map(|path| text(path)).collect();
    units.into_values().filter(|parts| !is_masked(parts)).map(texts).collect()
}

/// The files of a unit.
#[derive(Default)]
struct Parts {
    own: Option<PathBuf>,
    /// By name.
    drop_ins: BTreeMap<OsString, PathBuf>,
}

/// The text of a file, cut to the limit.
fn text(path: &Path) -> Option<String> {
    if !path.metadata().ok()?.is_file() {
        return None;
    }
    let mut text = String::new();
    File::open(path).ok()?.take(MAX_UNIT).read_to_string(&mut text).ok()?;
    Some(text)
}

/// The entries of a folder, sorted by name; none if it cannot be read.
fn entries(folder: &Path) -> Vec<PathBuf> {
    let listed = fs::read_dir(folder).into_iter().flatten().take(MAX_ENTRIES);
    let mut paths: Vec<_> = listed.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.sort();
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_units_drop_ins_and_their_files_are_looked_at() {
        let root = tempfile::tempdir().unwrap();
        let at = |path: &str| root.path().join(path);
        let write = |path: &str, text: &str| {
            fs::create_dir_all(at(path).parent().unwrap()).unwrap();
            fs::write(at(path), text).unwrap();
        };
        for file in ["run/linkspan/a.sock", "run/linkspan/a.sock.lock", "me/linkspan/b.sock", "me/linkspan.sock"] {
            write(file, "");
        }
        write("me/other.sock", "");
        write(
            "usr/lib/systemd/system/linkspan.service",
            "[Service]\nExecStart=/bin/linkspan serve --export-listen /e\n",
        );
        let config = at("configured.toml");
        write("configured.toml", "docker-listen = 'unix:///c'\n");
        let drop_in = format!("[Service]\nEnvironment=LINKSPAN_CONFIG={}\n", config.display());
        write("etc/systemd/system/linkspan.service.d/x.conf", &drop_in);
        write("etc/systemd/system/docker.socket.d/linkspan.conf", "[Socket]\nListenStream=/engine\n");
        write("home/systemd/user/linkspan.socket", "[Socket]\nListenStream=%t/own.sock\n");
        // Masked units are ignored, and so are units that another one of the same name overrides.
        write(
            "usr/lib/systemd/system/linkspan-old.service",
            "[Service]\nExecStart=/bin/linkspan serve --export-listen /no\n",
        );
        std::os::unix::fs::symlink("/dev/null", at("etc/systemd/system/linkspan-old.service")).unwrap();
        write("usr/lib/systemd/system/linkspan.socket", "[Socket]\nListenStream=/no\n");
        write("etc/systemd/system/linkspan.socket", "[Socket]\nListenStream=/no\n");
        write("etc/systemd/system/linkspan.socket.d/a.conf", "[Socket]\nListenStream=\nListenStream=/yes\n");
        write("etc/systemd/system/linkspan.socket.d/a.conf.bak", "[Socket]\nListenStream=/no\n");
        write("usr/lib/systemd/system/linkspan.socket.d/a.conf", "[Socket]\nListenStream=/no\n");
        let folders = SearchFolders { root: root.path().to_owned(), runtime: Some(at("me")), config: Some(at("home")) };
        let mut found: Vec<_> = folders.sockets().iter().map(|(address, _)| address.to_string()).collect();
        found.sort();
        let below = |path: &str| format!("unix://{}", at(path).display());
        let mut expected = vec![
            below("run/linkspan/a.sock"),
            below("me/linkspan/b.sock"),
            below("me/linkspan.sock"),
            below("me/own.sock"),
            "unix:///e".to_owned(),
            "unix:///c".to_owned(),
            "unix:///yes".to_owned(),
        ];
        expected.sort();
        assert_eq!(found, expected);
    }
}
