//! Layers that try to change what lies outside of their snapshot, and such as no writer should make.

use bytes::Bytes;

use super::corpus::{OLD, base, binary, compare_own};
use crate::common::{Stack, entry};
use crate::fixture::Image;
use crate::log;
use crate::trees::{Members, ROOT, compare_images, gnu};

/// What lies outside of any snapshot must not change, whatever a layer says; the trees are compared with containerd's.
#[tokio::test(flavor = "multi_thread")]
async fn hostile_layers_end_as_with_containerd() {
    log::listen();
    let outside = tempfile::tempdir().unwrap();
    let out = outside.path().to_str().unwrap();
    let at = || Members::at(OLD);
    let cases: Vec<(&str, Bytes)> = vec![
        ("up", at().file("../up").file("a/../../b").file("a/..").finish()),
        ("up-link", at().link("l", b'2', "../../..").file("l/x").finish()),
        ("out-link", at().link("l", b'2', out).file("l/x").finish()),
        ("out-hard", at().link("l", b'1', &format!("{out}/../../etc/passwd")).finish()),
        ("two-links", at().link("a", b'2', "b").link("b", b'2', "c").file("a/x").finish()),
        ("loop", at().link("a", b'2', "b").link("b", b'2', "a").file("a/x").finish()),
        ("link-then-folder", at().link("a", b'2', "b").folder("a/", 0o700, ROOT).file("a/x").finish()),
        ("folder-then-link", at().file("a/x").link("a", b'2', "b").file("a/y").finish()),
        ("folder-then-file", at().folder("a/", 0o700, ROOT).file("a/x").file("a").finish()),
        ("file-then-folder", at().file("a").folder("a/", 0o700, ROOT).file("a/x").finish()),
        ("file-as-folder", at().file("a").file("a/b").finish()),
        ("whiteout-as-folder", at().file(".wh.a").file("a/b").finish()),
        ("whiteout-after-file", at().file("a").file(".wh.a").finish()),
        ("whiteout-empty", at().file(".wh.").finish()),
        ("whiteout-dot", at().file(".wh..").finish()),
        ("whiteout-up", at().file("a/.wh...").finish()),
        ("whiteout-folder", at().folder(".wh.a/", 0o755, ROOT).finish()),
        ("opaque-implied", at().file("new/.wh..wh..opq").file("new/x").finish()),
        ("hard-lower", at().link("l", b'1', "plain").finish()),
        ("hard-folder", at().folder("a/", 0o755, ROOT).link("l", b'1', "a").finish()),
        ("hard-itself", at().file("a").link("a", b'1', "a").finish()),
        ("hard-nothing", at().link("l", b'1', "").finish()),
        ("hard-twice", at().file("a").link("l", b'1', "a").link("l", b'1', "a").finish()),
        ("sym-nothing", at().link("l", b'2', "").finish()),
        ("nul", at().record("path", "a\0b").file("x").finish()),
        ("long", at().record("path", "x".repeat(300)).file("x").finish()),
        ("longer", at().record("path", "x/".repeat(3000)).file("x").finish()),
        ("slashed-file", at().patched("a/", b'0', "", 0o644, ROOT, b"x", |_| ()).finish()),
        (
            "sized-link",
            at().patched("l", b'2', "x", 0o777, ROOT, b"", |header| octal(&mut header[124..136], 7)).finish(),
        ),
        (
            "sized-folder",
            at().patched("d", b'5', "", 0o755, ROOT, b"", |header| octal(&mut header[124..136], 7)).finish(),
        ),
        ("contiguous", at().patched("c", b'7', "", 0o644, ROOT, b"x", |_| ()).finish()),
        ("unknown", at().patched("c", b'Z', "", 0o644, ROOT, b"x", |_| ()).finish()),
        ("old-sparse", at().patched("s", b'S', "", 0o644, ROOT, b"x", |_| ()).finish()),
        (
            "checksum",
            at().file("a")
                .raw(&{
                    let mut header = entry(b'0', "b", "", 0).finish_bytes();
                    header[148] ^= 1;
                    header
                })
                .finish(),
        ),
        ("v7", at().patched("old", b'0', "", 0o644, ROOT, b"x", |header| header[257..265].fill(0)).finish()),
        (
            "star",
            at().patched("star", b'0', "", 0o644, ROOT, b"x", |header| header[508..512].copy_from_slice(b"tar\0"))
                .finish(),
        ),
        ("negative", at().patched("n", b'0', "", 0o644, ROOT, b"", |header| header[108..116].fill(0xff)).finish()),
        ("no-owner", at().record("uid", "4294967295").file("x").finish()),
        ("large-owner", at().record("uid", "4294967296").file("x").finish()),
        ("global", at().member("pax_global_header", b'g', "", 0o644, ROOT, b"17 comment=hello\n").file("x").finish()),
        ("bad-record", at().member("PaxHeader", b'x', "", 0o644, ROOT, b"99 mtime=5\n").file("x").finish()),
        ("bad-time", at().record("mtime", "soon").file("x").finish()),
        (
            "default-acl",
            at().xattr(
                "system.posix_acl_default",
                b"\x02\0\0\0\x01\0\x07\0\xff\xff\xff\xff\x04\0\x05\0\xff\xff\xff\xff\x20\0\x05\0\xff\xff\xff\xff",
            )
            .folder("d/", 0o755, ROOT)
            .file("d/x")
            .finish(),
        ),
        ("bad-xattr", at().xattr("nonsense", "x").file("x").finish()),
        ("symlink-xattr", at().xattr("user.color", "x").link("l", b'2', "x").finish()),
        (
            "device-number",
            at().patched("dev", b'3', "", 0o666, ROOT, b"", |header| header[329..337].fill(b'7')).finish(),
        ),
        ("socket-mode", at().member("odd", b'0', "", 0o140_644, ROOT, b"x").finish()),
        ("one-zero-block", [&at().file("a").unfinished()[..], &[0; 512]].concat().into()),
        ("goes-on", [&at().file("a").unfinished()[..], &[0; 512], &at().file("b").finish()].concat().into()),
        ("no-end", at().file("a").unfinished()),
        ("no-padding", {
            let all = at().file("a").unfinished();
            all.slice(..all.len() - 511)
        }),
        ("cut", {
            let all = at().member("a", b'0', "", 0o644, ROOT, &[1; 5000]).unfinished();
            all.slice(..3000)
        }),
        ("name-of-256", at().record("path", "n".repeat(256)).file("x").finish()),
        ("target-of-4096", at().record("linkpath", "t".repeat(4096)).link("l", b'2', "x").finish()),
        ("gnu-prefix", at().patched(&format!("{}/x", "p/".repeat(60)), b'0', "", 0o644, ROOT, b"x", gnu).finish()),
        ("long-twice", at().gnu_long(b'L', "one").gnu_long(b'L', "two").file("x").finish()),
        ("long-and-pax", at().gnu_long(b'L', "one").record("path", "two").file("x").finish()),
        ("long-at-the-end", at().file("x").gnu_long(b'L', "one").finish()),
        ("long-with-nul", at().gnu_long(b'L', "one\0two").file("x").finish()),
        ("smaller-record", at().record("size", "1").member("x", b'0', "", 0o644, ROOT, b"xyz").file("y").finish()),
        ("larger-record", at().record("size", "512").member("x", b'0', "", 0o644, ROOT, b"x").file("y").finish()),
        ("huge-record", at().record("size", "9223372036854775807").file("x").finish()),
        ("negative-record", at().record("size", "-1").file("x").finish()),
        (
            "negative-size",
            at().patched("x", b'0', "", 0o644, ROOT, b"", |header| binary(&mut header[124..136], -1)).finish(),
        ),
        (
            "huge-size",
            at().patched("x", b'0', "", 0o644, ROOT, b"x", |header| binary(&mut header[124..136], i64::MAX)).finish(),
        ),
        (
            "huge-mode",
            at().patched("x", b'0', "", 0, ROOT, b"x", |header| binary(&mut header[100..108], 1 << 40)).finish(),
        ),
        ("xattr-empty", at().xattr("user.empty", "").file("x").finish()),
        ("xattr-huge", at().xattr("user.huge", vec![1; 70_000]).file("x").finish()),
        ("xattr-opaque", at().xattr("trusted.overlay.opaque", "y").folder("d/", 0o755, ROOT).file("d/x").finish()),
        ("xattr-redirect", at().xattr("trusted.overlay.redirect", "/etc").folder("d/", 0o755, ROOT).finish()),
        ("up-and-down", at().file("a/../b/../../c").link("../l", b'2', "..").file("l/l/x").finish()),
        ("hard-through-link", at().link("l", b'2', "usr").file("usr/a").link("h", b'1', "l/a").finish()),
        ("hard-up", at().file("a").link("h", b'1', "../../a").finish()),
        ("hard-to-link-out", at().link("l", b'2', out).link("h", b'1', "l/x").finish()),
        ("fifo-as-folder", at().member("f", b'6', "", 0o600, ROOT, b"").file("f/x").finish()),
        ("folder-over-fifo", at().member("f", b'6', "", 0o600, ROOT, b"").folder("f/", 0o700, ROOT).finish()),
        ("folder-over-lower", at().folder("plain/", 0o700, ROOT).file("plain/x").finish()),
        ("file-over-lower", at().file("usr").finish()),
        ("whiteout-of-whiteout", at().file(".wh..wh.a").file(".wh..wh.plnk/1").finish()),
        ("whiteout-twice", at().file(".wh.plain").file(".wh.plain").finish()),
        ("whiteout-with-content", at().member(".wh.plain", b'0', "", 0o600, (1, 2), b"content").finish()),
        ("whiteout-link", at().link(".wh.plain", b'2', out).finish()),
        ("opaque-folder", at().folder("usr/.wh..wh..opq/", 0o755, ROOT).file("usr/x").finish()),
        ("opaque-last", at().file("usr/x").file("usr/.wh..wh..opq").finish()),
        ("opaque-root-last", at().file("x").file(".wh..wh..opq").finish()),
        ("behind-the-end", [&at().file("a").finish()[..], b"more"].concat().into()),
        ("empty", Bytes::new()),
    ];
    // What the layers below say of folders without an entry.
    let below = [
        (
            "links-below",
            at().link("A", b'2', "B").link("B", b'2', "C").folder("C/", 0o700, (5, 6)).finish(),
            at().file("A/x").finish(),
        ),
        ("out-below", at().link("A", b'2', out).finish(), at().file("A/x").finish()),
        ("file-below", at().file("A").finish(), at().file("A/x").finish()),
    ];
    for (name, lower, upper) in below {
        compare_own(&format!("hostile-{name}"), &[lower, upper]).await;
    }
    for (name, layer) in cases {
        let mut chains = vec![("upper", vec![base().finish(), layer.clone()])];
        // Whiteouts are something else at the bottom of a chain.
        if ["whiteout", "opaque"].iter().any(|start| name.starts_with(start)) {
            chains.push(("bottom", vec![layer]));
        }
        for (position, layers) in chains {
            let image = Image::new(&layers);
            let outcome = compare_images(Stack::shared(), &format!("hostile-{name}-{position}"), &image).await;
            if outcome.is_err() {
                let left = log::left(&image.layers.last().unwrap().digest);
                assert!(left.is_some(), "{name} {position}: it is for containerd to refuse a layer");
            }
        }
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0, "{name}");
    }
}

fn octal(field: &mut [u8], number: u64) {
    let digits = field.len() - 1;
    field.copy_from_slice(format!("{number:0digits$o}\0").as_bytes());
}
