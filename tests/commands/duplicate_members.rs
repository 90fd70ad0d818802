//! Archives with several files of one name, as `tar -r` makes them, and with something behind their end: `linkspan load`
//! makes of them what dockerd makes of them.

use std::fs;
use std::path::Path;

use serde_json::json;
use tempfile::TempDir;

use crate::common::{Run, Stack, text};
use crate::fixture::Image;
use crate::{archive, image, layout, linkspan, listed, named, on};

/// Appends what `folder` holds.
fn append(file: &Path, folder: &Path, names: &[&str]) {
    Run::new("tar").arg("-C").arg(folder).arg("-rf").arg(file).args(names.iter().copied()).ok();
}

/// What `docker load` makes of `file`, and what ours does: the id behind `name` each.
fn ids(stack: &Stack, file: &Path, name: &str) -> (String, String) {
    let id = || stack.docker(["image", "inspect", "--format", "{{.Id}}", name]).ok().stdout;
    stack.docker(["load", "-i", text(file)]).ok();
    let docker = id();
    stack.docker(["rmi", "-f", name]).ok();
    linkspan(["load", "--engine", "docker", "--docker-host", stack.docker_host(), "-i", text(file)]).ok();
    let ours = id();
    stack.docker(["rmi", "-f", name]).ok();
    (docker, ours)
}

#[test]
fn the_last_index_of_a_layout_counts() {
    let stack = Stack::shared();
    let (one, two) = (image("one\n"), image("two\n"));
    for prefix in ["", "./"] {
        let file = archive(&[(&one, named("docker.io/library/twice:1"))]);
        let more = tempfile::tempdir().unwrap();
        layout(more.path(), &[(&two, named("docker.io/library/twice:1"))]);
        // With every blob of it, the shared ones a second time.
        append(file.path(), more.path(), &[&format!("{prefix}blobs"), &format!("{prefix}index.json")]);
        let (docker, ours) = ids(stack, file.path(), "twice:1");
        assert_eq!((docker.trim(), ours.trim()), (two.root.digest.as_str(), two.root.digest.as_str()));
        for piped in [false, true] {
            let folder = tempfile::tempdir().unwrap();
            let load = on(&folder, &["load", "-i", if piped { "-" } else { text(file.path()) }]);
            if piped {
                load.stdin(fs::read(file.path()).unwrap()).ok()
            } else {
                load.ok()
            };
            assert_eq!(listed(&folder), [("docker.io/library/twice:1".to_owned(), two.root.digest.to_string())]);
        }
    }
}

/// `image` as a docker archive of `tag` in a folder: `manifest.json`, `NAME.json`, `NAME-0.tar`, ….
pub(crate) fn docker_folder(folder: &Path, image: &Image, name: &str, tag: &str) {
    let blob = |digest: &linkspan::image::Digest| image.blobs.iter().find(|(found, _)| **found == *digest).unwrap().1;
    let mut layers = Vec::new();
    for (number, layer) in image.layers.iter().enumerate() {
        layers.push(format!("{name}-{number}.tar"));
        fs::write(folder.join(&layers[number]), blob(&layer.digest)).unwrap();
    }
    let config = format!("{name}.json");
    fs::write(folder.join(&config), blob(&image.config.digest)).unwrap();
    let list = json!([{"Config": config, "RepoTags": [tag], "Layers": layers}]);
    fs::write(folder.join("manifest.json"), list.to_string()).unwrap();
}

#[test]
fn the_last_list_of_a_docker_archive_counts_and_links_go_before_files() {
    let stack = Stack::shared();
    let (one, two) = (image("docker one\n"), image("docker two\n"));
    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    docker_folder(first.path(), &one, "one", "twice:docker");
    docker_folder(second.path(), &two, "two", "twice:docker");
    let file = first.path().join("all.tar");
    let all = |folder: &TempDir, flag: &str, sort: &str| {
        let script = format!("ls | grep -v all.tar | sort {sort} | tar {flag} {} -T -", text(&file));
        Run::new("sh").args(["-c", &format!("cd {} && {script}", text(folder.path()))]).ok();
    };
    all(&first, "-cf", "");
    all(&second, "-rf", "-r");
    // Something behind the value, which Go's decoder does not look at.
    let list = fs::read_to_string(second.path().join("manifest.json")).unwrap();
    fs::write(second.path().join("manifest.json"), list + "\nand more").unwrap();
    append(&file, second.path(), &["./manifest.json"]);
    let (docker, ours) = ids(stack, &file, "twice:docker");
    assert_eq!(docker, ours);
    let two_alone = second.path().join("two.tar");
    Run::new("tar")
        .args(["-C", text(second.path()), "-cf", text(&two_alone)])
        .args(["manifest.json", "two.json", "two-0.tar", "two-1.tar"])
        .ok();
    assert_eq!(ids(stack, &two_alone, "twice:docker").0, docker, "it is the second");

    // A link in the place of a file, before that file and after it.
    let links = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink("one-1.tar", links.path().join("two-1.tar")).unwrap();
    let mut config: serde_json::Value =
        serde_json::from_slice(&fs::read(second.path().join("two.json")).unwrap()).unwrap();
    let other: serde_json::Value = serde_json::from_slice(&fs::read(first.path().join("one.json")).unwrap()).unwrap();
    config["rootfs"] = other["rootfs"].clone();
    fs::write(second.path().join("two.json"), config.to_string()).unwrap();
    append(&file, links.path(), &["two-1.tar"]);
    append(&file, second.path(), &["two.json", "two-1.tar"]);
    let (docker, ours) = ids(stack, &file, "twice:docker");
    assert_eq!(docker, ours);
}

#[test]
fn of_several_blobs_with_one_name_the_one_with_these_bytes_counts() {
    let one = image("a blob twice\n");
    let lie = tempfile::tempdir().unwrap();
    for digest in [&one.layers[1].digest, &one.config.digest] {
        let name = format!("blobs/sha256/{}", digest.hex());
        let length = one.blobs.iter().find(|(found, _)| **found == *digest).unwrap().1.len();
        fs::create_dir_all(lie.path().join("blobs/sha256")).unwrap();
        fs::write(lie.path().join(name), vec![b'x'; length]).unwrap();
    }
    let file = archive(&[(&one, named("docker.io/library/lie:1"))]);
    append(file.path(), lie.path(), &["blobs"]);
    let (docker, ours) = ids(Stack::shared(), file.path(), "lie:1");
    assert_eq!((docker.trim(), ours.trim()), (one.root.digest.as_str(), one.root.digest.as_str()));
    let folder = tempfile::tempdir().unwrap();
    on(&folder, &["load"]).stdin(fs::read(file.path()).unwrap()).ok();
    assert_eq!(listed(&folder)[0].1, one.root.digest.to_string());
}

#[test]
fn what_is_wrong_behind_the_end_is_reported_and_the_image_is_loaded() {
    let one = image("behind the end\n");
    let plain = archive(&[(&one, named("docker.io/library/behind:1"))]);
    for program in ["gzip", "zstd", "xz", "bzip2"] {
        let packed = Run::new("sh").args(["-c", &format!("{program} -c {} | base64 -w0", text(plain.path()))]).ok();
        let script = |more: &str| format!("base64 -d > \"$0\"; {more}");
        for (what, more) in [
            ("zeros", "head -c 700 /dev/zero >> \"$0\""),
            ("a newline", "echo >> \"$0\""),
            ("text", "yes | head -c 3000000 >> \"$0\""),
            ("missing", "truncate -s -4 \"$0\""),
        ] {
            let file = tempfile::NamedTempFile::new().unwrap();
            Run::new("sh").args(["-c", &script(more), text(file.path())]).stdin(packed.stdout.clone()).ok();
            let folder = tempfile::tempdir().unwrap();
            let output = on(&folder, &["load", "-i", text(file.path())]).ok();
            assert_eq!(listed(&folder)[0].1, one.root.digest.to_string(), "{program}, {what}");
            // xz allows zeros, four at a time.
            let is_right = program == "xz" && what == "zeros";
            assert_eq!(
                output.stderr.contains("is complete, but its checksum, or what follows the end"),
                !is_right,
                "{program}, {what}: {output}"
            );
        }
    }
}
