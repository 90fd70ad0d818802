//! The same commands on docker and containerd.

use crate::common::{Linkspan, Stack, text};
use crate::{archive, image, linkspan, named};

#[test]
fn docker_and_we_list_the_same() {
    let stack = Stack::shared();
    let image = image("listed by both\n");
    let file = archive(&[(&image, named("docker.io/library/listed-by-both:1"))]);
    let docker = stack.docker_flags();
    let first = linkspan(["load", "-i", text(file.path())]).args(docker).ok();
    assert_eq!(first.stdout, "Loaded image: listed-by-both:1\n");
    assert!(first.stderr.contains("unpacked"), "{first}");
    let format = ["--format", "{{.Repository}} {{.Tag}} {{.Digest}}", "--digests", "listed-by-both"];
    let theirs = stack.docker(["images"]).args(format).ok().stdout;
    let ours = linkspan(["images", "--json", "listed-by-both"]).args(docker).ok().stdout;
    let ours: serde_json::Value = serde_json::from_str(&ours).unwrap();
    let [repository, tag, digest] = ["repository", "tag", "digest"].map(|key| ours[key].as_str().unwrap());
    assert_eq!(theirs.trim(), format!("{repository} {tag} {digest}"));

    let again = linkspan(["load", "-i", text(file.path())]).args(docker).ok();
    assert!(again.stderr.contains("sent 0 blobs (0B); 4 were there"), "{again}");
}

#[test]
fn a_namespace_of_containerd_is_loaded_into() {
    let stack = Stack::shared();
    let image = image("for containerd\n");
    let file = archive(&[(&image, named("docker.io/library/in-containerd:1"))]);
    let containerd = stack.containerd_flags("commands");
    linkspan(["load", "-i", text(file.path())]).args(containerd).ok();
    let expected = ("docker.io/library/in-containerd:1".to_owned(), image.root.digest.to_string());
    assert_eq!(stack.images("commands"), [expected]);
    let manifest = linkspan(["manifest", "in-containerd:1"]).args(containerd).ok().stdout;
    assert_eq!(manifest.as_bytes(), image.blobs[&image.root.digest]);
    assert_eq!(stack.ctr("commands", ["leases", "list", "--quiet"]).ok().stdout, "", "no lease is left");
}

#[test]
fn images_are_copied_from_place_to_place() {
    let stack = Stack::shared();
    let image = image("copied\n");
    let file = archive(&[(&image, named("docker.io/library/copied:1"))]);
    let flags = ["--docker-host", stack.docker_host(), "--containerd-address", stack.containerd_address()];
    let copy = |from: &str, to: &str| {
        let docker = if [from, to].iter().any(|place| place.starts_with("docker-daemon")) { &flags[..2] } else { &[] };
        let containerd = if [from, to].iter().any(|place| place.starts_with("containerd")) { &flags[2..] } else { &[] };
        linkspan(["copy", from, to]).args(docker).args(containerd).ok()
    };
    let folder = tempfile::tempdir().unwrap();
    let oci = format!("oci:{}", text(folder.path()));
    let first = copy(&format!("oci-archive:{}", text(file.path())), &oci);
    assert_eq!(first.stdout, "Copied image: copied:1\n");
    assert!(first.stderr.contains("sent 4 blobs"), "{first}");
    copy(&oci, "containerd:copies/example.com/copied:2");
    assert_eq!(stack.images("copies"), [("example.com/copied:2".to_owned(), image.root.digest.to_string())]);
    copy(&format!("{oci}:copied:1"), "docker-daemon:");
    let output = stack.run_image("copied:1", &["cat", "/etc/greeting"]).ok().stdout;
    assert_eq!(output, "copied\n");
    let back = copy("docker-daemon:copied:1", &format!("{oci}:copied:3"));
    assert!(back.stderr.contains("sent 0 blobs"), "{back}");
    let names: Vec<_> = crate::listed(&folder).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["docker.io/library/copied:1", "docker.io/library/copied:3"]);

    copy(&format!("{oci}:copied:1"), &format!("{oci}:copied:4"));
    let unnamed = linkspan(["copy", &oci, "containerd:copies"]).args(&flags[2..]).fails();
    assert!(unnamed.stderr.contains("has 3 images, and none was named"), "{unnamed}");
    let other = linkspan(["copy", "ostree:alpine", &oci]).output();
    assert_eq!(other.status.code(), Some(2), "{other}");
}

#[test]
fn a_docker_host_that_is_our_own_door_leads_to_its_engine() {
    let stack = Stack::shared();
    let daemon = Linkspan::docker_door(stack);
    let door = daemon.address();
    let image = image("behind a door\n");
    let file = archive(&[(&image, named("docker.io/library/behind-a-door:1"))]);
    // As in the shell of somebody whose docker uses the door; dockerd is not at its usual socket.
    let run = |args: &[&str]| {
        linkspan(args.iter().copied()).env("DOCKER_HOST", &door).env("LINKSPAN_DOCKER_LISTEN", &door).ok()
    };
    run(&["load", "-i", text(file.path())]);
    let expected = image.root.digest.to_string();
    assert_eq!(run(&["digest", "behind-a-door:1"]).stdout.trim(), expected);
    assert_eq!(stack.image("docker.io/library/behind-a-door:1"), Some(expected));
    run(&["cache", "ls"]);

    // A door of another kind is named, where that of the exporter API is expected.
    let wrong = linkspan(["load", "-i", text(file.path()), "--to", &door]).fails();
    let expected = format!("linkspan: error: {door} is Linkspan's docker door, and not that of the exporter API");
    assert!(wrong.stderr.contains(&expected) && wrong.stderr.contains("hint: start `linkspan serve`"), "{wrong}");

    // Closed: the docker at the usual socket may be another one.
    drop(daemon);
    let run = linkspan(["images"]).env("DOCKER_HOST", &door).env("LINKSPAN_DOCKER_LISTEN", &door);
    let closed = run.fails();
    let expected = format!("nobody listens at {door}, Linkspan's own docker door, to which DOCKER_HOST leads\n");
    assert!(closed.stderr.contains(&expected) && closed.stderr.contains("`--docker-host unix://"), "{closed}");
    let named = linkspan(["digest", "behind-a-door:1"]).env("DOCKER_HOST", &door).env("LINKSPAN_DOCKER_LISTEN", &door);
    named.args(stack.docker_flags()).ok();
}

#[test]
fn what_is_absent_is_named_with_what_to_do() {
    let file = archive(&[(&image("absent\n"), named("docker.io/library/absent:1"))]);
    let namespace = linkspan(["images", "--namespace", "k8s.io"]).args(Stack::shared().docker_flags()).fails();
    assert!(namespace.stderr.contains("hint: with `--engine containerd` any namespace"), "{namespace}");
    let no_folder = linkspan(["copy", "oci:/no/such/folder", &format!("oci-archive:{}", text(file.path()))]).fails();
    assert!(no_folder.stderr.contains("there is no layout at /no/such/folder"), "{no_folder}");
    assert!(no_folder.stderr.contains("hint: name the folder of a layout: `oci:DIR[:NAME]`"), "{no_folder}");
    let no_layout = linkspan(["cache", "ls", "--layout", "/no/such/folder"]).fails();
    assert!(no_layout.stderr.contains("there is no layout at /no/such/folder"), "{no_layout}");
    let registry = Stack::shared().registry();
    let name = format!("docker://{registry}/none:1");
    let no_image = linkspan(["copy", &name, &format!("oci-archive:{}", text(file.path()))]).fails();
    assert!(no_image.stderr.contains(&format!("the registry has no image {registry}/none:1")), "{no_image}");
}
