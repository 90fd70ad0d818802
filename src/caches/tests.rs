use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use serde_json::json;

use super::limits::{MAX_PARTS, beyond_parts, superseded};
use super::*;
use crate::engine::caches::{CacheDocument, CacheVersion, NewVersion};
use crate::engine::fixture::layout;
use crate::engine::ingest::{Expected, OpenedIngest};
use crate::engine::{Engine, Lease, Origin};
use crate::image::cache::{CACHE_CONFIG, CacheRoot};
use crate::image::{Descriptor, Digest};
use crate::net::Principal;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

async fn engine(folder: &tempfile::TempDir) -> Arc<dyn Engine> {
    layout(folder.path()).await
}

async fn caches(folder: &tempfile::TempDir, settings: CacheSettings) -> Arc<Caches> {
    Caches::new(&*engine(folder).await, settings).unwrap()
}

fn origin() -> Origin {
    Origin::internal("test", "test", "builder")
}

fn part(platform: &str) -> Part {
    Part { platform: platform.to_owned(), ..Part::default() }
}

fn name(text: &str) -> CacheRef {
    text.parse().unwrap()
}

fn document(media_type: &str, bytes: Vec<u8>) -> CacheDocument {
    let descriptor = Descriptor::new(media_type, Digest::sha256(&bytes), bytes.len() as u64);
    CacheDocument { descriptor, bytes: Bytes::from(bytes) }
}

/// The documents of a cache with these layers, each named by its content.
fn documents(layers: &[&str]) -> (CacheDocument, CacheDocument) {
    let layers: Vec<_> =
        layers.iter().map(|text| Descriptor::new(LAYER, Digest::sha256(text.as_bytes()), text.len() as u64)).collect();
    let listed: Vec<_> = layers.iter().map(|layer| json!({"blob": layer.digest, "parent": -1})).collect();
    let config = document(CACHE_CONFIG, json!({"layers": listed, "records": []}).to_string().into_bytes());
    let entries: Vec<_> = layers.iter().chain([&config.descriptor]).collect();
    let root = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}).to_string();
    (config, document(INDEX, root.into_bytes()))
}

async fn write(lease: &dyn Lease, text: &str) {
    let expected = Expected { digest: Some(Digest::sha256(text.as_bytes())), size: Some(text.len() as u64) };
    let OpenedIngest::Writer(mut writer) = lease.ingests().unwrap().open(text, &expected).await.unwrap() else {
        return;
    };
    writer.write(Bytes::copy_from_slice(text.as_bytes())).await.unwrap();
    writer.commit(expected).await.unwrap();
}

async fn store(caches: &Arc<Caches>, reference: &str, platform: &str, layers: &[&str]) -> CacheVersion {
    let export = caches.begin(&name(reference), &part(platform), "max", 1, &origin()).await.unwrap();
    for layer in layers {
        write(&*export.lease(), layer).await;
    }
    let (config, root) = documents(layers);
    export.commit(config, root, HashSet::new()).await.unwrap()
}

async fn listed(caches: &Caches) -> Vec<String> {
    caches.versions(None).await.unwrap().into_iter().map(|version| version.id).collect()
}

#[test]
fn refs_are_plain() {
    for good in ["a", "team/app:main", "registry.example:5000/team/app@x", "feature_1+2"] {
        assert_eq!(name(good).as_str(), good);
    }
    for bad in ["", "-a", "/a", "a b", "a;b", "a,b", "a\n", "ä", "a=b", &"x".repeat(201)] {
        assert!(bad.parse::<CacheRef>().is_err(), "{bad}");
    }
    assert_eq!(CacheRef::list("a;b").unwrap(), [name("a"), name("b")]);
    assert!(CacheRef::list("a;;b").is_err() && CacheRef::list(&["a"; 17].join(";")).is_err());
}

#[test]
fn parts_differ_by_platform_target_and_file() {
    let of = |platform: &str, target: &str, filename: &str| Part {
        platform: platform.to_owned(),
        target: target.to_owned(),
        filename: filename.to_owned(),
    };
    assert_eq!(of("a", "b", "").key(), of("a", "b", "Dockerfile").key(), "no name means the usual one");
    let parts = [of("a", "", ""), of("", "a", ""), of("", "", "a"), of("", "", ""), of("a", "b", "")];
    assert_eq!(parts.iter().map(Part::key).collect::<HashSet<_>>().len(), parts.len());
    assert!(parts.iter().all(|part| part.key().len() == 32));
    assert_eq!(of("linux/amd64", "app", "").title(), "linux/amd64 target=app");
}

#[test]
fn a_policy_names_what_it_allows() {
    let policy = CachePolicy { allowed: vec!["ci/*".to_owned()] };
    assert!(policy.check(&name("ci/app"), &Principal::Internal).is_ok());
    let error = policy.check(&name("app"), &Principal::Internal).unwrap_err();
    assert!(error.to_string().contains("ci/*") && error.hint().unwrap().contains("--allow-cache"), "{error}");
}

pub(super) fn version(id: &str, part: &str, at: u64) -> CacheVersion {
    let time = UNIX_EPOCH + Duration::from_secs(at);
    CacheVersion {
        id: id.to_owned(),
        reference: "a".to_owned(),
        part: part.to_owned(),
        title: String::new(),
        mode: String::new(),
        builder: String::new(),
        created: time,
        used: time,
        root: Descriptor::new(INDEX, Digest::sha256(id.as_bytes()), 1),
        layers: 1,
        bytes: 1,
    }
}

#[test]
fn a_part_keeps_what_was_requested_and_a_ref_its_most_parts() {
    let versions = [version("new", "p", 9), version("middle", "p", 8), version("old", "p", 7), version("q", "q", 1)];
    let superseded = |versions: &[CacheVersion], part: &str, keep| {
        superseded(versions, &NewVersion { part: part.to_owned(), ..NewVersion::default() }, keep)
    };
    assert_eq!(superseded(&versions, "p", 1), ["middle", "old"]);
    assert_eq!(superseded(&versions, "p", 2), ["old"]);
    assert_eq!(superseded(&versions, "p", 0), ["middle", "old"], "one version always stays");
    let many: Vec<_> = (0..=MAX_PARTS as u64).rev().map(|at| version(&at.to_string(), &at.to_string(), at)).collect();
    let many: Vec<_> = many.iter().collect();
    let beyond = |part: &str| beyond_parts(&many, part).into_iter().map(|it| it.id.as_str()).collect::<Vec<_>>();
    assert_eq!(beyond(&MAX_PARTS.to_string()), ["0"]);
    assert_eq!(beyond("0"), ["1"], "the part that was just written stays");
    assert_eq!(beyond_parts(&many[1..], "0"), Vec::<&CacheVersion>::new());
}

#[test]
fn a_part_replaces_those_whose_platforms_it_has() {
    let part = |platform: &str, target: &str| Part {
        platform: platform.to_owned(),
        target: target.to_owned(),
        filename: "Dockerfile".to_owned(),
    };
    let of = |part: &Part, at| CacheVersion { title: part.title(), ..version(&part.title(), &part.key(), at) };
    let (both, amd) = (part("linux/arm64,linux/amd64", ""), part("linux/x86_64", ""));
    let others = [
        part("linux/arm64/v8", ""),
        part("linux/amd64", "app"),
        part("linux/s390x,linux/amd64", ""),
        part("", ""),
        Part { filename: "other".to_owned(), ..part("linux/amd64", "") },
    ];
    let mut versions = vec![of(&both, 9), of(&amd, 8)];
    versions.extend(others.iter().map(|part| of(part, 7)));
    // Nothing is known of it but its key.
    versions.push(CacheVersion { title: "linux/amd64".to_owned(), ..version("unknown", &"0".repeat(32), 6) });
    let new = |part: &Part| NewVersion { part: part.key(), title: part.title(), ..NewVersion::default() };
    assert_eq!(superseded(&versions, &new(&both), 1), ["linux/x86_64", "linux/arm64/v8"]);
    assert_eq!(superseded(&versions, &new(&amd), 1), Vec::<String>::new());
    assert_eq!(superseded(&versions, &new(&part("", "")), 1), Vec::<String>::new());
}

fn usage(versions: &[(&str, u64, &[&str])]) -> Usage {
    let blobs = |names: &[&str]| names.iter().map(|name| (Digest::sha256(name.as_bytes()), 10)).collect();
    Usage::of(versions.iter().map(|(id, at, names)| (version(id, "p", *at), blobs(names))).collect())
}

#[test]
fn bytes_are_counted_once() {
    let usage = usage(&[("one", 1, &["a", "b"]), ("other", 2, &["b", "c"])]);
    assert_eq!(usage.total, 30);
    assert_eq!(usage.versions.iter().map(|it| (it.unique, it.shared)).collect::<Vec<_>>(), [(10, 10), (10, 10)]);
}

#[test]
fn limits_take_what_was_not_used_for_longest() {
    let usage = usage(&[("old", 100, &["a", "b"]), ("new", 300, &["b", "c"]), ("middle", 200, &["d"])]);
    let now = UNIX_EPOCH + Duration::from_secs(310);
    let over = |limits: CacheLimits| limits.exceeding(&usage.versions, now);
    assert_eq!(over(CacheLimits::default()), Vec::<String>::new());
    assert_eq!(over(CacheLimits { max_bytes: Some(40), ..CacheLimits::default() }), Vec::<String>::new());
    assert_eq!(over(CacheLimits { max_bytes: Some(39), ..CacheLimits::default() }), ["old"]);
    assert_eq!(over(CacheLimits { max_bytes: Some(20), ..CacheLimits::default() }), ["old", "middle"]);
    assert_eq!(over(CacheLimits { max_count: Some(1), ..CacheLimits::default() }), ["old", "middle"]);
    assert_eq!(over(CacheLimits { max_age: Some(Duration::from_secs(150)), ..CacheLimits::default() }), ["old"]);
}

#[tokio::test]
async fn a_new_version_takes_the_place_of_its_parts_older_one() {
    let folder = tempfile::tempdir().unwrap();
    let caches = caches(&folder, CacheSettings::default()).await;
    let other = store(&caches, "app", "linux/arm64", &["one"]).await;
    store(&caches, "app", "linux/amd64", &["one", "two"]).await;
    let new = store(&caches, "app", "linux/amd64", &["one", "three"]).await;
    assert_eq!(listed(&caches).await, [new.id.clone(), other.id]);
    assert_eq!(
        (new.layers, new.mode.as_str(), new.builder.as_str(), new.title.as_str()),
        (2, "max", "builder", "linux/amd64")
    );
    assert_eq!(store(&caches, "app", "linux/amd64", &["one", "three"]).await, new, "nothing has changed");
    assert!(engine(&folder).await.images().unwrap().list(&Default::default()).await.unwrap().records.is_empty());
}

#[tokio::test]
async fn fewer_versions_are_kept_although_nothing_has_changed() {
    let folder = tempfile::tempdir().unwrap();
    let caches = caches(&folder, CacheSettings::default()).await;
    let export = async |keep, layers: &[&str]| {
        let export = caches.begin(&name("app"), &part(""), "max", keep, &origin()).await.unwrap();
        for layer in layers {
            write(&*export.lease(), layer).await;
        }
        let (config, root) = documents(layers);
        export.commit(config, root, HashSet::new()).await.unwrap()
    };
    let old = export(2, &["one"]).await;
    let new = export(2, &["one", "two"]).await;
    assert_eq!(listed(&caches).await, [new.id.clone(), old.id]);
    assert_eq!(export(1, &["one", "two"]).await.id, new.id);
    assert_eq!(listed(&caches).await, [new.id]);
}

#[tokio::test]
async fn a_version_that_is_read_goes_at_once_and_its_blobs_when_its_last_reader_has_ended() {
    let folder = tempfile::tempdir().unwrap();
    let caches = caches(&folder, CacheSettings::default()).await;
    let old = store(&caches, "app", "", &["one"]).await;
    let (first, second) = (caches.resolve(&name("app")).await.unwrap(), caches.resolve(&name("app")).await.unwrap());
    let new = store(&caches, "app", "", &["two"]).await;
    // For another process, too.
    let other = self::caches(&folder, CacheSettings::default()).await;
    assert_eq!((listed(&caches).await, listed(&other).await), (vec![new.id.clone()], vec![new.id.clone()]));
    let leases = || std::fs::read_dir(folder.path().join(".linkspan/leases")).unwrap();
    let pinned = || leases().map(|lease| std::fs::read_to_string(lease.unwrap().path()).unwrap()).collect::<String>();
    drop(first);
    let (config, root) = documents(&["one"]);
    let blobs = [Digest::sha256(b"one"), config.descriptor.digest, root.descriptor.digest];
    assert!(blobs.iter().all(|blob| pinned().contains(blob.as_str())), "{old:?}: {}", pinned());
    drop(second);
    while leases().count() > 0 {
        tokio::task::yield_now().await;
    }
    // Nobody reads the other one: it needs no lease.
    caches.delete(vec![new.id]).await.unwrap();
    assert_eq!((listed(&caches).await, leases().count()), (Vec::new(), 0));
}

#[tokio::test]
async fn an_import_offers_only_layers_that_are_there() {
    let folder = tempfile::tempdir().unwrap();
    let caches = caches(&folder, CacheSettings::default()).await;
    let export = caches.begin(&name("app"), &part(""), "min", 1, &origin()).await.unwrap();
    write(&*export.lease(), "there").await;
    let (config, root) = documents(&["there", "gone"]);
    let gone = Digest::sha256(b"gone");
    let error = export.commit(config.clone(), root.clone(), HashSet::new()).await.unwrap_err();
    assert!(error.to_string().contains(gone.as_str()), "{error}");
    export.commit(config.clone(), root.clone(), HashSet::from([gone])).await.unwrap();
    let parts = caches.resolve(&name("app")).await.unwrap();
    let [part] = &parts[..] else { panic!("{parts:?}") };
    let import = CacheRoot::parse(part.root.descriptor.clone(), part.root.bytes.clone()).unwrap();
    assert_eq!((import.layers.len(), part.missing, import.config), (1, 1, config.descriptor));
    assert_ne!(part.root.descriptor, root.descriptor);
    assert!(caches.resolve(&name("other")).await.unwrap().is_empty());
}

#[tokio::test]
async fn what_is_there_as_a_whole_is_imported_as_it_was_stored() {
    let folder = tempfile::tempdir().unwrap();
    let caches = caches(&folder, CacheSettings::default()).await;
    store(&caches, "app", "", &["one", "two"]).await;
    let parts = caches.resolve(&name("app")).await.unwrap();
    assert_eq!(parts[0].root, documents(&["one", "two"]).1);
}

#[tokio::test]
async fn a_dropped_export_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let caches = caches(&folder, CacheSettings::default()).await;
    let export = caches.begin(&name("app"), &part(""), "", 1, &origin()).await.unwrap();
    write(&*export.lease(), "one").await;
    let leases = || std::fs::read_dir(folder.path().join(".linkspan/leases")).unwrap().count();
    assert_eq!(leases(), 1);
    drop(export);
    while leases() > 0 {
        tokio::task::yield_now().await;
    }
    assert!(listed(&caches).await.is_empty());
}

#[tokio::test]
async fn documents_that_do_not_belong_together_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let caches = caches(&folder, CacheSettings::default()).await;
    let export = caches.begin(&name("app"), &part(""), "", 1, &origin()).await.unwrap();
    let ((config, _), (_, root)) = (documents(&["one"]), documents(&["two"]));
    assert!(matches!(export.commit(config, root, HashSet::new()).await, Err(CacheError::Config { .. })));
}

#[tokio::test]
async fn a_limit_holds_after_each_commit() {
    let folder = tempfile::tempdir().unwrap();
    let (config, root) = documents(&["one"]);
    let bytes = config.bytes.len() + root.bytes.len() + 3;
    let limits = CacheLimits { max_bytes: Some(bytes as u64 + 50), ..CacheLimits::default() };
    let caches = caches(&folder, CacheSettings { limits, ..CacheSettings::default() }).await;
    store(&caches, "old", "", &["one"]).await;
    let new = store(&caches, "new", "", &["two"]).await;
    assert_eq!(listed(&caches).await, [new.id]);
    let export = caches.begin(&name("app"), &part(""), "", 1, &origin()).await.unwrap();
    let long = "x".repeat(500);
    write(&*export.lease(), &long).await;
    let (config, root) = documents(&[&long]);
    let error = export.commit(config, root, HashSet::new()).await.unwrap_err();
    assert!(error.hint().unwrap().contains("--cache-max-bytes"), "{error}");
}

#[tokio::test]
async fn a_prune_removes_what_it_reports() {
    let folder = tempfile::tempdir().unwrap();
    let caches = caches(&folder, CacheSettings::default()).await;
    let app = store(&caches, "team/app", "", &["one"]).await;
    let other = store(&caches, "other", "", &["two", "one"]).await;
    let named = Selection { references: vec!["team/*".to_owned()], ..Selection::default() };
    let dry = caches.prune(&named, true).await.unwrap();
    assert_eq!(listed(&caches).await.len(), 2);
    assert_eq!(caches.prune(&named, false).await.unwrap(), dry);
    assert_eq!(dry.versions.iter().map(|usage| &usage.version.id).collect::<Vec<_>>(), [&app.id]);
    let documents = documents(&["one"]);
    assert_eq!(dry.bytes, (documents.0.bytes.len() + documents.1.bytes.len()) as u64, "the layer is another's as well");
    assert_eq!(listed(&caches).await, std::slice::from_ref(&other.id));
    let fresh = Selection { unused_for: Some(Duration::from_secs(3600)), ..Selection::default() };
    assert_eq!(caches.prune(&fresh, false).await.unwrap(), Pruned::default());
    let keep = |bytes| Selection { keep_bytes: Some(bytes), ..Selection::default() };
    assert_eq!(caches.prune(&keep(1 << 20), false).await.unwrap(), Pruned::default());
    assert_eq!(caches.prune(&keep(1), false).await.unwrap().versions[0].version.id, other.id);
    assert!(listed(&caches).await.is_empty());
}
