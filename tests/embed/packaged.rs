//! What `cargo package` puts into the crate.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Far more than the sources have.
const LARGEST: u64 = 8 << 20;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The paths of the package's files.
fn packaged() -> BTreeSet<PathBuf> {
    let output = Command::new(env!("CARGO"))
        .args(["package", "--list", "--allow-dirty", "--offline", "--locked"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().lines().map(PathBuf::from).collect()
}

/// Every file below `folder`.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(root().join(folder)).unwrap().map(|entry| entry.unwrap());
    let deeper = |entry: fs::DirEntry| {
        let path = folder.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() { files(&path) } else { vec![path] }
    };
    entries.flat_map(deeper).collect()
}

#[test]
fn the_package_has_the_sources_and_no_more() {
    let packaged = packaged();
    for folder in ["src", "proto", "tests/embed"] {
        for file in files(Path::new(folder)) {
            assert!(packaged.contains(&file), "{} is not in the package", file.display());
        }
    }
    for file in ["src/export_v1/gen/linkspan.export.v1.rs", "build.rs", "Cargo.lock", "LICENSE", "README.md"] {
        assert!(packaged.contains(Path::new(file)), "{file} is not in the package");
    }
    let tests = packaged.iter().filter(|file| file.starts_with("tests") && !file.starts_with("tests/embed"));
    assert_eq!(tests.count(), 0, "tests need a checkout: {packaged:?}");
    assert!(!packaged.iter().any(|file| file.starts_with("scripts") || file.starts_with("benches")), "{packaged:?}");
    // What cargo makes is not there yet.
    let bytes: u64 = packaged.iter().filter_map(|file| fs::metadata(root().join(file)).ok()).map(|it| it.len()).sum();
    assert!(bytes < LARGEST, "{bytes} bytes");
}

/// Files that the sources include are in the package: it would not build otherwise.
#[test]
fn what_the_documentation_includes_is_packaged() {
    let packaged = packaged();
    let text = fs::read_to_string(root().join("src/lib.rs")).unwrap();
    let included: Vec<_> = text.split("include_str!(\"../").skip(1).filter_map(|rest| rest.split('"').next()).collect();
    assert_eq!(included.len(), 3, "{included:?}");
    for file in included {
        assert!(packaged.contains(Path::new(file)), "{file} is not in the package");
    }
}
