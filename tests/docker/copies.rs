//! `docker cp`, both ways.

use std::fs;

use crate::{
    both_ways::{BothWays, Container, base, tree},
    common::{Context, Run, Stack, text},
};

#[test]
fn folders_there_and_back() {
    let sides = BothWays::of(Stack::shared());
    let image = base(sides.stack);
    let context = Context::new("not a build").files("many", 300).noise("large", 20 << 20, 1).file("empty", "");
    std::os::unix::fs::symlink("large", context.path().join("link")).unwrap();
    let back = sides.compare(|side| {
        let name = side.named("copied");
        let _container = Container(side.stack, name.clone());
        side.docker(["create", "--name", &name, image, "sh"]).ok();
        let (there, to) = (format!("{name}:/there"), side.stack.fresh_path("-copy"));
        let outputs = [
            side.docker(["cp", "--quiet", text(context.path()), &there]).ok(),
            side.docker(["cp", "--quiet", &there, text(&to)]).ok(),
            side.docker(["cp", &format!("{name}:/not-there"), text(&to)]).fails(),
            side.docker(["cp", text(context.path()), &format!("{name}:/not/there/either")]).fails(),
        ];
        // A goroutine of the client logs that nobody reads what it packs: never, before the error or after it, as the
        // race goes.
        let logged = |line: &&str| line.starts_with("time=");
        let error = |(code, stdout, stderr): (Option<i32>, String, String)| {
            (code, stdout, stderr.lines().filter(|line| !logged(line)).map(str::to_owned).collect::<Vec<_>>())
        };
        assert!(tree(&to) == tree(context.path()), "{}: the copy differs", side.name);
        outputs.map(|output| error(side.outcome(&output)))
    });
    assert_eq!(back[2].0, Some(1));
}

#[test]
fn archives_on_standard_input_and_output() {
    let sides = BothWays::of(Stack::shared());
    let image = base(sides.stack);
    let context = Context::new("not a build").noise("file", 3 << 20, 2);
    let tar = sides.stack.fresh_path(".tar");
    Run::new("tar").arg("-C").arg(context.path()).arg("-cf").arg(&tar).arg("file").ok();
    sides.compare(|side| {
        let name = side.named("archived");
        let _container = Container(side.stack, name.clone());
        side.docker(["create", "--name", &name, image, "sh"]).ok();
        side.docker(["cp", "-", &format!("{name}:/")]).stdin(fs::read(&tar).unwrap()).ok();
        let out = side.stack.fresh_path("-out.tar");
        // Standard output of a shell, because it is not text.
        let command = format!("docker cp {name}:/file - > {}", text(&out));
        side.stack.run("sh").args(["-c", &command]).env("DOCKER_HOST", &side.host).ok();
        let to = side.stack.fresh_path("-untarred");
        fs::create_dir(&to).unwrap();
        Run::new("tar").arg("-C").arg(&to).arg("-xf").arg(&out).ok();
        assert!(tree(&to)["file"] == fs::read(context.path().join("file")).unwrap());
        side.outcome(&side.docker(["cp", "-", &format!("{name}:/")]).stdin("no archive").fails())
    });
}
