//! Outputs that are not ours arrive as they are, alone and beside a `--load`.

use std::{collections::BTreeMap, fmt::Debug, fs, path::Path};

use serde_json::Value;

use crate::{
    both_ways::{BothWays, Side, forget_the_moment, metadata, tree},
    common::{Context, Linkspan, Run, Stack, text},
};

fn context(theme: &str) -> Context {
    Context::new("FROM scratch\nCOPY a /folder/a\nCOPY big /big\n").file("a", theme).noise("big", 300_000, 11)
}

/// Builds with `-o OUTPUT` and, when `load`, with `--load` beside it. Returns the
/// builder's response and whether the engine has got the image as well.
#[track_caller]
fn build(side: &Side<'_>, theme: &str, output: &str, load: bool) -> (Value, bool) {
    let context = context(theme);
    // The same on both sides, because some outputs contain it; it is removed again below.
    let tag = format!("{}:1", theme.replace(' ', "-"));
    let json = side.stack.fresh_path(".json");
    // Provenance, a default of some exporters, contains the moment of the build.
    let mut args = vec!["--provenance=false", "-o", output, "--metadata-file", text(&json)];
    if load {
        args.extend(["--load", "-t", &tag]);
    }
    side.builder.build(context.path(), args).ok();
    let mut metadata = metadata(&json);
    let image = side.stack.tagged("moby", &tag);
    if let Some(image) = &image {
        assert_eq!(metadata["containerimage.digest"], **image);
        side.stack.docker(["image", "rm", &tag]).ok();
    }
    let metadata = metadata.as_object_mut().unwrap();
    metadata.remove("image.name");
    // The one addition of a door: each exporter's own response, beside the merged one.
    let results = metadata.remove("exporter.results");
    if load && side.name == "through" && image.is_some() {
        let results = results.unwrap_or_else(|| panic!("no results of each exporter in {metadata:?}"));
        let ids: Vec<_> = results.as_array().unwrap().iter().map(|result| result["id"].clone()).collect();
        assert_eq!(ids, [0, 1]);
        let digest = &results[1]["response"]["containerimage.digest"];
        assert_eq!(*digest, image.clone().unwrap(), "{results}");
    }
    (Value::Object(metadata.clone()), image.is_some())
}

/// Compares what lands at `dest`, as `look` sees it, alone and beside a `--load`.
#[track_caller]
fn compare<T: PartialEq + Debug>(theme: &str, output: &str, loads: bool, look: impl Fn(&Path) -> T) {
    let sides = BothWays::of(Stack::shared());
    for load in [false, true] {
        let ((_, loaded), _) = sides.compare(|side| {
            let dest = side.stack.fresh_path("-out");
            let metadata = build(side, theme, &format!("{output},dest={}", dest.display()), load);
            (metadata, look(&dest))
        });
        assert_eq!(loaded, load && loads);
    }
}

/// The files of a tar.
fn unpacked(tar: &Path) -> BTreeMap<String, String> {
    let folder = tar.with_extension("unpacked");
    fs::create_dir(&folder).unwrap();
    Run::new("tar").arg("-C").arg(&folder).arg("-xf").arg(tar).ok();
    layout(&folder)
}

/// The files of a folder; its index, if it has one, without the time when it was written.
fn layout(folder: &Path) -> BTreeMap<String, String> {
    let mut files = tree(folder);
    if let Some(index) = files.get_mut("index.json") {
        let mut value = serde_json::from_str(index).unwrap();
        forget_the_moment(&mut value);
        *index = value.to_string();
    }
    files
}

#[test]
fn docker_archive() {
    // buildx takes `--load` for meant by the output of type docker: nothing is loaded.
    compare("docker archive", "type=docker,name=archive:1", false, unpacked);
}

#[test]
fn oci_archive() {
    compare("oci archive", "type=oci,name=archive:1", true, unpacked);
}

#[test]
fn oci_layout_folder() {
    compare("oci layout", "type=oci,tar=false,name=archive:1", true, layout);
}

#[test]
fn local_folder() {
    compare("local", "type=local", true, tree);
}

#[test]
fn root_file_system_as_tar() {
    compare("tar", "type=tar", true, unpacked);
}

#[test]
fn a_tar_on_standard_output() {
    let sides = BothWays::of(Stack::shared());
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
    let sides = BothWays::of(stack);
    let (metadata, pushed) = sides.compare(|side| {
        let name = format!("{}/pushed-{}:1", stack.registry(), side.name);
        let (metadata, _) = build(side, "pushed", &format!("type=image,name={name},push=true"), false);
        (metadata, stack.run("crane").args(["digest", &name]).ok().stdout)
    });
    assert_eq!(metadata["containerimage.digest"], pushed.trim_end());
}

#[test]
fn push_and_load_together() {
    let stack = Stack::shared();
    let sides = BothWays::of(stack);
    let context = context("together");
    sides.compare(|side| {
        let name = format!("{}/together-{}:1", stack.registry(), side.name);
        let json = stack.fresh_path(".json");
        let files = ["--metadata-file", text(&json)];
        let output = side.builder.build(context.path(), ["--push", "--load", "-t", &name]).args(files).ok();
        side.check_way(&output);
        // By default an image that is pushed carries provenance and one that is loaded does not.
        let loaded = stack.image(&name);
        let index: Value = serde_json::from_str(&stack.run("crane").args(["manifest", &name]).ok().stdout).unwrap();
        let [image, attestation] = index["manifests"].as_array().unwrap().as_slice() else { panic!("{index}") };
        assert_eq!(image["digest"].as_str(), loaded.as_deref());
        assert_eq!(attestation["annotations"]["vnd.docker.reference.type"], "attestation-manifest");
        let metadata = metadata(&json);
        let pushed = stack.run("crane").args(["digest", &name]).ok().stdout;
        // Which of the two results the merged response names is the builder's choice, and must stay so.
        let named = if metadata["containerimage.digest"] == pushed.trim_end() { "pushed" } else { "loaded" };
        (loaded, named, metadata["containerimage.descriptor"]["mediaType"].clone())
    });
}

#[test]
fn nothing_exported_at_all() {
    let sides = BothWays::of(Stack::shared());
    let context = context("cache only");
    sides.compare(|side| {
        let json = side.stack.fresh_path(".json");
        let output = side.builder.build(context.path(), ["-o", "type=cacheonly", "--metadata-file", text(&json)]).ok();
        (metadata(&json), output.stdout)
    });
}

#[test]
fn a_direct_export_that_is_requested() {
    let stack = Stack::shared();
    let sides = BothWays::of(stack);
    let context = context("explicit");
    let expected = sides.direct().load(&context, "explicit", &[]);
    let side = sides.through();
    let tag = side.tag("explicit");
    let named = format!("type=linkspan,name={tag}");
    // buildx gives its tags to exporters that it knows, so the name is said here.
    let output = side.builder.build(context.path(), ["-o", &named]).ok();
    side.check_way(&output);
    assert_eq!(side.digest(&tag), expected);
    // Without a door nobody knows it.
    let output = sides.direct().builder.build(context.path(), ["-o", &named]).fails();
    assert!(output.stderr.contains("linkspan"), "{output}");
}

#[test]
fn plain_exporters_are_loads_where_it_is_configured_so_and_then_write_no_file() {
    let stack = Stack::shared();
    let engine = stack.docker_flags();
    let usual = Linkspan::start(stack, &engine, &[stack.buildkit_host()]);
    let loads = Linkspan::start(stack, &[&engine[..], &["--plain-is-load"]].concat(), &[stack.buildkit_host()]);
    for kind in ["oci", "docker"] {
        let context = context(&format!("plain {kind}"));
        let build = |linkspan: &Linkspan, tag: &str, file: &Path| {
            let output = format!("type={kind},name={tag},dest={}", file.display());
            stack.builder(&linkspan.address()).build(context.path(), ["-o", &output]).ok().stderr
        };
        let (tag, file) = (format!("plain-{kind}:1"), stack.fresh_path(".tar"));
        let shown = build(&usual, &tag, &file);
        assert!(file.exists(), "{shown}");
        assert_eq!(stack.tagged("moby", &tag), None);
        // A client whose loads are marked means a file by a plain `oci`; `docker` is never marked.
        assert_eq!(shown.contains("linkspan: this goes as an archive"), kind == "docker", "{shown}");

        let nothing = stack.fresh_path(".tar");
        let shown = build(&loads, &tag, &nothing);
        assert!(
            shown.contains("importing to docker") && shown.contains("a file that dest= names is not written"),
            "{shown}"
        );
        assert!(!nothing.exists(), "{shown}");
        let loaded = stack.tagged("moby", &tag).expect("the image");
        let archived = Run::new("tar").arg("-xOf").arg(&file).arg("index.json").ok().stdout;
        assert!(archived.contains(&*loaded), "the same image as in the file: {archived} {loaded:?}");
    }
}
