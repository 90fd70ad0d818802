//! Builders go through the door and come back as they were.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::test_thread::spawn_until_it_waits;

/// buildx's folder with one builder, an engine and an open door.
struct Fixture {
    folder: TempDir,
    store: Store,
    door: Address,
    engine: String,
    _listening: UnixListener,
}

impl Fixture {
    fn new(driver: &str, endpoints: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_owned();
        let store =
            Store::find(|name| (name == "BUILDX_CONFIG" || name == "HOME").then(|| path.clone().into())).unwrap();
        let listening = UnixListener::bind(path.join("door")).unwrap();
        let door = Address::Unix(path.join("door"));
        let engine = format!("unix://{}", path.join("engine").display());
        let nodes = endpoints.iter().enumerate().map(|(index, endpoint)| {
            let endpoint = endpoint.replace("ENGINE", &engine).replace("DOOR", &door.to_string());
            json!({"Name": format!("b{index}"), "Endpoint": endpoint, "Flags": ["--debug"], "New": 1})
        });
        let builder = json!({"Name": "b", "Driver": driver, "Nodes": nodes.collect::<Vec<_>>(), "Dynamic": false});
        fs::create_dir(path.join("instances")).unwrap();
        fs::write(path.join("instances/b"), builder.to_string()).unwrap();
        Self { folder, store, door, engine, _listening: listening }
    }

    fn file(&self) -> Value {
        serde_json::from_slice(&fs::read(self.folder.path().join("instances/b")).unwrap()).unwrap()
    }

    fn through(&self) -> Result<ChangedBuilder, SetupError> {
        through(&self.store, "b", &self.door, &self.engine)
    }

    fn back(&self) -> Result<ChangedBuilder, SetupError> {
        back(&self.store, "b", &self.door, &self.engine)
    }

    fn moved(done: &ChangedBuilder) -> Vec<&str> {
        done.moved.iter().map(|moved| moved.node.as_str()).collect()
    }
}

#[test]
fn nodes_of_the_engine_go_through_the_door_and_back() {
    let fixture = Fixture::new("docker-container", &["ssh://far", "ENGINE"]);
    let before = fixture.file();
    let done = fixture.through().unwrap();
    assert_eq!(Fixture::moved(&done), ["b1"]);
    assert_eq!((&done.moved[0].from, &done.moved[0].to), (&fixture.engine, &fixture.door.to_string()));
    let mut expected = before.clone();
    expected["Nodes"][1]["Endpoint"] = json!(fixture.door.to_string());
    assert_eq!(fixture.file(), expected);

    assert_eq!(Fixture::moved(&fixture.through().unwrap()), [""; 0], "it is there already");
    assert_eq!(Fixture::moved(&fixture.back().unwrap()), ["b1"]);
    assert_eq!(fixture.file(), before);
    assert!(matches!(fixture.back(), Err(SetupError::NotThere { .. })));
}

#[test]
fn a_docker_context_comes_back_as_a_context() {
    let fixture = Fixture::new("docker-container", &["desk"]);
    // The SHA-256 of `desk`.
    let id = "49be417ad74080a0031b636b44cfc26fdd0065492d6cd3b033960c4414955cf7";
    let folder = fixture.folder.path().join(".docker/contexts/meta").join(id);
    fs::create_dir_all(&folder).unwrap();
    let meta = json!({"Name": "desk", "Endpoints": {"docker": {"Host": fixture.engine}}});
    fs::write(folder.join("meta.json"), meta.to_string()).unwrap();
    let before = fixture.file();
    assert_eq!(fixture.through().unwrap().moved[0].from, "desk");
    assert_eq!(fixture.back().unwrap().moved[0].to, "desk");
    assert_eq!(fixture.file(), before);
}

#[test]
fn a_node_that_goes_through_another_door_can_still_be_sent_back() {
    let mut fixture = Fixture::new("docker-container", &["ssh://one", "ssh://two"]);
    let before = fixture.file();
    let first = (fixture.door.clone(), UnixListener::bind(fixture.folder.path().join("other")).unwrap());
    fixture.engine = "ssh://one".to_owned();
    fixture.through().unwrap();
    fixture.door = Address::Unix(fixture.folder.path().join("other"));
    fixture.engine = "ssh://two".to_owned();
    fixture.through().unwrap();
    // Where a door leads now is not what is asked for: each node goes where it went.
    fixture.engine = "ssh://elsewhere".to_owned();
    assert_eq!(Fixture::moved(&fixture.back().unwrap()), ["b1"]);
    fixture.door = first.0;
    assert_eq!(Fixture::moved(&fixture.back().unwrap()), ["b0"]);
    assert_eq!(fixture.file(), before);
    assert!(!fixture.folder.path().join("linkspan/b.json").exists());
}

#[test]
fn a_builder_created_at_the_door_comes_back_to_the_engine() {
    let fixture = Fixture::new("docker-container", &["DOOR"]);
    assert_eq!(fixture.back().unwrap().moved[0].to, fixture.engine);
}

#[test]
fn what_cannot_go_through_is_left_alone() {
    for (driver, endpoint, words) in [
        ("remote", "ENGINE", "has the driver `remote`"),
        ("kubernetes", "ENGINE", "has the driver `kubernetes`"),
        ("docker-container", "ssh://far", "goes to ssh://far, and the docker door leads to the engine at unix://"),
    ] {
        let fixture = Fixture::new(driver, &[endpoint]);
        let before = fixture.file();
        let error = fixture.through().unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
        assert!(driver == "kubernetes" || error.hint().is_some());
        assert_eq!(fixture.file(), before);
    }
}

#[test]
fn a_closed_door_is_no_way() {
    let mut fixture = Fixture::new("docker-container", &["ENGINE"]);
    fixture.door = Address::Unix(fixture.folder.path().join("closed"));
    let before = fixture.file();
    let error = fixture.through().unwrap_err();
    assert!(error.to_string().contains("/closed does not respond: "), "{error}");
    assert!(error.hint().unwrap().contains("linkspan serve --docker-listen unix://"));
    assert_eq!(fixture.file(), before);
}

/// The user whose folder it is; nobody's id.
const USER: u32 = 54_321;

fn give_away(folder: &Path) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.is_symlink() {
            give_away(&path);
        }
        std::os::unix::fs::lchown(&path, Some(USER), Some(USER)).unwrap();
    }
    chown(folder, Some(USER), Some(USER)).unwrap();
}

fn all_below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.is_symlink() {
            found.extend(all_below(&path));
        }
        found.push(path);
    }
    found
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[test]
fn what_root_leaves_in_a_users_folder_is_the_users() {
    let fixture = Fixture::new("docker-container", &["ENGINE"]);
    if !is_root() {
        return;
    }
    give_away(fixture.folder.path());
    let owners = || {
        let below = all_below(fixture.folder.path());
        below.into_iter().filter(|path| fs::symlink_metadata(path).unwrap().uid() != USER).collect::<Vec<_>>()
    };
    let (folder, lock) = (fixture.folder.path().join("linkspan"), fixture.folder.path().join(".lock"));
    // As an earlier version left them.
    fs::create_dir(&folder).unwrap();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(&lock, "").unwrap();
    fixture.through().unwrap();
    assert_eq!(owners(), [""; 0].map(PathBuf::from));
    assert!(folder.join("b.json").is_file());
    fixture.back().unwrap();
    assert_eq!(owners(), [""; 0].map(PathBuf::from));
    fs::remove_file(&lock).unwrap();
    fs::remove_dir(&folder).unwrap();
    fixture.through().unwrap();
    assert_eq!(owners(), [""; 0].map(PathBuf::from));
}

#[test]
fn a_link_is_replaced_by_what_it_leads_to() {
    let fixture = Fixture::new("docker-container", &["ENGINE"]);
    let (file, elsewhere) = (fixture.folder.path().join("instances/b"), fixture.folder.path().join("dotfiles"));
    fs::create_dir(&elsewhere).unwrap();
    fs::rename(&file, elsewhere.join("b")).unwrap();
    symlink("../dotfiles/b", &file).unwrap();
    fs::set_permissions(elsewhere.join("b"), fs::Permissions::from_mode(0o640)).unwrap();
    if is_root() {
        give_away(fixture.folder.path());
    }
    fixture.through().unwrap();
    assert!(file.is_symlink() && fixture.file()["Nodes"][0]["Endpoint"] == json!(fixture.door.to_string()));
    let changed = fs::metadata(elsewhere.join("b")).unwrap();
    assert_eq!(changed.permissions().mode() & 0o777, 0o640);
    assert!(!is_root() || changed.uid() == USER);
    assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 1, "nothing else is left there");
}

#[test]
fn nothing_of_another_user_is_reached_through_a_users_links() {
    if !is_root() {
        return;
    }
    let roots = tempfile::tempdir().unwrap();
    let precious = roots.path().join("b.json");
    for name in ["instances/b", ".lock", "linkspan/b.json", "linkspan", "instances"] {
        let fixture = Fixture::new("docker-container", &["ENGINE"]);
        let buildx = fixture.folder.path();
        fs::create_dir(buildx.join("linkspan")).unwrap();
        let before = fs::read(buildx.join("instances/b")).unwrap();
        // It could pass for either file.
        let text = if name.starts_with("linkspan") { b"{}".to_vec() } else { before.clone() };
        for file in [precious.clone(), roots.path().join("b")] {
            fs::write(file, &text).unwrap();
        }
        let at = buildx.join(name);
        let _ = fs::remove_file(&at);
        let _ = fs::remove_dir_all(&at);
        symlink(if name.contains('.') || name.ends_with("/b") { &precious } else { roots.path() }, &at).unwrap();
        give_away(buildx);
        let error = fixture.through().unwrap_err().to_string();
        assert!(error.contains("it is a link to "), "{name}: {error}");
        assert!(fixture.back().is_err());
        for file in [&precious, &roots.path().join("b")] {
            let found = fs::metadata(file).unwrap();
            assert_eq!((fs::read(file).unwrap(), found.uid(), found.nlink()), (text.clone(), 0, 1), "{name}");
        }
        assert_eq!(fs::read_dir(roots.path()).unwrap().count(), 2, "{name}");
    }
}

#[test]
fn a_name_that_can_be_guessed_is_not_followed() {
    let fixture = Fixture::new("docker-container", &["ENGINE"]);
    let precious = fixture.folder.path().join("precious");
    fs::write(&precious, "precious").unwrap();
    symlink(&precious, fixture.folder.path().join(format!(".linkspan-{}", std::process::id()))).unwrap();
    fixture.through().unwrap();
    assert_eq!(fs::read_to_string(&precious).unwrap(), "precious");
    assert!(!fixture.folder.path().join("instances/b").is_symlink());
}

#[test]
fn a_pipe_does_not_make_it_wait() {
    for name in ["instances/b", "linkspan/b.json", ".lock"] {
        let fixture = Fixture::new("docker-container", &["ENGINE"]);
        fs::create_dir(fixture.folder.path().join("linkspan")).unwrap();
        let at = fixture.folder.path().join(name);
        let _ = fs::remove_file(&at);
        rustix::fs::mknodat(rustix::fs::CWD, &at, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        let error = fixture.through().unwrap_err().to_string();
        assert!(error.contains("it is a pipe; expected a regular file"), "{name}: {error}");
    }
}

#[test]
fn a_builder_is_read_when_no_other_user_can_change_it() {
    let fixture = Fixture::new("docker-container", &["ENGINE"]);
    let lock = fixture.store.lock().unwrap();
    std::thread::scope(|scope| {
        let moving = spawn_until_it_waits(scope, || fixture.through());
        assert!(!moving.is_finished(), "it waits for the lock");
        // Meanwhile another command gives the builder a second node.
        let mut file = fixture.file();
        let mut second = file["Nodes"][0].clone();
        second["Name"] = json!("b1");
        file["Nodes"].as_array_mut().unwrap().push(second);
        fs::write(fixture.folder.path().join("instances/b"), file.to_string()).unwrap();
        drop(lock);
        assert_eq!(Fixture::moved(&moving.join().unwrap().unwrap()), ["b0", "b1"]);
    });
}
