//! Builders go through the door and come back as they were.

use std::fs;
use std::os::unix::net::UnixListener;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;

/// buildx's folder with one builder, an engine and an open door.
struct Place {
    folder: TempDir,
    store: Store,
    door: Address,
    engine: String,
    _listening: UnixListener,
}

impl Place {
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

    fn through(&self) -> Result<Done, SetupError> {
        through(&self.store, "b", &self.door, &self.engine)
    }

    fn back(&self) -> Result<Done, SetupError> {
        back(&self.store, "b", &self.door, &self.engine)
    }

    fn moved(done: &Done) -> Vec<&str> {
        done.moved.iter().map(|moved| moved.node.as_str()).collect()
    }
}

#[test]
fn nodes_of_the_engine_go_through_the_door_and_back() {
    let place = Place::new("docker-container", &["ssh://far", "ENGINE"]);
    let before = place.file();
    let done = place.through().unwrap();
    assert_eq!(Place::moved(&done), ["b1"]);
    assert_eq!((&done.moved[0].from, &done.moved[0].to), (&place.engine, &place.door.to_string()));
    let mut expected = before.clone();
    expected["Nodes"][1]["Endpoint"] = json!(place.door.to_string());
    assert_eq!(place.file(), expected);

    assert_eq!(Place::moved(&place.through().unwrap()), [""; 0], "it is there already");
    assert_eq!(Place::moved(&place.back().unwrap()), ["b1"]);
    assert_eq!(place.file(), before);
    assert!(matches!(place.back(), Err(SetupError::NotThere { .. })));
}

#[test]
fn a_docker_context_comes_back_as_a_context() {
    let place = Place::new("docker-container", &["desk"]);
    // The SHA-256 of `desk`.
    let id = "49be417ad74080a0031b636b44cfc26fdd0065492d6cd3b033960c4414955cf7";
    let folder = place.folder.path().join(".docker/contexts/meta").join(id);
    fs::create_dir_all(&folder).unwrap();
    let meta = json!({"Name": "desk", "Endpoints": {"docker": {"Host": place.engine}}});
    fs::write(folder.join("meta.json"), meta.to_string()).unwrap();
    let before = place.file();
    assert_eq!(place.through().unwrap().moved[0].from, "desk");
    assert_eq!(place.back().unwrap().moved[0].to, "desk");
    assert_eq!(place.file(), before);
}

#[test]
fn a_builder_created_at_the_door_comes_back_to_the_engine() {
    let place = Place::new("docker-container", &["DOOR"]);
    assert_eq!(place.back().unwrap().moved[0].to, place.engine);
}

#[test]
fn what_cannot_go_through_is_left_alone() {
    for (driver, endpoint, words) in [
        ("remote", "ENGINE", "has the driver `remote`"),
        ("kubernetes", "ENGINE", "has the driver `kubernetes`"),
        ("docker-container", "ssh://far", "goes to ssh://far, and the docker door leads to the engine at unix://"),
    ] {
        let place = Place::new(driver, &[endpoint]);
        let before = place.file();
        let error = place.through().unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
        assert!(driver == "kubernetes" || error.hint().is_some());
        assert_eq!(place.file(), before);
    }
}

#[test]
fn a_closed_door_is_no_way() {
    let mut place = Place::new("docker-container", &["ENGINE"]);
    place.door = Address::Unix(place.folder.path().join("closed"));
    let before = place.file();
    let error = place.through().unwrap_err();
    assert!(error.to_string().contains("/closed does not answer: "), "{error}");
    assert!(error.hint().unwrap().contains("linkspan serve --docker-listen unix://"));
    assert_eq!(place.file(), before);
}
