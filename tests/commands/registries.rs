//! Images that are copied from and to registries, and into archives.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
};

use crate::common::{Run, Stack, file_of, text, until};
use crate::fixture::{Image, Layer};
use crate::{archive, image, layout, linkspan, listed, named};

/// A registry of a test's own.
struct Registry {
    child: Child,
    address: String,
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Registry {
    /// One that lets only `user` with the password `secret` in.
    fn locked(stack: &Stack, folder: &Path) -> Self {
        let password = folder.join("htpasswd");
        fs::write(&password, "user:$2b$05$/M1WL7v3Giwzg1RSy4wUfO8krkbaiSCnWZEfwv3IEiuxP2/UFoCR2\n").unwrap();
        Self::start(stack, folder, &format!("auth: {{htpasswd: {{realm: test, path: \"{}\"}}}}\n", text(&password)))
    }

    /// With `more` in its configuration.
    fn start(stack: &Stack, folder: &Path, more: &str) -> Self {
        let (config, log) = (folder.join("registry.yml"), folder.join("log"));
        let yaml = format!(
            "version: 0.1\nstorage: {{filesystem: {{rootdirectory: \"{}/data\"}}, delete: {{enabled: true}}}}\n\
             http: {{addr: \"127.0.0.1:0\"}}\n{more}",
            text(folder)
        );
        fs::write(&config, yaml).unwrap();
        let file = fs::File::create(&log).unwrap();
        let (name, value) = stack.mark();
        let mut command = Command::new("registry");
        command.args(["serve", text(&config)]).env(name, value);
        command.stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file);
        let child = command.spawn().unwrap();
        let address = || {
            let log = file_of(&log);
            let (_, rest) = log.split_once("listening on ")?;
            Some(rest.split([' ', '"', ',']).next()?.to_owned())
        };
        let address = until("the registry to listen", address, Option::is_some).unwrap();
        Self { child, address }
    }
}

fn crane(args: &[&str]) -> Run {
    Run::new("crane").args(args)
}

#[test]
fn an_image_goes_to_a_registry_and_comes_back_and_is_the_same() {
    let stack = Stack::shared();
    let image = image("pushed\n");
    let file = archive(&[(&image, named("docker.io/library/pushed:1"))]);
    let name = format!("{}/linkspan/pushed:1", stack.registry());
    let to = format!("docker://{name}");
    let first = linkspan(["copy", &format!("oci-archive:{}", text(file.path())), &to]).ok();
    assert_eq!(first.stdout, format!("Copied image: {name}\n"));
    assert!(first.stderr.contains("sent 4 blobs"), "{first}");
    assert_eq!(crane(&["digest", &name]).ok().stdout.trim(), image.root.digest.as_str());
    // Another tag of the same: blobs are there, and only the manifest goes.
    let again = linkspan([
        "copy",
        &format!("oci-archive:{}", text(file.path())),
        &format!("docker://{}/linkspan/pushed:2", stack.registry()),
    ])
    .ok();
    assert!(again.stderr.contains("sent 1 blob ") && again.stderr.contains("3 were there"), "{again}");

    let docker = ["--docker-host", stack.docker_host()];
    linkspan(["copy", &to, "docker-daemon:from-registry:1"]).args(docker).ok();
    let output = stack.run_image("from-registry:1", &["cat", "/etc/greeting"]).ok().stdout;
    assert_eq!(output, "pushed\n");
    let folder = tempfile::tempdir().unwrap();
    let oci = format!("oci:{}", text(folder.path()));
    linkspan(["copy", &to, &oci]).ok();
    assert_eq!(listed(&folder), [(name.clone(), image.root.digest.to_string())]);
    let by_digest = format!("docker://{}/linkspan/pushed@{}", stack.registry(), image.root.digest);
    let back = linkspan(["copy", &by_digest, &format!("{oci}:by-digest:1")]).ok();
    assert!(back.stderr.contains("sent 0 blobs"), "{back}");

    let absent = linkspan(["copy", &format!("docker://{}/linkspan/absent:1", stack.registry()), &oci]).fails();
    assert!(absent.stderr.contains("linkspan/absent:1"), "{absent}");
    assert_eq!(absent.status.code(), Some(1), "{absent}");
}

#[test]
fn one_platform_of_a_registrys_index_is_copied() {
    let stack = Stack::shared();
    let image = image("of one platform\n");
    let file = archive(&[(&image, named("docker.io/library/platform:1"))]);
    let one = format!("{}/linkspan/platform:one", stack.registry());
    linkspan(["copy", &format!("oci-archive:{}", text(file.path())), &format!("docker://{one}")]).ok();
    let index = format!("{}/linkspan/platform:index", stack.registry());
    crane(&["index", "append", "-m", &one, "-t", &index]).ok();
    let folder = tempfile::tempdir().unwrap();
    let copy = |platform: &[&str], name: &str| {
        let to = format!("oci:{}:{name}", text(folder.path()));
        linkspan(["copy", &format!("docker://{index}"), &to]).args(platform.iter().copied()).output()
    };
    assert!(copy(&["--platform", "linux/amd64"], "amd64:1").status.success());
    assert!(copy(&[], "all:1").status.success());
    let refused = copy(&["--platform", "linux/s390x"], "s390x:1");
    assert!(!refused.status.success() && refused.stderr.contains("linux/s390x"), "{refused}");
    let whole = crane(&["digest", &index]).ok().stdout.trim().to_owned();
    let expected = [
        ("docker.io/library/all:1".to_owned(), whole),
        ("docker.io/library/amd64:1".to_owned(), image.root.digest.to_string()),
    ];
    assert_eq!(listed(&folder), expected);
}

#[test]
fn a_part_of_an_index_goes_to_a_registry_as_one_platform_and_comes_from_one() {
    let stack = Stack::shared();
    let (here, other) = (image("here\n"), Image::foreign(&[Layer::new().file("a", "not here").tar()]));
    let index = Image::index(&[here.clone(), other.clone()]);
    let folder = tempfile::tempdir().unwrap();
    layout(&folder.path().join("part"), &[(&index, named("docker.io/library/part:1"))]);
    let from = format!("oci:{}", text(&folder.path().join("part")));
    let registry = Registry::start(stack, folder.path(), "");
    let whole = format!("{}/whole:1", registry.address);
    linkspan(["copy", &from, &format!("docker://{whole}")]).ok();
    assert_eq!(crane(&["digest", &whole]).ok().stdout.trim(), index.root.digest.as_str());

    for digest in [&other.root.digest, &other.config.digest, &other.layers[0].digest] {
        fs::remove_file(folder.path().join("part/blobs/sha256").join(digest.hex())).unwrap();
    }
    let part = format!("{}/part:1", registry.address);
    let copied = linkspan(["copy", &from, &format!("docker://{part}")]).ok();
    assert!(copied.stderr.contains("holds only a part of the image; linux/"), "{copied}");
    assert_eq!(crane(&["digest", &part]).ok().stdout.trim(), here.root.digest.as_str());

    // A registry that has lost an image of an index.
    crane(&["delete", &format!("{}/whole@{}", registry.address, other.root.digest)]).ok();
    let platform = format!("linux/{}", linkspan::image::Platform::host().architecture);
    let to = tempfile::tempdir().unwrap();
    let from = format!("docker://{whole}");
    linkspan(["copy", "--platform", &platform, &from, &format!("oci:{}:one:1", text(to.path()))]).ok();
    assert_eq!(listed(&to), [("docker.io/library/one:1".to_owned(), here.root.digest.to_string())]);
    let absent = linkspan(["copy", &from, &format!("oci:{}:all:1", text(to.path()))]).fails();
    assert!(absent.stderr.contains(&format!("does not hold {}", other.root.digest)), "{absent}");
}

#[test]
fn a_name_with_a_digest_is_that_images_only() {
    let (stack, folder) = (Stack::shared(), tempfile::tempdir().unwrap());
    let image = image("pinned in a registry\n");
    let file = archive(&[(&image, named("docker.io/library/pinned:1"))]);
    let from = format!("oci-archive:{}", text(file.path()));
    let (name, wrong) = (format!("{}/linkspan/pinned", stack.registry()), format!("sha256:{}", "a".repeat(64)));
    let tar = folder.path().join("pinned.tar");
    for to in [format!("docker://{name}:1@{wrong}"), format!("oci-archive:{}:pinned:1@{wrong}", text(&tar))] {
        let refused = linkspan(["copy", &from, &to]).fails();
        assert!(refused.stderr.contains("is that of another image"), "{refused}");
        assert!(refused.stderr.contains("hint: leave the digest out"), "{refused}");
    }
    crane(&["ls", &name]).fails();
    assert!(!tar.exists());
    let right = format!("{name}:1@{}", image.root.digest);
    linkspan(["copy", &from, &format!("docker://{right}")]).ok();
    assert_eq!(crane(&["ls", &name]).ok().stdout, "1\n");
    assert_eq!(crane(&["digest", &right]).ok().stdout.trim(), image.root.digest.as_str());
}

#[test]
fn the_credentials_are_those_of_docker_login() {
    let stack = Stack::shared();
    let folder = tempfile::tempdir().unwrap();
    let registry = Registry::locked(stack, folder.path());
    let image = image("behind a password\n");
    let file = archive(&[(&image, named("docker.io/library/secret:1"))]);
    let (from, to) = (format!("oci-archive:{}", text(file.path())), format!("docker://{}/secret:1", registry.address));
    let configs = ["none", "wrong", "right", "helper"].map(|name| folder.path().join(name));
    for config in &configs {
        fs::create_dir(config).unwrap();
    }
    let login = |password: &str, config: &Path| {
        let auth = Run::new("base64").stdin(format!("user:{password}")).ok().stdout.trim().to_owned();
        let json = serde_json::json!({"auths": {&registry.address: {"auth": auth}}});
        fs::write(config.join("config.json"), json.to_string()).unwrap();
    };
    login("wrong", &configs[1]);
    login("secret", &configs[2]);
    let copy = |config: &Path| linkspan(["copy", &from, &to]).env("DOCKER_CONFIG", config);
    for config in &configs[..2] {
        let refused = copy(config).fails();
        assert!(refused.stderr.contains("docker login"), "{refused}");
        assert!(!refused.stderr.contains("wrong\n"), "no password is shown: {refused}");
    }
    copy(&configs[2]).ok();

    // A helper is a program on PATH that is asked by its standard input.
    let bin = folder.path().join("bin");
    fs::create_dir(&bin).unwrap();
    let helper = bin.join("docker-credential-test");
    fs::write(
        &helper,
        "#!/bin/sh\nread -r server\necho '{\"ServerURL\":\"'$server'\",\"Username\":\"user\",\"Secret\":\"secret\"}'\n",
    )
    .unwrap();
    Run::new("chmod").args(["755", text(&helper)]).ok();
    fs::write(configs[3].join("config.json"), r#"{"credsStore": "test"}"#).unwrap();
    let path = format!("{}:{}", text(&bin), std::env::var("PATH").unwrap());
    let again = copy(&configs[3]).env("PATH", &path).ok();
    assert!(again.stderr.contains("3 were there"), "{again}");

    // Where a helper is named, what the file has beside it counts for nobody, also if the helper has nothing.
    let none = bin.join("docker-credential-none");
    fs::write(&none, "#!/bin/sh\necho credentials not found in native keychain\nexit 1\n").unwrap();
    Run::new("chmod").args(["755", text(&none)]).ok();
    for (password, names, is_right) in [
        ("wrong", serde_json::json!({"credsStore": "test"}), true),
        ("secret", serde_json::json!({"credsStore": "none"}), false),
        ("secret", serde_json::json!({"credsStore": "none", "credHelpers": {&registry.address: ""}}), true),
        ("wrong", serde_json::json!({"credsStore": "none", "credHelpers": {&registry.address: "test"}}), true),
    ] {
        let auth = Run::new("base64").stdin(format!("user:{password}")).ok().stdout.trim().to_owned();
        let mut json = serde_json::json!({"auths": {&registry.address: {"auth": auth}}});
        json.as_object_mut().unwrap().extend(names.as_object().unwrap().clone());
        fs::write(configs[3].join("config.json"), json.to_string()).unwrap();
        let name = format!("{}/secret:1", registry.address);
        for run in [linkspan(["copy", &from, &to]), crane(&["digest", &name]), stack.docker(["pull", &name])] {
            let run = run.env("DOCKER_CONFIG", &configs[3]).env("PATH", &path);
            if is_right {
                run.ok()
            } else {
                run.fails()
            };
        }
    }
    stack.docker(["rmi", &format!("{}/secret:1", registry.address)]).ok();
}

#[test]
fn archives_are_copied_into_and_read_by_others() {
    let stack = Stack::shared();
    let image = image("in an archive\n");
    let file = archive(&[(&image, named("docker.io/library/archived:1"))]);
    let from = format!("oci-archive:{}", text(file.path()));
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| text(&folder.path().join(name)).to_owned();
    linkspan(["copy", &from, &format!("docker-archive:{}:renamed:2", path("docker.tar"))]).ok();
    let loaded = stack.docker(["load", "-i", &path("docker.tar")]).ok().stdout;
    assert_eq!(loaded, "Loaded image: renamed:2\n");
    linkspan(["copy", &from, &format!("oci-archive:{}", path("oci.tar"))]).ok();
    let seen = Run::new("skopeo")
        .args(["inspect", "--format", "{{.Digest}}", &format!("oci-archive:{}", path("oci.tar"))])
        .ok();
    assert_eq!(seen.stdout.trim(), image.root.digest.as_str());
    let oci = format!("oci:{}", path("layout"));
    linkspan(["copy", &format!("docker-archive:{}:renamed:2", path("docker.tar")), &oci]).ok();
    let other = linkspan(["copy", &format!("docker-archive:{}:other:1", path("docker.tar")), &oci]).fails();
    assert!(other.stderr.contains("the archive has no image `other:1`"), "{other}");
}
