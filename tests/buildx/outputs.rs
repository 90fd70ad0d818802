//! Outputs that are not ours arrive as they are, alone and beside a `--load`.

use std::{fs, path::Path};

use serde_json::Value;

use crate::{
    common::{Context, Run, Stack, text},
    sides::{Side, Sides, metadata, tree},
};

fn context(theme: &str) -> Context {
    Context::new("FROM scratch\nCOPY a /folder/a\nCOPY big /big\n").file("a", theme).noise("big", 300_000, 11)
}

/// Builds with `-o OUTPUT` and, when `load`, with `--load` beside it, which must arrive as well.
#[track_caller]
fn build(side: &Side<'_>, context: &Context, output: &str, load: bool) -> Value {
    let tag = side.tag("beside");
    let json = side.stack.fresh_path(".json");
    let mut args = vec!["-o", output, "--metadata-file", text(&json)];
    if load {
        args.extend(["--load", "-t", &tag]);
    }
    let built = side.builder.build(context.path(), args).ok();
    let mut answer = metadata(&json);
    if load {
        let image = side.digest(&tag);
        assert_eq!(answer["containerimage.digest"], image, "{built}");
        side.stack.docker(["image", "rm", &tag]).ok();
    }
    answer.as_object_mut().unwrap().remove("image.name");
    answer
}

/// Compares what lands at `dest`, as `look` sees it, alone and beside a `--load`.
#[track_caller]
fn compare<T: PartialEq + std::fmt::Debug>(theme: &str, output: &str, look: impl Fn(&Path) -> T) {
    let sides = Sides::of(Stack::shared());
    let context = context(theme);
    for load in [false, true] {
        sides.compare(|side| {
            let dest = side.stack.fresh_path("-out");
            let answer = build(side, &context, &format!("{output},dest={}", dest.display()), load);
            (answer, look(&dest))
        });
    }
}

/// An image in a tar, without the times in tar headers.
fn unpacked(tar: &Path) -> std::collections::BTreeMap<String, Vec<u8>> {
    let folder = tar.with_extension("unpacked");
    fs::create_dir(&folder).unwrap();
    Run::new("tar").arg("-C").arg(&folder).arg("-xf").arg(tar).ok();
    let mut files = tree(&folder);
    // The index says when it was written.
    let index = files.get_mut("index.json").map(std::mem::take);
    if let Some(index) = index {
        let mut value = serde_json::from_slice(&index).unwrap();
        crate::sides::forget_the_moment(&mut value);
        files.insert("index.json".into(), value.to_string().into_bytes());
    }
    files
}

#[test]
fn docker_archive() {
    compare("docker archive", "type=docker,name=archive:1", unpacked);
}

#[test]
fn oci_archive() {
    compare("oci archive", "type=oci,name=archive:1", unpacked);
}

#[test]
fn oci_layout_folder() {
    compare("oci layout", "type=oci,tar=false,name=archive:1", |folder| {
        let mut files = tree(folder);
        files.remove("index.json");
        files.remove("ingest");
        files
    });
}

#[test]
fn local_folder() {
    compare("local", "type=local", tree);
}

#[test]
fn root_file_system_as_tar() {
    compare("tar", "type=tar", unpacked);
}

#[test]
fn a_tar_on_standard_output() {
    let sides = Sides::of(Stack::shared());
    let context = Context::new("FROM scratch\nCOPY a /a\n").file("a", "plain text in a tar");
    sides.compare(|side| {
        let output = side.builder.build(context.path(), ["-o", "-"]).ok();
        assert!(output.stdout.contains("plain text in a tar"), "{output}");
        output.stdout
    });
}

#[test]
fn an_image_pushed_to_a_registry() {
    let stack = Stack::shared();
    let sides = Sides::of(stack);
    let context = context("pushed");
    for load in [false, true] {
        let pushed = sides.compare(|side| {
            let name = format!("{}/pushed-{}:1", stack.registry(), side.name);
            let answer = build(side, &context, &format!("type=image,name={name},push=true"), load);
            (answer, stack.run("crane").args(["digest", &name]).ok().stdout)
        });
        assert_eq!(pushed.0["containerimage.digest"], pushed.1.trim_end());
    }
}

#[test]
fn push_and_load_by_their_flags() {
    let stack = Stack::shared();
    let sides = Sides::of(stack);
    let context = context("flags");
    sides.compare(|side| {
        let name = format!("{}/flags-{}:1", stack.registry(), side.name);
        side.builder.build(context.path(), ["--push", "--load", "-t", &name]).ok();
        let pushed = stack.run("crane").args(["digest", &name]).ok().stdout;
        assert_eq!(stack.image(&name).as_deref(), Some(pushed.trim_end()));
        pushed
    });
}

#[test]
fn nothing_exported_at_all() {
    let sides = Sides::of(Stack::shared());
    let context = context("cache only");
    sides.compare(|side| {
        let json = side.stack.fresh_path(".json");
        let output = side.builder.build(context.path(), ["-o", "type=cacheonly", "--metadata-file", text(&json)]).ok();
        (metadata(&json), output.stdout)
    });
}

#[test]
fn a_direct_export_that_is_asked_for() {
    let stack = Stack::shared();
    let sides = Sides::of(stack);
    let context = context("explicit");
    let expected = sides.direct().load(&context, "explicit", &[]);
    let side = sides.through();
    let tag = side.tag("explicit");
    let named = format!("type=linkspan,name={tag}");
    for args in [&["-o", &named][..], &["-o", "type=linkspan", "-t", &tag]] {
        let output = side.builder.build(context.path(), args.iter().copied()).ok();
        side.check_way(&output);
        assert_eq!(side.digest(&tag), expected);
        stack.docker(["image", "rm", &tag]).ok();
    }
    // Without a door nobody knows it.
    let output = sides.direct().builder.build(context.path(), ["-o", &named]).fails();
    assert!(output.stderr.contains("linkspan"), "{output}");
}
