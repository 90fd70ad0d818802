//! Unpacking in parallel, held against what containerd makes of the same layers one after the other.

use bytes::Bytes;
use linkspan::engine::Storage;

use crate::common::Stack;
use crate::fixture::containerd;
use crate::trees::{Members, ROOT, compare};

const OLD: u64 = 1_000_000_000;
const AHEAD: u64 = 4_102_444_800;

fn base() -> Bytes {
    Members::at(OLD)
        .folder("tmp/", 0o1777, ROOT)
        .folder("root/", 0o700, ROOT)
        .folder("root/.ssh/", 0o700, ROOT)
        .folder("data/", 0o777, ROOT)
        .folder("owned/", 0o755, (1000, 1001))
        .folder("srv/", 0o2775, (0, 50))
        .folder("usr/", 0o755, ROOT)
        .folder("usr/lib/", 0o711, ROOT)
        .link("lib", b'2', "usr/lib")
        .xattr("user.color", "blue")
        .folder("colored/", 0o755, ROOT)
        .xattr("user.color", "red")
        .folder("late/", 0o700, (7, 7))
        .folder("opaque/", 0o750, ROOT)
        .file("opaque/hidden")
        .folder("emptied/", 0o770, (3, 4))
        .file("emptied/hidden")
        .folder("gone/", 0o700, ROOT)
        .folder("removed/", 0o700, ROOT)
        .folder("linked/", 0o701, ROOT)
        .file("filed/x")
        .finish()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_described_folder_is_as_it_is_described_however_far_its_time_is_ahead() {
    let engine = containerd(Stack::shared(), "described").await;
    assert!(matches!(engine.identity().storage, Storage::Containerd { parallel_unpack: true, .. }));
    for (name, time) in [("ahead", AHEAD), ("epoch", 0), ("old", OLD)] {
        let upper =
            Members::at(time).folder("data/", 0o755, ROOT).file("data/x").folder("owned/", 0o755, ROOT).finish();
        let found = compare(&format!("described-{name}"), &[base(), upper]).await;
        assert!(found["1/data"].starts_with("40755 0:0"), "{name}: {}", found["1/data"]);
        assert!(found["1/owned"].starts_with("40755 0:0"), "{name}: {}", found["1/owned"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn folders_without_an_entry_are_as_containerd_makes_them() {
    let second = Members::at(AHEAD)
        .file("tmp/a")
        .file("root/deep/er/b")
        .file("root/.ssh/keys")
        .file("owned/x")
        .file("srv/new/deep/x")
        .file("lib/plugin/x")
        .file("colored/x")
        .file("late/x")
        .folder("late/", 0o755, ROOT)
        .file("opaque/.wh..wh..opq")
        .file("opaque/new")
        .file("emptied/.wh..wh..opq")
        .file("gone/.wh.x")
        .file(".wh.removed")
        .file("linked/one")
        .link("linked/two", b'1', "linked/one")
        .file("filed/again/and/again")
        .folder("filed/again/", 0o500, ROOT)
        .finish();
    let third = Members::at(0)
        .file("tmp/b")
        .file("removed/x")
        .file("emptied/x")
        .file("srv/new/y")
        .link("away", b'2', "tmp")
        .file("away/in/x")
        .link("linked/three", b'2', "../root")
        .file("linked/three/x")
        .folder("data/", 0o700, (9, 9))
        .finish();
    let found = compare("implied", &[base(), second, third]).await;
    for (name, expected) in [
        ("1/tmp", "41777 0:0 0 now"),
        ("1/root", "40700 0:0 0 now"),
        ("1/root/deep", "40755 0:0 0 now"),
        ("1/owned", "40755 1000:1001 0 now"),
        ("1/srv", "42775 0:50 0 now"),
        ("1/srv/new", "40755 0:50 0 now"),
        ("1/srv/new/deep", "40755 0:0 0 now"),
        ("1/lib", "40711 0:0 0 now"),
        ("1/colored", "40755 0:0 0 now user.color=blue"),
        ("1/late", "40755 0:0 0 4102444800 user.color=red"),
        ("1/emptied", "40770 3:4 0 1000000000 trusted.overlay.opaque=y"),
        ("1/gone", "40700 0:0 0 now"),
        ("2/removed", "40755 0:0 0 now"),
        ("2/emptied", "40770 3:4 0 now"),
        ("2/tmp/in", "40755 0:0 0 now"),
        ("2/root", "40700 0:0 0 now"),
    ] {
        assert_eq!(found[name], expected, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_restored_afterwards_is_unpacked_in_turn() {
    // A global header is no entry, and yet containerd makes its folders.
    let global =
        Members::at(OLD).member("tmp/GlobalHead.1", b'g', "", 0o644, ROOT, b"17 comment=hello\n").file("x").finish();
    compare("global", &[base(), global, Members::at(OLD).file("tmp/y").finish()]).await;
}
