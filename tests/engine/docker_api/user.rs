//! An ordinary user who may use dockerd's socket, and nothing of containerd.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};

use rustix::process::Signal;

use crate::common::{Run, Stack, linkspan, unix, until};
use crate::fixture::{Image, Layer, docker, export, names};
use crate::relay::Relay;

/// Nobody, and a group that only the socket has.
const USER: u32 = 65534;
const GROUP: u32 = 64999;

/// A folder that any user may enter, with the program, and a socket of dockerd's for the group.
struct Place {
    folder: tempfile::TempDir,
    relay: Relay,
}

impl Place {
    fn new(stack: &Stack) -> Self {
        let folder = tempfile::tempdir_in("/tmp").unwrap();
        fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
        fs::copy(env!("CARGO_BIN_EXE_linkspan"), folder.path().join("linkspan")).unwrap();
        let socket = folder.path().join("docker.sock");
        let relay = Relay::at(socket.clone(), stack.docker_host());
        chown(&socket, Some(0), Some(GROUP)).unwrap();
        fs::set_permissions(&socket, Permissions::from_mode(0o660)).unwrap();
        let home = folder.path().join("home");
        fs::create_dir(&home).unwrap();
        chown(&home, Some(USER), Some(USER)).unwrap();
        Self { folder, relay }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// `linkspan ARGS` as the user, with the group or without it.
    fn linkspan<'s>(&self, group: u32, args: impl IntoIterator<Item = &'s str>) -> Run {
        let ids = [format!("--reuid={USER}"), format!("--regid={group}"), "--clear-groups".to_owned()];
        let run = Run::new("setpriv").args(ids).arg(self.path("linkspan")).args(args).dir("/");
        let run = run.env("HOME", self.path("home")).without_env("XDG_STATE_HOME");
        ["DOCKER_HOST", "CONTAINERD_ADDRESS", "LINKSPAN_TO", "LINKSPAN_LAYOUT"]
            .iter()
            .fold(run, |run, name| run.without_env(name))
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_of_the_group_has_images_without_root() {
    let stack = Stack::shared();
    let place = Place::new(stack);
    let image = Image::new(&[Layer::busybox().tar(), Layer::new().file("etc/greeting", "hello user\n").tar()]);
    export(&*docker(stack).await, &image, &names(&["api-user:1"])).await.unwrap();
    let host = place.relay.address();

    // What is saved has the same digests as what root would save.
    let archive = place.path("home/saved.tar");
    let args = ["save", "--docker-host", &host, "-o", text(&archive), "api-user:1"];
    place.linkspan(GROUP, args).ok();
    stack.docker(["rmi", "api-user:1"]).ok();
    place.linkspan(GROUP, ["load", "--docker-host", &host, text(&archive)]).ok();
    assert_eq!(stack.tagged("moby", "api-user:1"), Some(image.root.digest.to_string()));
    assert_eq!(stack.run_image("api-user:1", &["cat", "/etc/greeting"]).ok().stdout, "hello user\n");

    let listed = place.linkspan(GROUP, ["images", "--docker-host", &host, "--json"]).ok().stdout;
    assert!(listed.contains("api-user:1") && listed.contains(image.root.digest.as_str()), "{listed}");
    let inspected = place.linkspan(GROUP, ["inspect", "--docker-host", &host, "api-user:1"]).ok().stdout;
    assert!(inspected.contains(image.config.digest.as_str()), "{inspected}");
    let layout = place.path("home/layout");
    let to = format!("oci:{}", text(&layout));
    place.linkspan(GROUP, ["copy", "--docker-host", &host, "docker-daemon:api-user:1", &to]).ok();
    place.linkspan(GROUP, ["rm", "--docker-host", &host, "api-user:1"]).ok();
    assert_eq!(stack.tagged("moby", "api-user:1"), None);

    // As root, the same commands take the engine `docker`.
    let asked = ["doctor", "--docker-host", &host];
    let by_user = place.linkspan(GROUP, asked).output();
    let said = by_user.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
    for words in
        ["engine docker-api", "no permission to use containerd at", "one after the other", ".local/state/linkspan"]
    {
        assert!(said.contains(words), "not said: {words}\n{by_user}");
    }
    let by_root = linkspan(asked).output().stdout;
    let by_root = by_root.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(by_root.contains("engine docker 29"), "{by_root}");

    let door = place.path("home/export.sock");
    let serve = ["serve", "--docker-host", &host, "--export-listen", &unix(&door)].map(str::to_owned);
    let daemon = place.linkspan(GROUP, serve.iter().map(String::as_str)).spawn();
    let log = until("the daemon to listen", || daemon.stderr(), |log| log.contains("export door listening"));
    assert!(log.contains("engine docker-api") && log.contains("no permission to use containerd at"), "{log}");
    place.linkspan(GROUP, ["load", "--to", &unix(&door), text(&archive)]).ok();
    assert_eq!(stack.tagged("moby", "api-user:1"), Some(image.root.digest.to_string()));
    let spool = fs::metadata(place.path("home/.local/state/linkspan/cache")).unwrap();
    assert_eq!(spool.permissions().mode() & 0o777, 0o700);
    daemon.signal(Signal::TERM);
    assert!(daemon.wait().status.success());

    let refused = place.linkspan(USER, ["images", "--docker-host", &host]).fails();
    assert!(refused.stderr.contains("no permission to use docker") && refused.stderr.contains("group"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_spool_is_for_its_user_alone() {
    let stack = Stack::shared();
    let spool = stack.fresh_path("-spool");
    let mode = || fs::metadata(&spool).unwrap().permissions().mode() & 0o777;
    let open = |mode| fs::set_permissions(&spool, Permissions::from_mode(mode)).unwrap();
    let images = || {
        let to = ["--engine", "docker-api", "--docker-host", stack.docker_host(), "--cache-dir", text(&spool)];
        linkspan(["images", "--quiet"]).args(to)
    };
    // Nothing is made by looking, and a folder that may be anything stays as it is.
    images().ok();
    assert!(!spool.exists());
    fs::create_dir(&spool).unwrap();
    open(0o755);
    images().ok();
    assert_eq!(mode(), 0o755);

    // One that an earlier release has used.
    fs::create_dir(spool.join(".linkspan")).unwrap();
    images().ok();
    assert_eq!(mode(), 0o700);
    chown(&spool, Some(USER), None).unwrap();
    open(0o775);
    let refused = images().fails();
    assert!(refused.stderr.contains("belongs to the user 65534") && refused.stderr.contains("mode 775"), "{refused}");
    open(0o755);
    images().ok();
    assert_eq!(mode(), 0o755, "it is that user's");
}
