//! What an undo puts back.

use std::fs;
use std::path::Path;

use super::{ENABLED, OURS, UNITS, files, machine, take_over};

#[test]
fn what_was_there_before_a_take_over_comes_back() {
    let root = machine();
    let units = root.path().join(UNITS);
    fs::create_dir_all(units.join("linkspan.service.d")).unwrap();
    fs::create_dir_all(units.join("multi-user.target.wants")).unwrap();
    let own = [
        ("linkspan.service", "[Service]\nExecStart=/opt/linkspan serve\n[Install]\nWantedBy=multi-user.target\n"),
        ("linkspan.service.d/take-over.conf", "[Service]\nNice=5\n"),
        ("linkspan.service.d/mine.conf", "[Service]\nNice=6\n"),
    ];
    for (name, text) in own {
        fs::write(units.join(name), text).unwrap();
    }
    // Masked, and enabled.
    std::os::unix::fs::symlink("/dev/null", units.join("linkspan.socket")).unwrap();
    std::os::unix::fs::symlink("../linkspan.service", units.join(ENABLED[0])).unwrap();
    let before = files(root.path());
    for _ in 0..2 {
        take_over(root.path()).ok();
        for name in OURS {
            let text = fs::read_to_string(units.join(name)).unwrap();
            assert!(text.starts_with("# Installed by Linkspan's take-over"), "{name}: {text}");
        }
    }
    take_over(root.path()).arg("--undo").ok();
    assert_eq!(files(root.path()), before);
    for (name, text) in own {
        assert_eq!(fs::read_to_string(units.join(name)).unwrap(), text, "{name}");
    }
    assert_eq!(fs::read_link(units.join("linkspan.socket")).unwrap(), Path::new("/dev/null"));
}

#[test]
fn a_take_over_of_an_earlier_version_can_be_undone_and_taken_further() {
    for further in [false, true] {
        let root = machine();
        let before = files(root.path());
        let units = root.path().join(UNITS);
        let mark = "# Installed by Linkspan's take-over: of an earlier version.\n";
        for (name, text) in [
            (OURS[0], format!("{mark}[Socket]\nListenStream=\nListenStream=/run/docker-engine.sock\n")),
            (
                OURS[1],
                "[Service]\nExecStart=/usr/local/bin/linkspan serve\n[Install]\nWantedBy=multi-user.target\n".into(),
            ),
            (OURS[2], format!("{mark}[Service]\nEnvironment=LINKSPAN_DOCKER_LISTEN=unix:///run/docker.sock\n")),
        ] {
            fs::create_dir_all(units.join(name).parent().unwrap()).unwrap();
            fs::write(units.join(name), text).unwrap();
        }
        if further {
            take_over(root.path()).ok();
        }
        take_over(root.path()).arg("--undo").ok();
        assert_eq!(files(root.path()), before);
    }
}
