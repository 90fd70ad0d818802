//! Names that dockerd takes from archives, and what is said of them.

use super::archive::{Image, Tar};
use super::rig::Rig;
use crate::common::{Run, text};

#[test]
fn a_name_that_is_not_written_in_full_is_said_to_be_lost_and_a_load_is_logged() {
    let rig = Rig::new();
    let image = Image::of(&[b"named"]);
    let archive = |name: &str| {
        let tar = image.blobs(Tar::default()).file("index.json", &image.index_as(name)).layout();
        tar.end().write(rig.behind.fresh_path(".tar"))
    };
    let short = archive("my-app:latest");
    let load = |run: Run| run.args(["-i", text(&short)]).ok().stdout;
    let (direct, through) = (load(rig.direct.docker(["load"])), load(rig.through(["load"])));
    assert_eq!(direct, "Loaded image: my-app:latest\n");
    // Nothing else differs: that dockerd does not find it is dockerd's own.
    let said = through.strip_prefix(&direct).unwrap();
    assert!(said.starts_with("linkspan: docker does not find my-app:latest by that name"), "{through}");
    rig.through(["image", "inspect", "my-app:latest"]).fails();
    rig.direct.docker(["image", "inspect", "my-app:latest"]).fails();
    let log = rig.linkspan.log();
    assert!(log.contains("loaded door=\"docker\" names=\"my-app:latest\""), "{log}");

    for name in ["docker.io/library/in-full:1", "docker.io/localhost/odd:1", "registry.example/a/b:1"] {
        let full = archive(name);
        let said = rig.through(["load", "-i", text(&full)]).ok().stdout;
        assert!(!said.contains("does not find"), "{name}: {said}");
    }
    rig.quiet();
}
