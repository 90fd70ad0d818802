//! Layers as other programs write and compress them.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _, symlink};
use std::path::Path;

use bytes::Bytes;
use linkspan::image::{Digest, Platform};
use rustix::fs::{
    CWD, FileType, Mode, Timespec, Timestamps, UTIME_OMIT, XattrFlags, futimens, makedev, mknodat, setxattr,
};

use crate::common::{Run, Stack};
use crate::fixture::{Image, Layer, compress};
use crate::log;
use crate::trees::{Members, ROOT, compare_applied, compare_images};

/// What the oldest format has no room for.
const NOT_IN_USTAR: [&str; 3] = ["--exclude=far", "--exclude=far-owner", "--exclude=empty"];
/// Archives a folder with Python's `tarfile`: folder, archive, format.
const PYTHON: &str = r#"
import sys, tarfile
folder, archive, name = sys.argv[1:]
def fits(member):
    is_left_out = name == "USTAR" and member.name.split("/")[-1] in ("far", "far-owner", "empty")
    return None if is_left_out else member
with tarfile.open(archive, "w", format=getattr(tarfile, name + "_FORMAT")) as tar:
    tar.add(folder, arcname=".", filter=fits)
"#;

/// What programs that write archives find in a file system.
fn files(folder: &Path) {
    let path = |name: &str| folder.join(name);
    let long = "a-folder-with-a-name/".repeat(8);
    for name in ["usr/lib", "set-group", &long] {
        fs::create_dir_all(path(name)).unwrap();
    }
    fs::set_permissions(path("set-group"), fs::Permissions::from_mode(0o2750)).unwrap();
    let deep = format!("{long}a-file");
    for (name, length, mode, owner) in [
        ("usr/lib/empty", 0, 0o400, (0, 0)),
        ("usr/lib/n\u{e4}me with spaces", 5, 0o644, (1000, 1001)),
        ("usr/lib/setuid", 70_000, 0o6755, (65_534, 70_000)),
        ("set-group/far-owner", 1, 0o600, (2_000_000_000, 3_000_000_000)),
        (deep.as_str(), 4, 0o644, (0, 0)),
    ] {
        fs::write(path(name), vec![b'x'; length]).unwrap();
        std::os::unix::fs::chown(path(name), Some(owner.0), Some(owner.1)).unwrap();
        // A change of owner takes away bits of the mode.
        fs::set_permissions(path(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    setxattr(path("usr/lib/empty"), "user.color", b"blue\0green", XattrFlags::CREATE).unwrap();
    fs::hard_link(path("usr/lib/setuid"), path("hard")).unwrap();
    symlink("usr/lib", path("lib")).unwrap();
    symlink("t/".repeat(120), path("far")).unwrap();
    for (name, kind, device) in [
        ("fifo", FileType::Fifo, 0),
        ("null", FileType::CharacterDevice, makedev(1, 3)),
        ("disk", FileType::BlockDevice, makedev(259, 7)),
    ] {
        mknodat(CWD, path(name), kind, Mode::from_raw_mode(0o640), device).unwrap();
    }
    for (name, seconds, nanos) in [("hard", 1_700_000_000, 123_456_789), ("usr", 1, 1), ("usr/lib/empty", -5, 0)] {
        let last_modification = Timespec { tv_sec: seconds, tv_nsec: nanos };
        let last_access = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
        futimens(File::open(path(name)).unwrap(), &Timestamps { last_access, last_modification }).unwrap();
    }
}

fn base() -> Bytes {
    Members::at(1).folder("usr/", 0o755, ROOT).file("usr/below").folder("set-group/", 0o700, (4, 4)).finish()
}

#[tokio::test(flavor = "multi_thread")]
async fn archives_of_other_programs_are_as_containerd_unpacks_them() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("root");
    fs::create_dir(&root).unwrap();
    files(&root);
    let mut archives = Vec::new();
    let mut write = |name: &str, run: &dyn Fn(&Path) -> Run| {
        let tar = folder.path().join(name);
        run(&tar).ok();
        archives.push((name.to_owned(), Bytes::from(fs::read(&tar).unwrap())));
    };
    for format in ["ustar", "pax", "gnu", "oldgnu"] {
        let excluded = if format == "ustar" { &NOT_IN_USTAR[..] } else { &[] };
        write(&format!("gnu-tar-{format}"), &|tar| {
            let run = Run::new("tar").args(["--format", format, "--sort=name"]).args(excluded);
            run.arg("-C").arg(&root).arg("-cf").arg(tar).arg(".")
        });
    }
    write("gnu-tar-xattrs", &|tar| {
        let run = Run::new("tar").args(["--format=pax", "--xattrs", "--xattrs-include=*"]);
        run.arg("-C").arg(&root).arg("-cf").arg(tar).args(["usr", "set-group", "hard", "lib"])
    });
    // As `usr` is no member, the applier makes it.
    write("gnu-tar-members", &|tar| {
        let run = Run::new("tar").arg("-C").arg(&root).arg("-cf").arg(tar);
        run.args(["usr/lib/setuid", "hard", "set-group/far-owner"])
    });
    for format in ["USTAR", "PAX", "GNU"] {
        write(&format!("python-{format}"), &|tar| {
            Run::new("python3").args(["-c", PYTHON]).arg(&root).arg(tar).arg(format)
        });
    }
    // A package that need not be there (Debian's `libarchive-tools`).
    if let Some(bsdtar) = Stack::shared().find_program("bsdtar") {
        for format in ["ustar", "pax", "gnutar"] {
            let excluded = if format == "ustar" { &NOT_IN_USTAR[..] } else { &[] };
            write(&format!("bsdtar-{format}"), &|tar| {
                let run = Run::new(&bsdtar).args(["--format", format, "--numeric-owner"]).args(excluded);
                run.arg("-C").arg(&root).arg("-cf").arg(tar).arg(".")
            });
        }
    }
    for (name, archive) in archives {
        compare_applied(&format!("writer-{}", name.to_lowercase()), &Image::new(&[base(), archive])).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_compression_is_understood() {
    let plain = Layer::new().folder("a", 0o700).file("a/b", vec![5; 700_000]).file("a/c", "c").tar();
    let diff_ids = [Digest::sha256(&plain)];
    let members = |kind: &str| -> Bytes {
        [plain.slice(..1000), plain.slice(1000..)].map(|part| compress(kind, part)).concat().into()
    };
    for (name, kind, blob) in [
        ("gzip", "+gzip", compress("+gzip", plain.clone())),
        ("gzip-members", "+gzip", members("+gzip")),
        ("zstd", "+zstd", compress("+zstd", plain.clone())),
        ("zstd-frames", "+zstd", members("+zstd")),
        ("zstd-high", "+zstd", zstd::encode_all(&plain[..], 19).unwrap().into()),
    ] {
        let image = Image::compressed(&[(kind, blob)], &diff_ids, &Platform::host().architecture);
        compare_applied(name, &image).await;
    }
}

/// Every form of them is left to containerd, also where files were written before.
#[tokio::test(flavor = "multi_thread")]
async fn sparse_files_are_as_containerd_unpacks_them() {
    log::listen();
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir_all(folder.path().join("a/b")).unwrap();
    fs::write(folder.path().join("a/b/before"), vec![1; 300_000]).unwrap();
    let file = File::create(folder.path().join("sparse")).unwrap();
    file.set_len(8 << 20).unwrap();
    for at in [0, 1 << 20, 3 << 20, 5 << 20, 6 << 20, 7 << 20] {
        file.write_all_at(b"data", at).unwrap();
    }
    for (at, options) in [
        ["--format=pax", "--sparse-version=0.0"],
        ["--format=pax", "--sparse-version=0.1"],
        ["--format=pax", "--sparse-version=1.0"],
        ["--format=gnu", "--sparse"],
        ["--format=oldgnu", "--sparse"],
    ]
    .into_iter()
    .enumerate()
    {
        let tar = folder.path().join("tar");
        let run = Run::new("tar").args(["--sparse"]).args(options).arg("-C").arg(folder.path());
        run.arg("-cf").arg(&tar).args(["a", "sparse"]).ok();
        let image = Image::new(&[base(), fs::read(&tar).unwrap().into()]);
        let name = format!("sparse-{at}");
        let outcome = compare_images(Stack::shared(), &name, &image).await;
        assert!(log::left(&image.layers[1].digest).is_some(), "{name}");
        // containerd does not know the older form.
        assert_eq!(outcome.is_ok(), options[0] == "--format=pax", "{options:?}: {outcome:?}");
        if let Ok(tree) = outcome {
            assert!(tree["1/sparse"].contains(&format!(" {} ", 8 << 20)), "{}", tree["1/sparse"]);
        }
    }
}
