//! Images that come and go.

use std::fs;

use crate::{
    both_ways::{BothWays, Side, base, tree},
    common::{Context, Run, Stack, text},
};

#[test]
fn push_and_pull() {
    let sides = BothWays::of(Stack::shared());
    let context = Context::new("FROM scratch\nCOPY large /\n").noise("large", 8 << 20, 5);
    sides.compare(|side| {
        let name = format!("{}/{}:1", side.stack.registry(), side.named("pushed"));
        side.docker(["build", "-t", &name, "--provenance=false", "--build-arg", "SOURCE_DATE_EPOCH=1"])
            .arg(context.path())
            .ok();
        let pushed = side.docker(["push", &name]).ok();
        side.docker(["image", "rm", &name]).ok();
        let pulled = side.docker(["pull", &name]).ok();
        let inspected = side.docker(["image", "inspect", "--format", "{{.Id}} {{.Size}}", &name]).ok();
        let last = |text: &str| text.lines().last().map(str::to_owned);
        let (pushed, pulled, inspected) = (side.outcome(&pushed), side.outcome(&pulled), side.outcome(&inspected));
        (pushed.0, last(&pushed.1), pulled.0, last(&pulled.1), inspected)
    });
    let missing = format!("{}/not-there:1", sides.stack.registry());
    sides.compare(|side| side.outcome(&side.docker(["pull", &missing]).fails()));
    sides.compare(|side| side.outcome(&side.docker(["push", &missing]).fails()));
}

/// `docker COMMAND > FILE`.
fn to_file(side: &Side<'_>, command: &str) -> std::path::PathBuf {
    let to = side.stack.fresh_path("-out.tar");
    let command = format!("docker {command} > {}", text(&to));
    side.stack.run("sh").args(["-c", &command]).env("DOCKER_HOST", &side.host).ok();
    to
}

#[test]
fn save_load_export_import() {
    let sides = BothWays::of(Stack::shared());
    let image = base(sides.stack);
    let saved = sides.compare(|side| {
        let tar = to_file(side, &format!("save {image}"));
        let to = side.stack.fresh_path("-saved");
        fs::create_dir(&to).unwrap();
        Run::new("tar").arg("-C").arg(&to).arg("-xf").arg(&tar).ok();
        tree(&to)
    });
    assert!(saved.contains_key("oci-layout"), "{:?}", saved.keys());
    let tar = to_file(sides.direct(), &format!("save {image}"));
    let (_, stdout, _) = sides.compare(|side| side.outcome(&side.docker(["load", "-i", text(&tar)]).ok()));
    assert!(stdout.contains("Loaded image"), "{stdout}");
    sides.compare(|side| side.outcome(&side.docker(["load"]).stdin("no archive").fails()));
    sides.compare(|side| side.outcome(&side.docker(["save", "not-there"]).fails()));

    let (_, stdout, _) = sides.compare(|side| {
        let container = side.docker(["create", image, "sh"]).ok().stdout.trim().to_owned();
        let tar = to_file(side, &format!("export {container}"));
        side.docker(["rm", &container]).ok();
        let name = side.named("imported");
        let id = side.docker(["import", "-c", "CMD [\"/bin/echo\", \"imported\"]", "-", &name]);
        assert!(id.stdin(fs::read(&tar).unwrap()).ok().stdout.starts_with("sha256:"));
        side.outcome(&side.run(["--rm", &name]).ok())
    });
    assert_eq!(stdout, "imported\n");
    sides.compare(|side| side.outcome(&side.docker(["images", "--format", "{{.Repository}} {{.ID}}", image]).ok()));
    sides.compare(|side| side.outcome(&side.docker(["image", "history", image]).ok()));
}
