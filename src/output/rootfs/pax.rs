//! Records of extended headers that `tar-core` does not parse: times with a fraction or a sign.

use tar_core::parse::ParsedEntry;
use tar_core::{PAX_MTIME, PaxExtensions};

use crate::output::member::Mtime;
use crate::tar;

/// Records that decide how a member is read. The parser skips records that it cannot parse, because they may be times;
/// these must not be skipped.
const NUMBERS: [&str; 7] =
    ["size", "uid", "gid", "GNU.sparse.size", "GNU.sparse.realsize", "GNU.sparse.offset", "GNU.sparse.numbytes"];

/// Refuses numbers that do not parse. An empty one counts as absent (POSIX `pax`, "pax Extended Header Keyword Precedence").
pub(super) fn check(entry: &ParsedEntry<'_>) -> Result<(), String> {
    for record in entry.pax.into_iter().flat_map(PaxExtensions::new).filter_map(Result::ok) {
        let Some(key) = NUMBERS.iter().find(|key| record.key() == Ok(key)) else { continue };
        let value = String::from_utf8_lossy(record.value_bytes());
        if !value.is_empty() && value.parse::<u64>().is_err() {
            let shown: String = value.chars().take(40).collect();
            return Err(format!("`{}` has an extended header whose {key} is `{shown}`", entry.path_lossy()));
        }
    }
    Ok(())
}

/// The time of a member: from the extended header, else from the plain one.
pub(super) fn mtime(entry: &ParsedEntry<'_>) -> Result<Mtime, String> {
    let name = entry.path_lossy();
    let extended = entry.pax.into_iter().flat_map(PaxExtensions::new).filter_map(Result::ok);
    let last = extended.filter(|record| record.key() == Ok(PAX_MTIME)).last();
    if let Some(record) = last.filter(|record| !record.value_bytes().is_empty()) {
        let value = String::from_utf8_lossy(record.value_bytes());
        let shown: String = value.chars().take(40).collect();
        return Mtime::parse(&value).ok_or_else(|| format!("`{name}` has an extended header whose mtime is `{shown}`"));
    }
    match tar::binary_time(entry.header.as_bytes()).map_err(|reason| format!("`{name}`: {reason}"))? {
        Some(seconds) => Ok(Mtime::bounded(seconds, 0)),
        None => Ok(Mtime::bounded(i64::try_from(entry.mtime).unwrap_or(i64::MAX), 0)),
    }
}
