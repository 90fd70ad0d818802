//! Layers with everything that builders write, and every form of a header that is understood.

use bytes::Bytes;

use crate::fixture::Image;
use crate::trees::{Members, ROOT, Tree, compare_applied, gnu};

pub(super) const OLD: u64 = 1_000_000_000;

/// Compares an image of these layers. None of them may be left to containerd.
pub(super) async fn compare_own(name: &str, layers: &[Bytes]) -> Tree {
    compare_applied(name, &Image::new(layers)).await
}

pub(super) fn base() -> Members {
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
pub(super) fn binary(field: &mut [u8], number: i64) {
    let (high, low) = field.split_at_mut(field.len() - 8);
    high.fill(if number < 0 { 0xff } else { 0 });
    low.copy_from_slice(&number.to_be_bytes());
    field[0] = if number < 0 { 0xff } else { field[0] | 0x80 };
}
