//! `--filter` of `linkspan cache ls` and `prune`.

use std::str::FromStr;
use std::time::Duration;

use crate::caches::Selection;
use crate::config::duration_of;

/// A condition.
#[derive(Debug, Clone)]
pub(super) enum Filter {
    Until(Duration),
    Reference(String),
}

impl FromStr for Filter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some(("until", time)) => {
                let until = duration_of(time).map(Self::Until);
                until.ok_or_else(|| "expected a time such as `24h`, `1h30m` or `30d`".to_owned())
            }
            Some(("ref", pattern)) if pattern.contains(',') => {
                Err("expected one pattern; repeat --filter for several".to_owned())
            }
            Some(("ref", pattern)) if !pattern.is_empty() => Ok(Self::Reference(pattern.to_owned())),
            _ => Err("expected `until=TIME` or `ref=PATTERN`".to_owned()),
        }
    }
}

/// What matches all kinds of conditions in `filters`.
pub(super) fn selection(filters: Vec<Filter>) -> Selection {
    let mut selection = Selection::default();
    for filter in filters {
        match filter {
            // The strictest one counts.
            Filter::Until(time) => {
                selection.unused_for = Some(selection.unused_for.map_or(time, |other| other.max(time)));
            }
            Filter::Reference(pattern) => selection.references.push(pattern),
        }
    }
    selection
}
