//! `manifest`, `config`, `digest` and `images`, against crane and skopeo.

use serde_json::Value;

use crate::common::{Context, Run, Stack, text};
use crate::{image, layout, on};

#[test]
fn documents_are_printed_as_crane_prints_them() {
    let stack = Stack::shared();
    let builder = stack.builder(stack.buildkit_host());
    let context = Context::new("FROM scratch\nCOPY a /a\n").file("a", "1");
    let from = tempfile::tempdir().unwrap();
    let output = format!("type=oci,tar=false,dest={},name=read:1", text(from.path()));
    let args = ["-o", &output, "--provenance", "mode=min", "--platform", "linux/amd64,linux/arm64"];
    builder.build(context.path(), args).ok();
    let pushed = format!("{}/read:1", stack.registry());
    let copy = ["--insecure-policy", "copy", "--all", "--preserve-digests", "--dest-tls-verify=false"];
    let (of, to) = (format!("oci:{}", text(from.path())), format!("docker://{pushed}"));
    Run::new("skopeo").args(copy).args([&of, &to]).ok();
    let crane = |args: &[&str]| stack.run("crane").args(args).args(["--insecure", &pushed]).ok().stdout;
    let ours = |args: &[&str]| on(&from, args).arg("read:1").ok().stdout;

    assert_eq!(ours(&["manifest"]), crane(&["manifest"]));
    assert_eq!(ours(&["digest"]), crane(&["digest"]));
    for platform in ["linux/amd64", "linux/arm64"] {
        for command in ["manifest", "config", "digest"] {
            let args = [command, "--platform", platform];
            assert_eq!(ours(&args), crane(&args), "{args:?}");
        }
    }
    let digest = crane(&["digest"]).trim().to_owned();
    for reference in [&digest, &digest[7..19], "docker.io/library/read:1"] {
        assert_eq!(on(&from, &["digest", reference]).ok().stdout.trim(), digest);
    }
    let absent = on(&from, &["manifest", "--platform", "linux/riscv64", "read:1"]).fails();
    assert!(absent.stderr.contains("`read:1`: it has no image for linux/riscv64"), "{absent}");
    for reference in ["absent:1", "0000000000"] {
        let absent = on(&from, &["digest", reference]).fails();
        assert!(absent.stderr.contains(&format!("has no image `{reference}`")), "{absent}");
    }
    let wrong = on(&from, &["digest", "NOT A NAME"]).fails();
    assert!(wrong.stderr.contains("invalid image name"), "{wrong}");
}

#[test]
fn skopeo_sees_the_same() {
    let image = image("skopeo\n");
    let from = tempfile::tempdir().unwrap();
    layout(from.path(), &[(&image, crate::named("docker.io/library/skopeo:1"))]);
    let of = format!("oci:{}", text(from.path()));
    let raw = Run::new("skopeo").args(["inspect", "--raw", &of]).ok().stdout;
    assert_eq!(on(&from, &["manifest", "skopeo:1"]).ok().stdout, raw);
    let config = Run::new("skopeo").args(["inspect", "--raw", "--config", &of]).ok().stdout;
    assert_eq!(on(&from, &["config", "skopeo:1"]).ok().stdout, config);
}

#[test]
fn an_image_is_inspected_at_every_level() {
    let stack = Stack::shared();
    let builder = stack.builder(stack.buildkit_host());
    let context = Context::new("FROM scratch\nCOPY a /a\nCOPY b /b\n").file("a", "1").file("b", "2");
    let folder = tempfile::tempdir().unwrap();
    let output = format!(
        "type=oci,tar=false,dest={},name=levels:1,annotation.deep=manifest,annotation-index.high=index",
        text(folder.path())
    );
    let args = ["-o", &output, "--provenance", "mode=min", "--platform", "linux/amd64,linux/arm64"];
    builder.build(context.path(), args).ok();
    let inspected = on(&folder, &["inspect", "levels:1"]).ok().stdout;
    let inspected: Value = serde_json::from_str(&inspected).unwrap();
    let of = format!("oci:{}", text(folder.path()));
    let index: Value = serde_json::from_str(&Run::new("skopeo").args(["inspect", "--raw", &of]).ok().stdout).unwrap();
    assert_eq!(inspected["annotations"], index["annotations"]);
    assert_eq!(inspected["annotations"]["high"], "index");
    let images = inspected["images"].as_array().unwrap();
    assert_eq!(images.len(), 2, "attestations are no images of their own");
    for (image, platform) in images.iter().zip(["linux/amd64", "linux/arm64"]) {
        assert_eq!(image["platformName"], platform);
        assert_eq!(image["annotations"]["deep"], "manifest");
        assert_eq!(image["complete"], true);
        let config = on(&folder, &["config", "--platform", platform, "levels:1"]).ok().stdout;
        let config: Value = serde_json::from_str(&config).unwrap();
        let diff_ids: Vec<_> = image["layers"].as_array().unwrap().iter().map(|layer| &layer["diffId"]).collect();
        assert_eq!(diff_ids, config["rootfs"]["diff_ids"].as_array().unwrap().iter().collect::<Vec<_>>());
        let kind = &image["attestations"][0]["statements"][0]["predicateType"];
        assert!(kind.as_str().unwrap().starts_with("https://slsa.dev/provenance/"), "{kind}");
    }
}

#[test]
fn images_are_listed() {
    let (one, two) = (image("one\n"), image("two\n"));
    let folder = tempfile::tempdir().unwrap();
    let names = ["docker.io/library/one:1", "example.com/team/two:latest"];
    layout(folder.path(), &[(&one, crate::named(names[0])), (&two, crate::named(names[1]))]);
    let table = on(&folder, &["images"]).ok().stdout;
    let lines: Vec<Vec<_>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["REPOSITORY", "TAG", "IMAGE", "ID", "CREATED", "SIZE"]);
    assert_eq!(lines[1][..3], ["one", "1", &one.root.digest.hex()[..12]]);
    assert_eq!(lines[2][..3], ["example.com/team/two", "latest", &two.root.digest.hex()[..12]]);
    let full = on(&folder, &["images", "--digests", "one"]).ok().stdout;
    assert!(full.contains(one.root.digest.as_str()) && !full.contains("two"), "{full}");
    let ids = on(&folder, &["images", "-q"]).ok().stdout;
    assert_eq!(ids.lines().collect::<Vec<_>>(), [&one.root.digest.hex()[..12], &two.root.digest.hex()[..12]]);
    for line in on(&folder, &["images", "--json"]).ok().stdout.lines() {
        let image: Value = serde_json::from_str(line).unwrap();
        assert!(image["size"].as_u64().unwrap() > 1 << 20, "busybox is large: {image}");
    }
    let empty = tempfile::tempdir().unwrap();
    assert_eq!(on(&empty, &["images"]).ok().stdout.lines().count(), 1, "only the heads of the columns");
}
