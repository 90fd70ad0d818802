//! The API's definition: its style, its golden text, and the code that is generated from it.
//!
//! `LINKSPAN_REGENERATE=1 cargo test --test proto` writes the golden text and the generated files anew. A changed golden
//! text in a review is a changed API: see `proto/README.md`, "Versions", for what may change.
#![allow(clippy::unwrap_used, reason = "tests state what they expect by failing loudly")]

mod generated;
mod golden;
mod lint;

use std::fs;
use std::path::{Path, PathBuf};

use prost_types::FileDescriptorSet;

const PACKAGES: [&str; 2] = ["linkspan.export.v1", "linkspan.cache.v1"];

fn root() -> PathBuf {
    env!("CARGO_MANIFEST_DIR").into()
}

/// The files of a package with those that they import, compiled, with their comments.
fn compiled(package: &str) -> FileDescriptorSet {
    let (folder, package) = (root().join("proto"), package.replace('.', "/"));
    let mut files: Vec<_> = fs::read_dir(folder.join(&package))
        .unwrap()
        .map(|entry| format!("{package}/{}", entry.unwrap().file_name().into_string().unwrap()))
        .collect();
    files.sort();
    protox::compile(files, [folder]).unwrap()
}

/// Fails unless `file` holds `expected`; writes it instead when asked to.
#[track_caller]
fn same(file: &Path, expected: &[u8]) {
    if std::env::var_os("LINKSPAN_REGENERATE").is_some() {
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, expected).unwrap();
        return;
    }
    let found = fs::read(file).unwrap_or_default();
    assert!(
        found == expected,
        "{} is not what proto/ says; if the change is meant: LINKSPAN_REGENERATE=1 cargo test --test proto",
        file.display()
    );
}
