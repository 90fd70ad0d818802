//! Notes which commit is built, for `linkspan version`.
#![allow(clippy::print_stdout, reason = "that is how a build script speaks to cargo")]

use std::path::Path;
use std::process::Command;

fn main() {
    // Who packages a source archive says what it is of; it has no repository.
    let given = |name: &str| {
        println!("cargo::rerun-if-env-changed={name}");
        std::env::var(name).ok().filter(|value| !value.is_empty())
    };
    let (commit, date) = (given("LINKSPAN_COMMIT"), given("LINKSPAN_COMMIT_DATE"));
    println!("cargo::rerun-if-changed=build.rs");
    let is_ours = git(&["rev-parse", "--show-toplevel"])
        .is_some_and(|top| Path::new(&top).canonicalize().ok() == Path::new(".").canonicalize().ok());
    if is_ours {
        // Both change with every commit and every checkout.
        for name in ["HEAD", "logs/HEAD"] {
            if let Some(path) = git(&["rev-parse", "--git-path", name]).filter(|path| Path::new(path).exists()) {
                println!("cargo::rerun-if-changed={path}");
            }
        }
    }
    let of_git = |args: &[&str]| is_ours.then(|| git(args)).flatten();
    let commit = commit.or_else(|| of_git(&["rev-parse", "HEAD"])).unwrap_or_default();
    let date = date.or_else(|| of_git(&["show", "--no-patch", "--format=%cs", "HEAD"])).unwrap_or_default();
    println!("cargo::rustc-env=LINKSPAN_COMMIT={commit}");
    println!("cargo::rustc-env=LINKSPAN_COMMIT_DATE={date}");
}

/// What git says; nothing where there is no git, or no repository.
fn git(args: &[&str]) -> Option<String> {
    let output = Command::new("git").args(args).output().ok().filter(|output| output.status.success())?;
    let said = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (!said.is_empty()).then_some(said)
}
