//! Files as buildx 0.36.1 wrote them.

use std::fs;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;

const CONTAINER: &str = r#"{"Name":"c","Driver":"docker-container","Nodes":[{"Name":"c0","Endpoint":"unix:///var/run/docker.sock","Platforms":[{"architecture":"amd64","os":"linux"}],"DriverOpts":{"env.no_proxy":"a,b","network":"host"},"Flags":["--debug"],"Files":{"buildkitd.toml":"W3JlZ2lzdHJ5XQo="}},{"Name":"c1","Endpoint":"far","Platforms":null,"DriverOpts":null,"Flags":null,"Files":null}],"Dynamic":false}"#;

/// buildx's folder with the builders of `files`.
fn store(files: &[(&str, &str)]) -> (TempDir, Store) {
    let home = tempfile::tempdir().unwrap();
    let variables = home.path().to_owned();
    let store = Store::find(|name| (name == "HOME").then(|| variables.clone().into())).unwrap();
    let folder = store.folder().join("instances");
    fs::create_dir_all(&folder).unwrap();
    for (name, text) in files {
        fs::write(folder.join(name), text).unwrap();
    }
    (home, store)
}

#[test]
fn buildxs_own_variable_wins_and_docker_s_is_next() {
    let find = |set: &'static [(&str, &str)]| {
        Store::find(|name| set.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into()))
    };
    let folder = |set| find(set).map(|store| store.folder().to_owned());
    assert_eq!(folder(&[("HOME", "/h")]), Some("/h/.docker/buildx".into()));
    assert_eq!(folder(&[("HOME", "/h"), ("DOCKER_CONFIG", "/d")]), Some("/d/buildx".into()));
    assert_eq!(folder(&[("HOME", "/h"), ("DOCKER_CONFIG", "/d"), ("BUILDX_CONFIG", "/b")]), Some("/b".into()));
    assert_eq!(folder(&[("HOME", "/h"), ("DOCKER_CONFIG", "")]), Some("/h/.docker/buildx".into()));
    assert_eq!(folder(&[]), None);
}

#[test]
fn builders_are_found_by_name() {
    let (_home, store) = store(&[("c", CONTAINER), ("b", r#"{"Name":"b","Driver":"remote","Nodes":null}"#)]);
    let names: Vec<_> = store.instances().read.into_iter().map(|instance| instance.name).collect();
    assert_eq!(names, ["b", "c"]);
    let found = store.instance("C").unwrap();
    assert_eq!((found.name.as_str(), found.driver.as_str(), found.nodes.len()), ("c", "docker-container", 2));
    let error = store.instance("x").unwrap_err().to_string();
    assert!(error.starts_with("buildx has no builder `x` in ") && error.ends_with("it has: b, c"), "{error}");
}

#[test]
fn a_broken_file_hides_no_other_builder() {
    let (_home, store) = store(&[("a", "no JSON"), ("c", CONTAINER), ("d", "{\"Name\": 7}")]);
    fs::create_dir(store.folder().join("instances/folder")).unwrap();
    let Instances { read, unread } = store.instances();
    assert_eq!(read.iter().map(|instance| instance.name.as_str()).collect::<Vec<_>>(), ["c"]);
    let unread: Vec<_> = unread.iter().map(ToString::to_string).collect();
    assert_eq!(unread.len(), 3, "{unread:?}");
    for (error, file) in unread.iter().zip(["instances/a", "instances/d", "instances/folder"]) {
        assert!(error.contains(file), "{error}");
    }
    store.lock().unwrap().pin("c", "c0", "unix:///elsewhere").unwrap();
    assert_eq!(store.instance("c").unwrap().nodes[0].endpoint, "unix:///elsewhere");
    // One that is there is not unknown.
    assert!(store.instance("A").unwrap_err().to_string().contains("is not a builder as buildx writes it"));
    assert!(store.instance("x").unwrap_err().to_string().ends_with("it has: c"));
}

#[test]
fn no_folder_holds_no_builders() {
    let (home, store) = store(&[]);
    fs::remove_dir_all(home.path().join(".docker")).unwrap();
    let Instances { read, unread } = store.instances();
    assert!(read.is_empty() && unread.is_empty(), "{read:?} {unread:?}");
    assert!(store.instance("c").unwrap_err().to_string().ends_with("it has: none"));
}

#[test]
fn pinning_changes_one_endpoint_and_nothing_else() {
    let (_home, store) = store(&[("c", CONTAINER)]);
    store.lock().unwrap().pin("c", "c0", "unix:///run/linkspan/docker.sock").unwrap();
    let text = fs::read(store.folder().join("instances/c")).unwrap();
    let mut expected: Value = serde_json::from_str(CONTAINER).unwrap();
    expected["Nodes"][0]["Endpoint"] = json!("unix:///run/linkspan/docker.sock");
    assert_eq!(serde_json::from_slice::<Value>(&text).unwrap(), expected);
    assert_eq!(
        fs::read_dir(store.folder().join("instances")).unwrap().count(),
        1,
        "buildx takes each file for a builder"
    );
    assert!(store.lock().unwrap().pin("c", "c7", "x").unwrap_err().to_string().contains("no node `c7`"));
}

#[test]
fn the_lock_is_buildxs_and_exclusive() {
    let (_home, store) = store(&[("c", CONTAINER)]);
    let lock = store.lock().unwrap();
    let other = fs::File::open(store.folder().join(".lock")).unwrap();
    let taken = rustix::fs::flock(&other, rustix::fs::FlockOperation::NonBlockingLockExclusive);
    assert_eq!(taken, Err(rustix::io::Errno::WOULDBLOCK));
    drop(lock);
    rustix::fs::flock(&other, rustix::fs::FlockOperation::NonBlockingLockExclusive).unwrap();
}

#[test]
fn what_is_no_builder_is_named_and_stays() {
    for text in ["", "{", "[]", r#"{"Name":"c"}"#, r#"{"Name":"c","Driver":"d","Nodes":[{"Name":"c0"}]}"#] {
        let (_home, store) = store(&[("c", text)]);
        let error = store.instance("c").unwrap_err().to_string();
        assert!(error.contains("instances/c is not a builder as buildx writes it: "), "{error}");
        assert!(store.lock().unwrap().pin("c", "c0", "x").is_err());
        assert_eq!(fs::read_to_string(store.folder().join("instances/c")).unwrap(), text);
    }
}

#[test]
fn contexts_have_addresses() {
    let (home, store) = store(&[]);
    // The SHA-256 of `far`, as `docker context create far` names it.
    let id = "512eea46ceb3921dff4363c7069d89d4964d1d9fccaa0f411851a7aa60a5c868";
    let folder = home.path().join(".docker/contexts/meta").join(id);
    fs::create_dir_all(&folder).unwrap();
    let meta = r#"{"Name":"far","Metadata":{},"Endpoints":{"docker":{"Host":"ssh://me@far","SkipTLSVerify":false}}}"#;
    fs::write(folder.join("meta.json"), meta).unwrap();
    assert_eq!(store.address("far"), "ssh://me@far");
    assert_eq!(store.address("unix:///d.sock"), "unix:///d.sock");
    assert_eq!(store.address("unknown"), "unknown");
    let far = Context { name: "far".to_owned(), host: "ssh://me@far".to_owned() };
    assert_eq!(store.contexts(), [far]);

    let engine = |set: &'static [(&str, &str)]| {
        store.engine(|name| set.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into()))
    };
    assert_eq!(engine(&[]), None);
    assert_eq!(engine(&[("DOCKER_CONTEXT", "far")]).as_deref(), Some("ssh://me@far"));
    fs::write(home.path().join(".docker/config.json"), r#"{"auths":{},"currentContext":"far"}"#).unwrap();
    assert_eq!(engine(&[]).as_deref(), Some("ssh://me@far"));
    assert_eq!(engine(&[("DOCKER_CONTEXT", "default")]), None);
    assert_eq!(engine(&[("DOCKER_CONTEXT", "far"), ("DOCKER_HOST", "unix:///d")]).as_deref(), Some("unix:///d"));
}

#[test]
fn links_lead_to_the_same_address() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| format!("unix://{}/{name}", folder.path().display());
    fs::write(folder.path().join("socket"), "").unwrap();
    std::os::unix::fs::symlink("socket", folder.path().join("link")).unwrap();
    assert!(is_same_address(&path("socket"), &path("link")));
    assert!(is_same_address("unix:///absent", "unix:///absent"));
    assert!(!is_same_address(&path("socket"), "unix:///absent"));
    assert!(!is_same_address("unix:///absent", "unix:///other"));
    assert!(!is_same_address("ssh://one", "ssh://other"));
}
