//! A containerd in a user namespace marks opaque folders in another way, and maps ids: it unpacks by itself.

use std::fs;

use crate::common::{Part, Stack, file_of, until};
use crate::fixture::Image;
use crate::log;
use crate::trees::{Members, ROOT, compare_images};

/// Runs containerd in a user namespace once ids are mapped in it: program, configuration, file for its process id, file that
/// says when.
const RUN: &str = r#"exec unshare --user --mount sh -c '
    echo $$ > "$2"; until [ -e "$3" ]; do sleep 0.05; done; exec "$0" --config "$1"' "$0" "$@""#;

#[tokio::test(flavor = "multi_thread")]
async fn a_containerd_in_a_user_namespace_unpacks() {
    log::listen();
    let stack = Stack::start(&[Part::Containerd]);
    stack.kill(Part::Containerd);
    let (pid, mapped) = (stack.fresh_path(".pid"), stack.fresh_path(".mapped"));
    let run = stack.run("sh").args(["-c", RUN]).arg(stack.program("containerd"));
    let running = run.arg(stack.state().join("containerd.toml")).arg(&pid).arg(&mapped).spawn();
    until("its process", || fs::read_to_string(&pid).unwrap_or_default(), |pid| pid.ends_with('\n'));
    for map in ["uid_map", "gid_map"] {
        // All but the last ids, because a map of all of them counts as none (containerd `core/mount`, `userns`).
        fs::write(format!("/proc/{}/{map}", file_of(&pid).trim()), "0 0 1000000").unwrap();
    }
    fs::write(&mapped, "").unwrap();
    until(
        "containerd to respond",
        || stack.run("ctr").args(["version"]).output().status.success(),
        |responds| *responds,
    );
    let one = Members::at(5).folder("usr/", 0o750, (1, 2)).file("usr/gone").file("gone").folder("tmp/", 0o1777, ROOT);
    let two = Members::at(5).file("usr/.wh..wh..opq").file("usr/new").file(".wh.gone").file("tmp/file");
    let image = Image::new(&[one.finish(), two.finish()]);
    let tree = compare_images(&stack, "rootless", &image).await.unwrap();
    // It unpacks through a mount, in which whiteouts remove files.
    for path in ["1/gone", "1/usr/gone"] {
        assert!(tree[path].starts_with("20000 0:0 ") && tree[path].contains(" device 0 "), "{path}: {}", tree[path]);
    }
    for (path, expected) in [("1/usr", "40750 1:2 0 now"), ("1/tmp", "41777 0:0 0 now")] {
        assert!(tree[path].starts_with(expected), "{path}: {}", tree[path]);
    }
    let reasons = log::all_left().unwrap();
    assert!(reasons.lines().any(|reason| reason.contains("user namespace")), "{reasons}");
    running.signal(rustix::process::Signal::KILL);
    running.wait();
}
