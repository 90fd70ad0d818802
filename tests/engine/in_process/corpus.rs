//! Layers with everything that builders write, and with what nobody should.

use bytes::Bytes;

use crate::common::{Stack, entry};
use crate::fixture::Image;
use crate::log;
use crate::trees::{Members, ROOT, Tree, compare_applied, compare_images, gnu};

const OLD: u64 = 1_000_000_000;

/// Compares an image of these layers. None of them may be left to containerd.
async fn compare_own(name: &str, layers: &[Bytes]) -> Tree {
    compare_applied(name, &Image::new(layers)).await
}

fn base() -> Members {
    Members::at(OLD).folder("usr/", 0o755, ROOT).folder("usr/bin/", 0o755, ROOT).file("usr/bin/tool").file("plain")
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_that_builders_write_is_as_containerd_writes_it() {
    let long = "a-long-name/".repeat(20) + "file";
    let one = base()
        .folder("./dotted/", 0o750, (1, 2))
        .folder("./", 0o700, (9, 9))
        .member("/absolute", b'0', "", 0o4755, (1000, 1001), b"setuid")
        .member("usr/bin/large", b'0', "", 0o644, (3_000_000_000, 4_000_000_000), &vec![7; 1_000_001])
        .member("usr/bin/empty", b'0', "", 0o000, ROOT, b"")
        .member("usr/bin/sticky", b'5', "", 0o1777, ROOT, b"")
        .member("group/", b'5', "", 0o2775, (0, 50), b"")
        .member("group/inner/", b'5', "", 0o755, ROOT, b"")
        .member("group/inner/file", b'0', "", 0o2640, (5, 0), b"x")
        .file("group/file")
        .link("usr/bin/sym", b'2', "tool")
        .link("usr/bin/hard", b'1', "usr/bin/tool")
        .member("usr/bin/hard-owner", b'1', "/usr/bin/tool", 0o700, (8, 9), b"")
        .link("usr/bin/hard-sym", b'1', "./usr/bin/sym")
        .link("lib", b'2', "usr/lib")
        .file("lib/through/link")
        .link("abs", b'2', "/usr")
        .file("abs/share/through")
        .link("dangling", b'2', "../../../../nowhere")
        .member("fifo", b'6', "", 0o622, (1, 1), b"")
        .patched("null", b'3', "", 0o666, ROOT, b"", |header| device(header, 1, 3))
        .patched("disk", b'4', "", 0o660, (0, 6), b"", |header| device(header, 259, 70000))
        .file(&long)
        .link("long-link", b'2', &"x/".repeat(300))
        .file("plain")
        .link("plain", b'2', "now a link")
        .finish();
    let capability = b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let two = Members::at(0)
        .xattr("security.capability", capability)
        .member("ping", b'0', "", 0o755, (1, 1), b"binary")
        .link("ping-hard", b'1', "ping")
        .xattr("security.capability", capability)
        .member("ping-other", b'0', "", 0o755, ROOT, b"binary")
        .xattr("user.color", "blue\0green")
        .xattr("trusted.ignored", "x")
        .file("colored")
        .xattr("user.color", "red")
        .folder("colored-folder/", 0o700, ROOT)
        .record("mtime", "1700000000.123456789")
        .file("nanos")
        .record("mtime", "1700000000.5")
        .record("atime", "1800000000.25")
        .file("read")
        .record("mtime", "-17.5")
        .file("before")
        .record("atime", "99999999999")
        .file("beyond")
        .record("mtime", "17.5")
        .folder("times/", 0o755, ROOT)
        .file("times/file")
        .record("path", "n\u{e4}me/\u{ff}")
        .record("uid", "4294967294")
        .file("other")
        .file(".wh.plain")
        .file("usr/bin/.wh.tool")
        .file("usr/.wh..wh..opq")
        .file(".wh..wh.aufs")
        .member("owned/.wh.gone", b'0', "", 0o644, (7, 8), b"")
        .file("usr/bin/.wh.again")
        .folder("usr/bin/again/", 0o711, ROOT)
        .file("usr/bin/again/file")
        .file("times/file")
        .patched("gnu-times", b'0', "", 0o644, ROOT, b"x", |header| {
            gnu(header);
            header[345..357].copy_from_slice(b"15000000000\0");
        })
        .patched("old-folder/", b'0', "", 0o755, ROOT, b"", |header| header[156] = 0)
        .patched("old-file", b'0', "", 0o755, ROOT, b"x", |header| header[156] = 0)
        .patched("binary", b'0', "", 0o644, ROOT, b"", |header| {
            header[136..148].copy_from_slice(&[0xff; 12]);
            header[108..116].copy_from_slice(&[0x80, 0, 0, 0, 0, 1, 0, 0]);
        })
        .finish();
    let three = Members::at(OLD).file(".wh..wh..opq").file("usr/bin/deeper/file").file(".wh.fifo").finish();
    let tree = compare_own("builders", &[one, two, three]).await;
    for (path, expected) in [
        ("0/absolute", "104755 1000:1001 1 1000000000 6"),
        ("0/usr/bin/hard-owner", "100700 8:9 3 1000000000 = 0/usr/bin/hard 1"),
        ("0/lib", "120777 0:0 1 1000000000 -> usr/lib"),
        ("0/usr/lib/through", "40755 0:0 0 now"),
        ("0/disk", "60660 0:6 1 device 11110370 1000000000"),
        ("1/ping", "100777 0:0 2"),
        ("1/nanos", "100644 0:0 1 1700000000.123456789"),
        ("1/before", "100644 0:0 1 0 "),
        ("1/owned/gone", "20000 7:8 1 device 0 now"),
        ("1/usr", "40755 0:0 0 now trusted.overlay.opaque=y"),
        ("1/binary", "100644 65536:0 1 0 "),
        ("2", "40755 0:0 0 trusted.overlay.opaque=y"),
    ] {
        assert!(tree[path].starts_with(expected), "{path}: {}", tree[path]);
    }
    assert!(tree["1/ping-other"].contains("security.capability"));
}

fn device(header: &mut [u8], major: u32, minor: u32) {
    header[329..337].copy_from_slice(format!("{major:07o}\0").as_bytes());
    header[337..345].copy_from_slice(format!("{minor:07o}\0").as_bytes());
}

/// Forms that only some writers use, and what entries do to each other.
#[tokio::test(flavor = "multi_thread")]
async fn every_form_of_a_header_is_as_containerd_reads_it() {
    let long = "long/".repeat(60);
    let forms = base()
        .gnu_long(b'L', format!("{long}gnu"))
        .patched("cut", b'0', "", 0o640, (1, 2), b"gnu", gnu)
        .gnu_long(b'L', format!("{long}folder/"))
        .patched("cut/", b'5', "", 0o710, ROOT, b"", gnu)
        .gnu_long(b'K', "t/".repeat(200))
        .patched("gnu-target", b'2', "cut", 0o777, ROOT, b"", gnu)
        .gnu_long(b'K', format!("{long}gnu"))
        .gnu_long(b'L', format!("{long}hard"))
        .patched("cut", b'1', "cut", 0o600, ROOT, b"", gnu)
        .record("path", format!("{long}pax"))
        .record("size", "3")
        .record("uid", "70000")
        .record("gid", "80000")
        .record("uname", "somebody")
        .record("comment", "two\nlines=of text")
        .record("VENDOR.key", "\0\u{ff}")
        .record("LIBARCHIVE.xattr.user.ignored", "eA==")
        .record("LIBARCHIVE.creationtime", "17.5")
        .record("mtime", "1234567890.1234567890123")
        .member("cut", b'0', "", 0o644, ROOT, b"pax")
        .record("linkpath", "far/".repeat(80))
        .link("pax-target", b'2', "cut")
        .record("linkpath", b"\xff\xfe".as_slice())
        .link("bytes-target", b'2', "cut")
        .record("path", b"\xc3\x28\xff".as_slice())
        .file("cut")
        .member(&"n".repeat(255), b'0', "", 0o644, ROOT, b"255")
        .patched("every-number-binary", b'0', "", 0, ROOT, b"12", |header| {
            for (from, to, number) in
                [(100, 108, 0o751), (108, 116, 99_999), (116, 124, 1 << 31), (124, 136, 2), (136, 148, -5)]
            {
                binary(&mut header[from..to], number);
            }
        })
        .patched("binary-device", b'4', "", 0o660, ROOT, b"", |header| {
            binary(&mut header[329..337], 4095);
            binary(&mut header[337..345], (1 << 20) - 1);
        })
        .patched("blanks", b'0', "", 0o644, ROOT, b"x", |header| {
            header[100..108].copy_from_slice(b"  0640 \0");
            header[116..124].fill(b' ');
            header[136..148].fill(0);
        })
        .patched("gnu-nanos", b'0', "", 0o644, ROOT, b"x", |header| {
            gnu(header);
            binary(&mut header[345..357], 1 << 33);
            binary(&mut header[357..369], -1);
        })
        .finish();
    let entries = Members::at(1)
        .folder("closed/", 0o000, (5, 5))
        .file("closed/inside")
        .folder("closed/", 0o4711, (6, 6))
        .folder("again/", 0o700, ROOT)
        .file("again/one")
        .record("mtime", "7.000000007")
        .folder("again/", 0o755, (1, 1))
        .file("again/two")
        .member("replaced", b'0', "", 0o644, ROOT, b"first")
        .link("survivor", b'1', "replaced")
        .member("replaced", b'0', "", 0o600, (3, 3), b"second")
        .link("chained", b'1', "survivor")
        .link("a/b/c/chained", b'1', "chained")
        .member("was-a-link", b'1', "replaced", 0o644, ROOT, b"")
        .member("was-a-link", b'6', "", 0o600, ROOT, b"")
        .file("was-a-fifo")
        .member("was-a-file", b'0', "", 0o644, ROOT, b"x")
        .patched("was-a-file", b'3', "", 0o600, ROOT, b"", |header| device(header, 1, 5))
        .file("//double//slash")
        .file("./././dots/./file")
        .folder(".", 0o711, (9, 9))
        .folder("/", 0o712, (9, 9))
        .xattr("user.one", "1")
        .xattr("user.two", "2")
        .member("setuid", b'0', "", 0o6755, (12, 13), b"x")
        .xattr("user.three", "3")
        .folder("again/", 0o2755, (0, 7))
        .file("again/three")
        .folder("again/inner/", 0o755, ROOT)
        .file("usr/.wh.bin")
        .file("usr/new/.wh..wh..opq")
        .file("usr/new/file")
        .finish();
    let tree = compare_own("forms", &[forms, entries]).await;
    for (path, expected) in [
        (format!("0/{long}gnu"), "100600 0:0 2"),
        (format!("0/{long}folder"), "40710"),
        (format!("0/{long}pax"), "100644 70000:80000 1 1234567890.123456789 3"),
        ("0/every-number-binary".to_owned(), "100751 99999:2147483648 1 0 2"),
        ("0/gnu-nanos".to_owned(), "100644 0:0 1 1000000000 1"),
        ("1/closed".to_owned(), "44711 6:6 0 1"),
        ("1/again".to_owned(), "42755 0:7 0 1 user.three=3"),
        ("1/replaced".to_owned(), "100644 0:0 1"),
        ("1/a/b/c/chained".to_owned(), "100777 0:0 3"),
        ("1/was-a-file".to_owned(), "20600 0:0 1 device 105"),
        ("1/usr/bin".to_owned(), "20000 0:0 1 device 0"),
        ("1/usr/new".to_owned(), "40755 0:0 0 now trusted.overlay.opaque=y"),
    ] {
        assert!(tree[&path].starts_with(expected), "{path}: {}", tree[&path]);
    }
}

/// A binary number, as GNU tar writes what does not fit in octal digits.
fn binary(field: &mut [u8], number: i64) {
    let (high, low) = field.split_at_mut(field.len() - 8);
    high.fill(if number < 0 { 0xff } else { 0 });
    low.copy_from_slice(&number.to_be_bytes());
    field[0] = if number < 0 { 0xff } else { field[0] | 0x80 };
}

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
