//! A dockerd without root: in a user namespace that rootlesskit makes for an ordinary user, whose own everything in it is.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use linkspan::engine::EngineKind;
use linkspan::engine::select::{Selection, select};
use rustix::process::{Pid, Signal, kill_process};

use crate::common::{Context, Run, Stack, file_of, linkspan, test_folder, text, unix, until};
use crate::fixture::{Image, Layer, export, names};
use crate::relay::Relay;

/// Nobody, who has ids to map only where this dockerd runs.
const USER: u32 = 65534;
const IDS: &str = "65534:2000000:65536\n";

/// What the user runs, which is below folders that only root may enter.
const PROGRAMS: [&str; 5] = ["dockerd", "containerd", "containerd-shim-runc-v2", "runc", "rootlesskit"];

/// Runs dockerd as rootlesskit's documentation has it, without a network. $1 is the folder, then come programs. The shell stays
/// the first process of its namespace: when it ends, so does all that it started.
const RUN: &str = r#"set -eu
root=$1; shift
mount --make-rprivate /
mount --bind "$root/ids" /etc/subuid
mount --bind "$root/ids" /etc/subgid
mount -t proc proc /proc
for program; do
    touch "$root/bin/${program##*/}"
    mount --bind "$program" "$root/bin/${program##*/}"
done
export PATH="$root/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" HOME="$root/home" XDG_RUNTIME_DIR="$root/run"
setpriv --reuid=65534 --regid=65534 --clear-groups \
    rootlesskit --state-dir="$root/run/kit" --net=none --copy-up=/etc --copy-up=/run --propagation=rprivate \
    sh -c 'rm -f /run/docker /run/containerd; exec dockerd "$@"' dockerd --rootless \
    --iptables=false --ip6tables=false --bridge=none --userland-proxy=false --data-root "$root/home/data" \
    --exec-root "$root/run/docker" --pidfile "$root/run/docker.pid" -H "unix://$root/run/docker.sock" &
wait $!
"#;

/// A rootless dockerd, ended when dropped, and its user.
struct Rootless {
    child: Child,
    folder: tempfile::TempDir,
}

impl Rootless {
    fn start(stack: &Stack) -> Self {
        // Not in the folder of the stack: the path of containerd's socket, which is below it, must be short.
        let folder = tempfile::tempdir_in(test_folder()).unwrap();
        // Folders of tests are their user's own.
        for folder in folder.path().ancestors().skip(1) {
            let mode = fs::metadata(folder).unwrap().mode();
            if mode & 0o001 == 0 {
                fs::set_permissions(folder, Permissions::from_mode(mode | 0o011)).unwrap();
            }
        }
        let path = |name: &str| folder.path().join(name);
        fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
        fs::write(path("ids"), IDS).unwrap();
        for name in ["bin", "run", "home"] {
            fs::create_dir(path(name)).unwrap();
        }
        for name in ["run", "home"] {
            chown(path(name), Some(USER), Some(USER)).unwrap();
        }
        fs::set_permissions(path("run"), Permissions::from_mode(0o700)).unwrap();
        let built = env!("CARGO_BIN_EXE_linkspan");
        fs::hard_link(built, path("linkspan")).or_else(|_| fs::copy(built, path("linkspan")).map(drop)).unwrap();
        let log = File::create(path("log")).unwrap();
        let (mark, value) = stack.mark();
        let child = Command::new("unshare")
            .args(["--mount", "--pid", "--fork", "--kill-child", "sh", "-c", RUN, "sh", text(folder.path())])
            .args(PROGRAMS.map(|name| stack.program(name)))
            .env(mark, value)
            .env_remove("DOCKER_HOST")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut dockerd = Self { child, folder };
        let look = |dockerd: &mut Self| {
            let responds = stack.docker(["version"]).env("DOCKER_HOST", dockerd.address()).output().status.success();
            (dockerd.child.try_wait().unwrap().is_some(), responds)
        };
        let (ended, _) = until("dockerd to respond", || look(&mut dockerd), |(ended, ok)| *ended || *ok);
        assert!(!ended, "dockerd ended:\n{}", file_of(dockerd.path("log")));
        dockerd
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn address(&self) -> String {
        unix(&self.path("run/docker.sock"))
    }

    /// `linkspan ARGS` as the user.
    fn linkspan<'s>(&self, args: impl IntoIterator<Item = &'s str>) -> Run {
        let ids = ["--reuid=65534", "--regid=65534", "--clear-groups"];
        let run = Run::new("setpriv").args(ids).arg(self.path("linkspan")).args(args).dir("/");
        let run = run.env("HOME", self.path("home")).env("XDG_RUNTIME_DIR", self.path("run"));
        let run = run.without_env("XDG_STATE_HOME").env("DOCKER_HOST", self.address());
        ["CONTAINERD_ADDRESS", "LINKSPAN_TO", "LINKSPAN_LAYOUT"].iter().fold(run, |run, name| run.without_env(name))
    }
}

impl Drop for Rootless {
    fn drop(&mut self) {
        // With the first process of the namespace all of them end, and are waited for.
        let pid = self.child.id();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        for child in children.split_whitespace().filter_map(|child| Pid::from_raw(child.parse().ok()?)) {
            // Already gone is as good.
            let _ = kill_process(child, Signal::KILL);
        }
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- rootless dockerd's log\n{}", file_of(self.path("log")));
        }
    }
}

/// A layout of the user's with `image`.
async fn layout(folder: &Path, image: &Image, name: &str) {
    let selection =
        Selection { kind: Some(EngineKind::Layout), layout: Some(folder.to_owned()), ..Selection::default() };
    export(&*select(&selection).await.unwrap().engine, image, &names(&[name])).await.unwrap();
    Run::new("chown").args(["-R", "65534:65534"]).arg(folder).ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dockerd_without_root_is_used_by_its_user() {
    let stack = Stack::shared();
    let dockerd = Rootless::start(stack);
    let docker = |args: &[&str]| stack.docker(args.iter().copied()).env("DOCKER_HOST", dockerd.address());
    let image = Image::new(&[Layer::busybox().tar(), Layer::new().file("etc/greeting", "hello rootless\n").tar()]);
    let folder = dockerd.path("home/layout");
    layout(&folder, &image, "rootless:1").await;
    let runs = || {
        let run = ["run", "--rm", "--network", "host", "--pull", "never", "rootless:1", "cat", "/etc/greeting"];
        assert_eq!(docker(&run).ok().stdout, "hello rootless\n");
    };

    // Its containerd is the user's own, too, and unpacks.
    let loaded = dockerd.linkspan(["load", text(&folder)]).ok();
    assert!(loaded.stderr.contains("2 layers unpacked"), "{loaded}");
    runs();
    let about = dockerd.linkspan(["doctor"]).output();
    let said = about.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
    for words in ["engine docker ", "proven to use the containerd at", "run/docker/containerd/containerd.sock"] {
        assert!(said.contains(words), "not said: {words}\n{about}");
    }
    let inspected = dockerd.linkspan(["inspect", "rootless:1"]).ok();
    assert!(inspected.stdout.contains(image.root.digest.as_str()), "{inspected}");
    let archive = dockerd.path("home/saved.tar");
    dockerd.linkspan(["save", "-o", text(&archive), "rootless:1"]).ok();

    // By its API alone.
    dockerd.linkspan(["rm", "rootless:1"]).ok();
    dockerd.linkspan(["load", "--engine", "docker-api", text(&folder)]).ok();
    runs();
    let listed = dockerd.linkspan(["images", "--engine", "docker-api", "--json"]).ok();
    assert!(listed.stdout.contains(image.root.digest.as_str()), "{listed}");
    let copied = format!("oci:{}", text(&dockerd.path("home/copied")));
    dockerd.linkspan(["copy", "docker-daemon:rootless:1", &copied]).ok();

    // Builds and loads, through the doors of the user's daemon.
    let (docker_door, build_door) = (dockerd.path("run/door.sock"), dockerd.path("run/build.sock"));
    let builder = Relay::at(dockerd.path("builder.sock"), stack.buildkit_host());
    chown(dockerd.path("builder.sock"), Some(USER), Some(USER)).unwrap();
    let doors = [unix(&docker_door), builder.address(), unix(&build_door)];
    let serve = ["serve", "--docker-listen", &doors[0], "--builder", &doors[1], "--buildkit-listen", &doors[2]];
    let daemon = dockerd.linkspan(serve).spawn();
    let is_open = |log: &String| ["docker door for", "buildkit door for"].iter().all(|door| log.contains(door));
    until("the daemon to listen", || daemon.stderr(), is_open);
    let context = Context::new("FROM scratch\nCOPY data /data\n").noise("data", 1_000_000, 61);
    let built = stack.builder(&doors[2]).build(context.path(), ["--load", "-t", "rootless-built:1"]).ok();
    assert!(built.stderr.contains("importing to docker"), "{built}");
    docker(&["image", "inspect", "rootless-built:1"]).ok();
    docker(&["load", "-i", text(&archive)]).env("DOCKER_HOST", &doors[0]).ok();
    let log = until("the load to be logged", || daemon.stderr(), |log| log.contains("spared_blobs=4"));
    assert!(log.contains("containerd is in another user namespace"), "{log}");
    daemon.signal(Signal::TERM);
    assert!(daemon.wait().status.success());

    // Root may use it as well.
    let by_root = linkspan(["images", "--docker-host", &dockerd.address(), "--quiet"]).ok();
    assert!(by_root.lines().len() >= 2, "{by_root}");
}
