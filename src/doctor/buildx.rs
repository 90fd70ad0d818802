//! Which way the user's own builders go: through a door, or past it.

use crate::buildx::{Instance, Store, StoreError, is_same_address};
use crate::config::DEFAULT_DOCKER_LISTEN;

use super::report::{Check, Mark, UsersBuilder};

/// The builders that buildx has for whoever runs the doctor.
#[derive(Debug)]
pub(super) struct Users {
    /// Each with the addresses that its nodes' endpoints stand for.
    pub builders: Result<Vec<(Instance, Vec<String>)>, StoreError>,
}

/// The doors as users see them, and what is behind them.
#[derive(Debug, Default)]
pub(super) struct Doors {
    /// Where the docker door listens, if there is one.
    pub docker: Option<String>,
    /// The engine behind it; none with plain containerd.
    pub engine: Option<String>,
    /// Each builder's address and its door's.
    pub buildkit: Vec<(String, String)>,
}

/// The way of one builder.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Way {
    /// Through a door: `docker` or `buildkit`.
    Through(&'static str),
    /// Straight to the engine behind the docker door.
    PastDocker,
    /// Straight to a builder that has a door, which is this.
    PastBuildkit(String),
    /// To an engine or builder that no door leads to.
    Elsewhere,
}

/// Reads what buildx has. Nobody's variables means nobody's builders.
pub(super) fn look(store: Option<&Store>) -> Users {
    let addresses = |store: &Store, instance: &Instance| {
        instance.nodes.iter().map(|node| store.address(&node.endpoint)).collect::<Vec<_>>()
    };
    let Some(store) = store else { return Users { builders: Ok(Vec::new()) } };
    let builders = store.instances().map(|instances| {
        instances.into_iter().map(|instance| (addresses(store, &instance), instance)).map(|(a, i)| (i, a)).collect()
    });
    Users { builders }
}

/// What there is to say of each, as a check and for the document.
pub(super) fn judge(users: &Users, doors: &Doors) -> (Vec<Check>, Vec<UsersBuilder>) {
    match &users.builders {
        Err(error) => {
            let found = format!("builders that buildx has are not looked at: {error}");
            (vec![Check { about: "buildx", mark: Mark::Note, found, remedy: None }], Vec::new())
        }
        Ok(builders) => builders.iter().map(|(builder, addresses)| one(builder, addresses, doors)).unzip(),
    }
}

fn one(builder: &Instance, addresses: &[String], doors: &Doors) -> (Check, UsersBuilder) {
    let Instance { name, driver, .. } = builder;
    // The nodes of a builder share its work, so that the slowest decides.
    let ways: Vec<_> = addresses.iter().map(|address| way(driver, address, doors)).collect();
    let worst = ways.iter().find(|way| !matches!(way, Way::Through(_))).or_else(|| ways.first());
    let goes = format!("builder {name} ({driver}) goes to {}", addresses.join(", "));
    let (mark, found, remedy) = match worst {
        Some(Way::Through(door)) => {
            let found = format!("builder {name} ({driver}) goes through the {door} door: its loads are direct exports");
            (Mark::Ok, found, None)
        }
        Some(Way::PastDocker) => {
            let setup = format!("linkspan setup buildx {name}");
            let remedy = match &doors.docker {
                Some(_) => setup,
                None => format!("linkspan serve --docker-listen {DEFAULT_DOCKER_LISTEN}, and then: {setup}"),
            };
            (Mark::Slow, format!("{goes}, past Linkspan: every load sends the whole image"), Some(remedy))
        }
        Some(Way::PastBuildkit(door)) => {
            let remedy = format!("docker buildx create --name {name}-linkspan --driver remote {door}");
            (Mark::Slow, format!("{goes}, past its door: every load sends the whole image"), Some(remedy))
        }
        _ => (Mark::Note, format!("{goes}, where no door leads"), elsewhere(driver, addresses)),
    };
    let through = match worst {
        Some(Way::Through(door)) => Some(*door),
        _ => None,
    };
    let users = UsersBuilder {
        name: name.clone(),
        driver: driver.clone(),
        endpoints: addresses.to_vec(),
        through,
        remedy: remedy.clone(),
    };
    (Check { about: "buildx", mark, found, remedy }, users)
}

fn way(driver: &str, address: &str, doors: &Doors) -> Way {
    let is = |other: &Option<String>| other.as_deref().is_some_and(|other| is_same_address(address, other));
    match driver {
        "docker-container" if is(&doors.docker) => Way::Through("docker"),
        "docker-container" if is(&doors.engine) => Way::PastDocker,
        "remote" => doors
            .buildkit
            .iter()
            .find_map(|(builder, door)| {
                if is_same_address(address, door) {
                    return Some(Way::Through("buildkit"));
                }
                is_same_address(address, builder).then(|| Way::PastBuildkit(door.clone()))
            })
            .unwrap_or(Way::Elsewhere),
        _ => Way::Elsewhere,
    }
}

/// How a door could lead there.
fn elsewhere(driver: &str, addresses: &[String]) -> Option<String> {
    match (driver, addresses) {
        ("remote", [address]) => Some(format!("linkspan serve --builder {address} opens a door for it")),
        ("docker-container", _) => Some("Linkspan beside that engine makes its loads direct exports".to_owned()),
        ("kubernetes", _) => Some(
            "kubectl port-forward to its buildkitd, and linkspan serve --builder tcp://127.0.0.1:PORT opens a door for it"
                .to_owned(),
        ),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buildx::Node;

    fn doors() -> Doors {
        Doors {
            docker: Some("unix:///run/linkspan/docker.sock".to_owned()),
            engine: Some("unix:///engine.sock".to_owned()),
            buildkit: vec![("tcp://builder:1234".to_owned(), "unix:///run/linkspan/buildkit.sock".to_owned())],
        }
    }

    fn judged(driver: &str, endpoints: &[&str], doors: &Doors) -> (Check, UsersBuilder) {
        let endpoints: Vec<String> = endpoints.iter().map(|&endpoint| endpoint.to_owned()).collect();
        let nodes = endpoints.iter().map(|endpoint| Node { name: "b0".to_owned(), endpoint: endpoint.clone() });
        let builder = Instance { name: "b".to_owned(), driver: driver.to_owned(), nodes: nodes.collect() };
        let (mut checks, mut users) = judge(&Users { builders: Ok(vec![(builder, endpoints)]) }, doors);
        (checks.remove(0), users.remove(0))
    }

    #[test]
    fn a_way_through_a_door_is_named() {
        for (driver, endpoint, door) in [
            ("docker-container", "unix:///run/linkspan/docker.sock", "docker"),
            ("remote", "unix:///run/linkspan/buildkit.sock", "buildkit"),
        ] {
            let (check, users) = judged(driver, &[endpoint], &doors());
            assert_eq!((check.mark, users.through), (Mark::Ok, Some(door)), "{check:?}");
            assert!(check.remedy.is_none());
        }
    }

    #[test]
    fn a_way_past_a_door_has_the_command_that_mends_it() {
        let (check, users) = judged("docker-container", &["unix:///engine.sock"], &doors());
        assert_eq!((check.mark, users.through), (Mark::Slow, None));
        assert_eq!(check.remedy.as_deref(), Some("linkspan setup buildx b"));

        let (check, _) = judged("remote", &["tcp://builder:1234"], &doors());
        assert_eq!(check.mark, Mark::Slow);
        let create = "docker buildx create --name b-linkspan --driver remote unix:///run/linkspan/buildkit.sock";
        assert_eq!(check.remedy.as_deref(), Some(create));

        let (check, _) = judged("docker-container", &["unix:///engine.sock"], &Doors { docker: None, ..doors() });
        let remedy = check.remedy.unwrap();
        assert!(remedy.starts_with("linkspan serve --docker-listen unix:///"), "{remedy}");
        assert!(remedy.ends_with("linkspan setup buildx b"), "{remedy}");
    }

    #[test]
    fn the_slowest_node_decides() {
        let both = ["unix:///run/linkspan/docker.sock", "unix:///engine.sock"];
        assert_eq!(judged("docker-container", &both, &doors()).0.mark, Mark::Slow);
    }

    #[test]
    fn where_no_door_leads_nothing_is_wrong() {
        for (driver, endpoint, words) in [
            ("docker-container", "ssh://far", Some("beside that engine")),
            ("remote", "tcp://other:1", Some("linkspan serve --builder tcp://other:1")),
            ("kubernetes", "kubernetes:///b", Some("kubectl port-forward")),
            ("cloud", "cloud://org/b", None),
        ] {
            let (check, users) = judged(driver, &[endpoint], &doors());
            assert_eq!((check.mark, users.through), (Mark::Note, None));
            assert_eq!(check.remedy.is_some(), words.is_some());
            assert!(check.remedy.unwrap_or_default().contains(words.unwrap_or_default()));
        }
    }
}
