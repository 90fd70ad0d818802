//! A large image of this machine's files.

use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use linkspan::image::{Digest, Platform};

use crate::common::{Run, Stack};
use crate::fixture::{Image, compress};
use crate::trees::compare_applied;

/// How large it is, in MB, before it is compressed.
const VARIABLE: &str = "LINKSPAN_TEST_FILES_MB";
const DEFAULT_MB: u64 = 150;
/// Where they are from, those with many small ones first. What is not there is not missed.
const FOLDERS: [&str; 6] = ["usr/share", "usr/bin", "usr/lib", "usr/local", "usr/include", "usr/src"];
/// How each layer is compressed, lowest first.
const LAYERS: [&str; 4] = ["+gzip", "+zstd", "", "+gzip"];

/// The paths below `folder` in order, folders before what is in them, until there are `bytes` of content.
fn collect(folder: &Path, left: &mut u64, into: &mut Vec<(PathBuf, u64)>) {
    let mut entries: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        let found = fs::symlink_metadata(&path).unwrap();
        let size = if found.is_file() { found.len() } else { 0 };
        if *left < size {
            *left = 0;
            return;
        }
        *left -= size;
        into.push((path.clone(), size));
        if found.is_dir() {
            collect(&path, left, into);
        }
    }
}

/// An archive of these paths alone.
fn archived(paths: &[&Path], folder: &Path) -> Bytes {
    let (list, tar) = (folder.join("list"), folder.join("tar"));
    let names: Vec<u8> = paths.iter().flat_map(|path| [&path.as_os_str().as_bytes()[1..], b"\0"].concat()).collect();
    fs::write(&list, names).unwrap();
    let run =
        Run::new("tar").args(["--format=pax", "--xattrs", "--xattrs-include=*", "--no-recursion", "--null", "-C", "/"]);
    run.arg("-T").arg(&list).arg("-cf").arg(&tar).ok();
    fs::read(tar).unwrap().into()
}

/// Compresses the archive that was just made; gzip by itself is much quicker than in a test.
fn compressed(kind: &str, plain: Bytes, folder: &Path) -> Bytes {
    if kind != "+gzip" {
        return compress(kind, plain);
    }
    let gz = folder.join("gz");
    Run::new("sh").args(["-c", r#"gzip -1 < "$0" > "$1""#]).arg(folder.join("tar")).arg(&gz).ok();
    fs::read(gz).unwrap().into()
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_this_machine_are_as_containerd_unpacks_them() {
    let megabytes = std::env::var(VARIABLE).map_or(DEFAULT_MB, |text| text.parse().unwrap());
    let (mut paths, mut left) = (Vec::new(), megabytes * 1_000_000);
    for folder in FOLDERS.map(|folder| Path::new("/").join(folder)).iter().filter(|folder| folder.is_dir()) {
        collect(folder, &mut left, &mut paths);
    }
    let total: u64 = paths.iter().map(|(_, size)| size).sum();
    let folder = tempfile::tempdir_in(Stack::shared().state()).unwrap();
    let (mut layers, mut diff_ids, mut rest) = (Vec::new(), Vec::new(), &paths[..]);
    for (at, kind) in LAYERS.into_iter().enumerate() {
        let (mut count, mut size) = (0, 0);
        while count < rest.len() && (size < total / LAYERS.len() as u64 || at + 1 == LAYERS.len()) {
            size += rest[count].1;
            count += 1;
        }
        // Folders of every other layer are left for the applier to make.
        let is_kept = |path: &Path| at % 2 == 0 || !path.is_dir() || path.is_symlink();
        let members: Vec<_> = rest[..count].iter().map(|(path, _)| &**path).filter(|path| is_kept(path)).collect();
        rest = &rest[count..];
        let plain = archived(&members, folder.path());
        diff_ids.push(Digest::sha256(&plain));
        layers.push((kind, compressed(kind, plain, folder.path())));
    }
    let image = Image::compressed(&layers, &diff_ids, &Platform::host().architecture);
    drop(layers);
    let tree = compare_applied("real-files", &image).await;
    eprintln!("{} MB, {} files and folders", total / 1_000_000, tree.len());
    assert!(tree.len() >= paths.len() / 2, "{} of {}", tree.len(), paths.len());
}
