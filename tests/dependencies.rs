//! The lock file and the list of exceptions in `deny.toml` agree, so that a second version of a crate does not slip in
//! where `cargo deny` is not installed.
#![allow(clippy::unwrap_used, reason = "tests state what they expect by failing loudly")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use toml::{Table, Value};

fn read(file: &str) -> Table {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    fs::read_to_string(path).unwrap().parse().unwrap()
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap()
}

/// Crates with several versions and their versions, except those for Windows, which are locked but never built.
fn duplicates(lock: &Table) -> BTreeMap<&str, BTreeSet<&str>> {
    let mut versions = BTreeMap::<_, BTreeSet<_>>::new();
    for package in lock["package"].as_array().unwrap() {
        versions.entry(text(package, "name")).or_default().insert(text(package, "version"));
    }
    versions.retain(|name, versions| versions.len() > 1 && !name.starts_with("windows"));
    versions
}

#[test]
fn one_version_of_each_crate() {
    let (lock, deny) = (read("Cargo.lock"), read("deny.toml"));
    let skips: Vec<_> = deny["bans"]["skip"].as_array().unwrap().iter().collect();
    let mut left = duplicates(&lock);
    for skip in skips {
        let (name, version) = text(skip, "crate").split_once('@').unwrap();
        assert!(!text(skip, "reason").is_empty(), "{name} is skipped without a reason");
        let versions = left.get_mut(name).unwrap_or_else(|| panic!("{name} has one version; no longer skip it"));
        let before = versions.len();
        versions.retain(|found| !found.starts_with(&format!("{version}.")));
        assert!(versions.len() < before, "{name} {version} is not used; no longer skip it");
    }
    left.retain(|_, versions| versions.len() > 1);
    assert!(left.is_empty(), "several versions, and deny.toml does not say why: {left:?}");
}

#[test]
fn no_crate_is_banned_and_all_come_from_one_registry() {
    let (lock, deny) = (read("Cargo.lock"), read("deny.toml"));
    let banned: BTreeSet<_> = deny["bans"]["deny"].as_array().unwrap().iter().map(|ban| text(ban, "crate")).collect();
    assert!(banned.contains("openssl"), "{banned:?}");
    for package in lock["package"].as_array().unwrap() {
        let name = text(package, "name");
        assert!(!banned.contains(name), "{name} is banned by deny.toml");
        // Only our own package is without a source.
        let source = package.get("source").map(|source| source.as_str().unwrap());
        assert!(
            source.is_some_and(|it| it.starts_with("registry+")) || name == "linkspan",
            "{name} is from {source:?}"
        );
    }
}

#[test]
fn a_second_version_would_be_seen() {
    let lock: Table =
        "[[package]]\nname='a'\nversion='1.0.0'\n[[package]]\nname='a'\nversion='2.0.0'\n".parse().unwrap();
    assert_eq!(duplicates(&lock).keys().collect::<Vec<_>>(), [&"a"]);
}
