//! `--cache-to type=linkspan` and `--cache-from type=linkspan`: their attributes.

use std::collections::BTreeMap;

use super::super::entry::Entry;
use super::super::exporters::is_true;
use super::KIND;
use crate::caches::CacheRef;

/// The attributes of an export that its exporter in the builder acts on (BuildKit `cache/remotecache/export.go`,
/// `util/compression`).
const PASSED: [&str; 7] = [
    "compression",
    "compression-level",
    "force-compression",
    "ignore-error",
    "image-manifest",
    "mode",
    "oci-mediatypes",
];

/// How many versions of a part `keep` can request.
const MAX_KEEP: usize = 16;

/// An export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ExportEntry {
    /// Its place among the entries of ours, whether they can be used or not.
    pub(super) id: usize,
    /// The names of the caches that it writes.
    pub(super) refs: Vec<CacheRef>,
    /// `min` or `max`, as the builder takes it.
    pub(super) mode: &'static str,
    /// How many versions of the part are kept.
    pub(super) keep: usize,
    /// Whether the build goes on without the export when that fails.
    pub(super) ignores_errors: bool,
    passed: Entry,
}

impl ExportEntry {
    /// Reads an entry of type [`KIND`].
    ///
    /// # Errors
    /// What is wrong with it, for people.
    pub(super) fn read(entry: &Entry) -> Result<Self, String> {
        let attrs = &entry.attrs;
        let (mut passed, mut unknown) = (Entry { kind: "local".into(), ..Entry::default() }, Vec::new());
        for (key, value) in attrs {
            match key.as_str() {
                "ref" | "keep" => {}
                known if PASSED.contains(&known) => drop(passed.attrs.insert(key.clone(), value.clone())),
                _ => unknown.push(format!("`{key}`")),
            }
        }
        if !unknown.is_empty() {
            return Err(format!("it does not know {}; hint: use ref, keep, {}", unknown.join(", "), PASSED.join(", ")));
        }
        let keep = attrs.get("keep").map_or(Ok(1), |keep| keep.parse());
        let keep = keep.ok().filter(|keep| (1..=MAX_KEEP).contains(keep));
        let keep = keep.ok_or_else(|| format!("keep={} is not a number from 1 to {MAX_KEEP}", attrs["keep"]))?;
        Ok(Self { id: 0, refs: refs(attrs)?, mode: mode(attrs)?, keep, ignores_errors: ignores_errors(entry), passed })
    }

    /// What the builder gets in its place.
    pub(super) fn local(&self, dest: String) -> Entry {
        let mut local = self.passed.clone();
        local.attrs.insert("dest".into(), dest);
        local
    }
}

/// BuildKit takes whatever is not `max` for `min`, and a misspelled `max` would then replace a whole cache by a small one.
fn mode(attrs: &BTreeMap<String, String>) -> Result<&'static str, String> {
    match attrs.get("mode").map(String::as_str) {
        None | Some("min") => Ok("min"),
        Some("max") => Ok("max"),
        Some(other) => Err(format!("mode={other} is neither `min` nor `max`")),
    }
}

/// Whether the build goes on without the export when that fails.
pub(super) fn ignores_errors(entry: &Entry) -> bool {
    entry.attrs.get("ignore-error").is_some_and(|value| is_true(value))
}

/// The names of the caches that an import reads.
///
/// # Errors
/// What is wrong with it, for people.
pub(super) fn imported(import: &Entry) -> Result<Vec<CacheRef>, String> {
    if let Some(key) = import.attrs.keys().find(|key| *key != "ref") {
        return Err(format!("it does not know `{key}`; hint: use ref"));
    }
    refs(&import.attrs)
}

/// `a;b`: BuildKit's `s3` cache has several names in this form.
fn refs(attrs: &BTreeMap<String, String>) -> Result<Vec<CacheRef>, String> {
    let text = attrs.get("ref").map(String::as_str).unwrap_or_default();
    if text.is_empty() {
        return Err("it names no cache; hint: ref=NAME".to_owned());
    }
    let mut refs = CacheRef::list(text).map_err(|error| error.to_string())?;
    refs.sort();
    refs.dedup();
    Ok(refs)
}

/// `type=linkspan,ref=NAME`, as a user wrote it, for messages.
pub(super) fn shown(entry: &Entry) -> String {
    let attrs: Vec<_> = entry.attrs.iter().map(|(key, value)| format!(",{key}={value}")).collect();
    format!("type={KIND}{}", attrs.concat())
}
