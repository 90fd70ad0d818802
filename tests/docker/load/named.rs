//! Names that dockerd takes from archives, and what is said of them.

use std::path::Path;

use super::archive::Image;
use super::two_engines::TwoEngines;
use crate::common::{Run, Tar, text};

#[test]
fn a_name_that_is_not_written_in_full_is_reported_as_lost_and_a_load_is_logged() {
    let engines = TwoEngines::new();
    let image = Image::of(&[b"named"]);
    let archive = |name: &str| {
        let tar = image.blobs(Tar::default()).file("index.json", image.index_as(name)).layout();
        tar.end().write(engines.behind.fresh_path(".tar"))
    };
    let short = archive("my-app:latest");
    let door = format!("unix://{}", engines.door().display());
    // Only on a terminal docker asks for more than the outcome.
    let on_a_terminal = |archive: &Path| {
        let command = format!("docker load -i {}", archive.display());
        engines.behind.run("script").args(["-qec", &command, "/dev/null"]).env("DOCKER_HOST", &door).ok().stdout
    };
    let load = |run: Run| run.args(["-i", text(&short)]).ok().stdout;
    let (direct, through) = (load(engines.direct.docker(["load"])), load(engines.through(["load"])));
    assert_eq!((&*direct, &*through), ("Loaded image: my-app:latest\n", "Loaded image: my-app:latest\n"));
    let output = on_a_terminal(&short);
    assert!(output.contains("linkspan: docker does not find my-app:latest by that name"), "{output}");
    engines.through(["image", "inspect", "my-app:latest"]).fails();
    engines.direct.docker(["image", "inspect", "my-app:latest"]).fails();
    let log = engines.linkspan.log();
    assert!(log.contains("loaded door=\"docker\" names=\"docker.io/library/my-app:latest\""), "{log}");

    for name in ["docker.io/library/in-full:1", "docker.io/localhost/odd:1", "registry.example/a/b:1"] {
        let full = archive(name);
        let output = on_a_terminal(&full);
        assert!(output.contains("Loaded image: ") && !output.contains("does not find"), "{name}: {output}");
    }
    engines.quiet();
}
