//! `linkspan save`, read back by everybody who takes archives.

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::common::{Context, Linkspan, Run, Stack, text, until};
use crate::fixture::{Image, Layer};
use crate::{archive, image, layout, linkspan, listed, named, on};

/// A layout that holds `image` under `name`.
fn holding(name: &str, image: &Image) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    layout(folder.path(), &[(image, named(name))]);
    folder
}

/// What a folder holds, hidden files too.
fn files(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn docker_containerd_skopeo_and_crane_read_it() {
    let stack = Stack::shared();
    let image = image("saved\n");
    let from = holding("docker.io/library/saved-by-us:1", &image);
    let out = tempfile::tempdir().unwrap();
    for format in ["docker", "oci"] {
        let file = out.path().join(format);
        let output = on(&from, &["save", "-o", text(&file), "--format", format, "saved-by-us:1"]).ok();
        assert_eq!(output.stdout, "");
        assert!(output.stderr.contains("Saved image: saved-by-us:1"), "{output}");

        stack.docker(["load", "-i", text(&file)]).ok();
        let run = stack.run_image("saved-by-us:1", &["cat", "/etc/greeting"]);
        assert_eq!(run.ok().stdout, "saved\n", "{format}");
        assert_eq!(stack.tagged("moby", "saved-by-us:1"), Some(image.root.digest.to_string()));
        stack.docker(["rmi", "-f", "saved-by-us:1"]).ok();

        let namespace = format!("saved-{format}");
        stack.ctr(&namespace, ["image", "import", text(&file)]).ok();
        let expected = ("docker.io/library/saved-by-us:1".to_owned(), image.root.digest.to_string());
        assert_eq!(stack.images(&namespace), [expected]);

        let raw = Run::new("skopeo").args(["inspect", "--raw", &format!("oci-archive:{}", text(&file))]).ok().stdout;
        assert_eq!(raw.as_bytes(), &image.blobs[&image.root.digest][..]);
    }
    let file = out.path().join("docker");
    stack.run("crane").args(["validate", "--tarball", text(&file)]).ok();
    let from = format!("docker-archive:{}:docker.io/library/saved-by-us:1", text(&file));
    let config = Run::new("skopeo").args(["inspect", "--config", "--raw", &from]).ok().stdout;
    assert_eq!(config.as_bytes(), &image.blobs[&image.config.digest][..]);
    let pushed = format!("{}/saved-by-us:1", stack.registry());
    stack.run("crane").args(["push", "--insecure", text(&file), &pushed]).ok();
    let config = stack.run("crane").args(["config", "--insecure", &pushed]).ok().stdout;
    assert_eq!(config.trim().as_bytes(), &image.blobs[&image.config.digest][..]);
    // The classic store reads manifest.json alone.
    let classic = Stack::classic();
    classic.docker_classic(["load", "-i", text(&file)]).ok();
    let run = classic.run_classic_image("saved-by-us:1", &["cat", "/etc/greeting"]);
    assert_eq!(run.ok().stdout, "saved\n");
}

#[test]
fn an_image_goes_round_through_every_engine_and_comes_back_the_same() {
    let stack = Stack::shared();
    let image = image("round\n");
    let first = holding("docker.io/library/round:1", &image);
    let door = Linkspan::export(stack, &stack.containerd_flags("round-door"), &[], stack.fresh_path("-round.sock"));
    let to = door.address();
    let docker = stack.docker_flags();
    let containerd = stack.containerd_flags("round");
    let last = tempfile::tempdir().unwrap();
    let layouts = [&first, &last].map(|folder| ["--engine", "layout", "--layout", text(folder.path())]);
    let way: [&[&str]; 5] = [&layouts[0], &docker, &containerd, &["--to", &to], &layouts[1]];
    let out = tempfile::tempdir().unwrap();
    let mut archives = Vec::new();
    for (at, pair) in way.windows(2).enumerate() {
        let file = out.path().join(at.to_string());
        linkspan(["save", "-q", "-o", text(&file), "round:1"]).args(pair[0]).ok();
        linkspan(["load", "-q", "-i", text(&file)]).args(pair[1]).ok();
        archives.push(fs::read(&file).unwrap());
    }
    assert_eq!(listed(&last), [("docker.io/library/round:1".to_owned(), image.root.digest.to_string())]);
    assert!(archives.iter().all(|archive| *archive == archives[0]), "the same image makes the same bytes");
}

#[test]
fn several_images_share_their_blobs() {
    let (one, two) = (image("one\n"), image("two\n"));
    let from = tempfile::tempdir().unwrap();
    let names = ["docker.io/library/one:1", "example.com/one:2", "docker.io/library/two:1"];
    layout(from.path(), &[(&one, named(names[0])), (&one, named(names[1])), (&two, named(names[2]))]);
    let out = tempfile::tempdir().unwrap();
    let file = out.path().join("three.tar");
    let args = ["save", "--json", "-o", text(&file), "one:1", "two:1", "example.com/one:2", "one:1"];
    let lines = on(&from, &args).ok().lines();
    let reports: Vec<Value> = lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(reports[0]["names"], serde_json::json!([names[0], names[1]]));
    assert_eq!(reports[1]["digest"], two.root.digest.as_str());
    let members = Run::new("tar").args(["-tf", text(&file)]).ok().lines();
    // The folders are there, too, as BuildKit and containerd write them.
    assert_eq!(members.iter().filter(|member| member.ends_with('/')).collect::<Vec<_>>(), ["blobs/", "blobs/sha256/"]);
    let is_blob = |member: &&String| member.starts_with("blobs/sha256/") && !member.ends_with('/');
    let blobs: Vec<_> = members.iter().filter(is_blob).collect();
    assert_eq!(blobs.len(), 7, "the layer of busybox is there once: {members:?}");
    let to = tempfile::tempdir().unwrap();
    on(&to, &["load", "-i", text(&file)]).ok();
    assert_eq!(listed(&to).len(), 3);
    // By the digest there is no name, and through a pipe it is the same archive.
    let digest = &two.root.digest.hex()[..12];
    let script = format!(
        "{0} save --engine layout --layout {1} {digest} | {0} load --engine layout --layout {2}",
        env!("CARGO_BIN_EXE_linkspan"),
        text(from.path()),
        text(&out.path().join("layout"))
    );
    let piped = Run::new("sh").args(["-c", &script]).ok();
    assert_eq!(piped.stdout, format!("Loaded image ID: {}\n", two.root.digest));
}

#[test]
fn an_index_is_saved_whole_or_for_a_platform_and_partly_where_only_a_part_is_there() {
    let here = image("here\n");
    let elsewhere = Image::foreign(&[Layer::new().file("a", "elsewhere").tar()]);
    let index = Image::index(&[here.clone(), elsewhere.clone()]);
    let from = holding("docker.io/library/many:1", &index);
    let out = tempfile::tempdir().unwrap();
    let file = out.path().join("a.tar");
    let back = |args: &[&str]| {
        let output = on(&from, &["save", "-o", text(&file), "many:1"]).args(args).ok();
        let to = tempfile::tempdir().unwrap();
        on(&to, &["load", "-i", text(&file)]).ok();
        (listed(&to)[0].1.clone(), output.stderr)
    };
    assert_eq!(back(&[]).0, index.root.digest.to_string());
    let manifest = Run::new("tar").args(["-xOf", text(&file), "manifest.json"]).ok().stdout;
    assert!(manifest.contains(here.config.digest.hex()) && !manifest.contains(elsewhere.config.digest.hex()));
    assert_eq!(back(&["--platform", "linux/s390x"]).0, elsewhere.root.digest.to_string());
    let absent = on(&from, &["save", "--platform", "linux/riscv64", "many:1"]).fails();
    assert!(absent.stderr.contains("no image for linux/riscv64; it holds linux/amd64, linux/s390x"), "{absent}");

    // As docker and containerd hold what they pulled.
    for digest in [&elsewhere.root.digest, &elsewhere.config.digest, &elsewhere.layers[0].digest] {
        fs::remove_file(from.path().join("blobs/sha256").join(digest.hex())).unwrap();
    }
    let notes = back(&[]).1;
    assert!(notes.contains("holds only a part of `many:1`; linux/amd64 is saved"), "{notes}");
    let saved = Run::new("tar").args(["-xOf", text(&file), "index.json"]).ok().stdout;
    assert!(saved.contains(index.root.digest.as_str()), "the index keeps its digest: {saved}");
    let members = Run::new("tar").args(["-tf", text(&file)]).ok().stdout;
    assert!(members.contains(here.root.digest.hex()) && !members.contains(elsewhere.root.digest.hex()), "{members}");
    let (digest, notes) = back(&["--one-platform"]);
    assert_eq!((digest, notes.contains("only a part")), (here.root.digest.to_string(), false));
    let to = tempfile::tempdir().unwrap();
    let place = format!("oci:{}", text(to.path()));
    let copied = on(&from, &["copy", "many:1", &place]).ok();
    assert!(copied.stderr.contains("linux/amd64 is copied"), "{copied}");
    assert_eq!(listed(&to)[0].1, index.root.digest.to_string());
    let again = on(&from, &["copy", "many:1", &place]).ok();
    assert!(again.stderr.contains("sent 0 blobs"), "{again}");
    on(&from, &["copy", "--one-platform", "many:1", &place]).ok();
    assert_eq!(listed(&to)[0].1, here.root.digest.to_string());
    // Nothing of it is complete.
    fs::remove_file(from.path().join("blobs/sha256").join(here.layers[0].digest.hex())).unwrap();
    for args in [&["save", "-o", text(&file), "many:1"][..], &["copy", "many:1", &place]] {
        let refused = on(&from, args).fails();
        assert!(refused.stderr.contains("it holds none that is complete"), "{refused}");
    }
}

#[test]
fn what_docker_pulled_for_one_platform_is_shown_and_saved() {
    let stack = Stack::shared();
    let context = Context::new("FROM scratch\nCOPY a /a\n").file("a", "pulled");
    let name = format!("{}/pulled:1", stack.registry());
    let builder = stack.builder(stack.buildkit_host());
    let output = format!("type=image,name={name},push=true");
    builder.build(context.path(), ["-o", &output, "--platform", "linux/amd64,linux/arm64"]).ok();
    stack.docker(["pull", &name]).ok();
    let docker = stack.docker_flags();
    let shown = |args: &[&str]| linkspan(args.iter().copied()).args(docker);
    let inspected: Value = serde_json::from_str(&shown(&["inspect", &name]).ok().stdout).unwrap();
    let complete: Vec<_> = inspected["images"].as_array().unwrap().iter().map(|image| &image["complete"]).collect();
    assert_eq!(complete.len(), 2, "{inspected}");
    assert_ne!(complete[0], complete[1], "{inspected}");
    let listed: Value = serde_json::from_str(&shown(&["images", "--json", &name]).ok().stdout).unwrap();
    assert!(listed["size"].as_u64().unwrap() > 0 && listed["created"].is_string(), "{listed}");
    shown(&["config", &name]).ok();
    let absent = inspected["images"].as_array().unwrap().iter().find(|image| image["complete"] == false).unwrap();
    let failed = shown(&["config", "--platform", absent["platformName"].as_str().unwrap(), &name]).fails();
    assert!(failed.stderr.contains(absent["digest"].as_str().unwrap()), "{failed}");
    let out = tempfile::tempdir().unwrap();
    let file = out.path().join("pulled.tar");
    let theirs = out.path().join("theirs.tar");
    stack.docker(["save", "-o", text(&theirs), &name]).ok();
    let saved = linkspan(["save", "-o", text(&file), &name]).args(docker).ok();
    assert!(saved.stderr.contains("docker holds only a part"), "{saved}");
    let blobs = |file: &Path| {
        let members = Run::new("tar").args(["-tf", text(file)]).ok().lines();
        let mut blobs: Vec<_> = members.into_iter().filter(|name| name.starts_with("blobs/sha256/")).collect();
        blobs.retain(|name| !name.ends_with('/'));
        blobs.sort();
        blobs
    };
    assert_eq!(blobs(&file), blobs(&theirs), "the same blobs");
    let digest = stack.image(&name).unwrap();
    let by_digest = format!("{}@{digest}", name.rsplit_once(':').unwrap().0);
    let namespace = "pulled-copy";
    let to = format!("containerd:{namespace}");
    let flags = ["--docker-host", stack.docker_host(), "--containerd-address", stack.containerd_address()];
    linkspan(["copy", &format!("docker-daemon:{name}"), &to]).args(flags).ok();
    assert_eq!(stack.images(namespace)[0].1, digest, "a copy keeps the index, too");
    let one = out.path().join("one.tar");
    linkspan(["save", "--one-platform", "-o", text(&one), &name]).args(docker).ok();
    stack.docker(["rmi", "-f", &name]).ok();
    stack.docker(["load", "-i", text(&file)]).ok();
    assert_eq!(stack.image(&name), Some(digest.clone()), "docker load");
    stack.docker(["image", "inspect", &by_digest]).ok();
    // containerd without and, of the platform alone, with `--all-platforms`, as kind imports.
    stack.ctr("pulled-ctr", ["image", "import", text(&file)]).ok();
    assert_eq!(stack.images("pulled-ctr"), [(name.clone(), digest.clone())]);
    stack.ctr("pulled-kind", ["image", "import", "--all-platforms", "--digests", text(&one)]).ok();
    assert!(stack.images("pulled-kind").iter().any(|(found, _)| *found == name));
    Run::new("skopeo").args(["inspect", "--config", &format!("oci-archive:{}", text(&file))]).ok();
    let pushed = format!("{}/pulled-again:1", stack.registry());
    stack.run("crane").args(["push", "--insecure", text(&file), &pushed]).ok();
}

#[test]
fn nothing_half_written_is_ever_seen() {
    let image = image("whole or not at all\n");
    let from = holding("docker.io/library/half:1", &image);
    let out = tempfile::tempdir().unwrap();
    let file = out.path().join("a.tar");
    on(&from, &["save", "-o", text(&file), "half:1"]).ok();
    let whole = fs::read(&file).unwrap();
    // One that is not there, beside one that is.
    on(&from, &["save", "-o", text(&file), "half:1", "absent:1"]).fails();
    // A layer that ends early, which only reading it shows.
    let layer = from.path().join("blobs/sha256").join(image.layers[0].digest.hex());
    let bytes = fs::read(&layer).unwrap();
    fs::remove_file(&layer).unwrap();
    let failed = on(&from, &["save", "-o", text(&file), "half:1"]).fails();
    assert!(failed.stderr.contains(image.layers[0].digest.as_str()), "{failed}");
    assert_eq!((fs::read(&file).unwrap() == whole, files(out.path()).len()), (true, 1), "what was there stays");
    fs::write(&layer, bytes).unwrap();

    // Ended while it is written.
    let (stopped, large) = (out.path().join("b.tar"), Image::new(&[Layer::new().file("a", vec![3; 64 << 20]).tar()]));
    let from = holding("docker.io/library/large:1", &large);
    let saving = on(&from, &["save", "-o", text(&stopped), "large:1"]).spawn();
    until("the file to grow", || files(out.path()).len(), |files| *files > 1);
    saving.signal(Signal::TERM);
    let ended = saving.wait();
    assert_eq!(ended.status.success(), stopped.exists(), "{ended}");
    let hidden = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().starts_with('.');
    assert!(!files(out.path()).iter().any(hidden), "{:?}", files(out.path()));

    // What went into a pipe cannot be taken back. The pipe is full, for only its first byte is read.
    let mut saving = Command::new(env!("CARGO_BIN_EXE_linkspan"))
        .args(["save", "--layout", text(from.path()), "large:1"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    saving.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    rustix::process::kill_process(rustix::process::Pid::from_child(&saving), Signal::TERM).unwrap();
    let ended = saving.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(ended.status.code() == Some(143) && stderr.contains("is not complete"), "{stderr}");
}

#[test]
fn files_links_devices_and_folders() {
    let image = image("places\n");
    let from = holding("docker.io/library/places:1", &image);
    let out = tempfile::tempdir().unwrap();
    let (real, link) = (out.path().join("real.tar"), out.path().join("link.tar"));
    fs::write(&real, "old").unwrap();
    symlink("real.tar", &link).unwrap();
    on(&from, &["save", "-o", text(&link), "places:1"]).ok();
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink() && real.metadata().unwrap().len() > 1 << 20);
    let relative = on(&from, &["save", "-q", "-o", "here.tar", "places:1"]).dir(out.path()).ok();
    assert_eq!(relative.stderr, "");
    assert_eq!(fs::read(out.path().join("here.tar")).unwrap(), fs::read(&real).unwrap());
    on(&from, &["save", "-o", "/dev/null", "places:1"]).ok();
    let folder = on(&from, &["save", "-o", text(out.path()), "places:1"]).fails();
    assert!(folder.stderr.contains("is a folder") && folder.stderr.contains("oci:DIR"), "{folder}");
    let nowhere = on(&from, &["save", "-o", "/no/such/folder/a.tar", "places:1"]).fails();
    assert!(
        nowhere.stderr.contains("/no/such/folder/a.tar") && nowhere.stderr.contains("create its folder"),
        "{nowhere}"
    );
    let full = on(&from, &["save", "-o", "/dev/full", "places:1"]).fails();
    assert!(full.stderr.contains("/dev/full cannot be written: No space left"), "{full}");
    let mixed = on(&from, &["save", "--json", "places:1"]).fails();
    assert!(mixed.stderr.contains("cannot both be on standard output"), "{mixed}");
    assert_eq!(on(&from, &["save"]).output().status.code(), Some(2), "no image is named");
    // What an archive is made of can itself come from one.
    let file = archive(&[(&image, named("docker.io/library/places:1"))]);
    let again = tempfile::tempdir().unwrap();
    on(&again, &["load", "-q", "-i", text(file.path())]).ok();
    on(&again, &["save", "-q", "-o", text(&link), "places:1"]).ok();
    assert_eq!(fs::read(&real).unwrap(), fs::read(out.path().join("here.tar")).unwrap());
}

#[test]
fn what_replaces_a_file_is_for_those_who_could_read_that() {
    let from = holding("docker.io/library/private:1", &image("private\n"));
    let out = tempfile::tempdir().unwrap();
    let file = out.path().join("private.tar");
    fs::write(&file, "before").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    std::os::unix::fs::chown(&file, Some(65534), Some(65534)).unwrap();
    on(&from, &["save", "-o", text(&file), "private:1"]).ok();
    let after = fs::metadata(&file).unwrap();
    assert_eq!((after.mode() & 0o7777, after.uid(), after.gid()), (0o640, 65534, 65534));
    assert!(after.len() > 1024);
}
