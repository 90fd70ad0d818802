//! The progress of an export, on stderr: bars on a terminal, lines elsewhere.

mod bars;

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io::{self, IsTerminal as _, Write as _};
use std::sync::{Arc, Mutex, PoisonError};

use indicatif::ProgressBar;

use self::bars::Bars;
use super::show;
use crate::engine::{Identity, Storage};
use crate::export::Outcome;
use crate::image::{Descriptor, Digest};
use crate::progress::{Event, Events};

/// The beginning of dockerd's message about the result, which the command itself reports.
const RESULT: &str = "Loaded image";

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ProgressMode {
    Quiet,
    Lines,
    Bars,
}

impl ProgressMode {
    pub(super) fn of(quiet: bool) -> Self {
        match (quiet, is_capable(io::stderr().is_terminal(), std::env::var_os("TERM").as_deref())) {
            (true, _) => Self::Quiet,
            (false, true) => Self::Bars,
            (false, false) => Self::Lines,
        }
    }

    /// A gauge for a stream of `total` bytes.
    pub(super) fn gauge(self, total: u64) -> Gauge {
        Gauge((self == Self::Bars).then(|| bars::bar(total).with_prefix("archive").with_message("writing")))
    }

    /// Runs `work` and shows its events; the second result is what they add up to. The bars are cleared on every exit
    /// path, so that later output starts on its own line.
    pub(super) async fn show<F: Future>(self, work: impl FnOnce(Events) -> F) -> (F::Output, Tally) {
        let view = match self {
            Self::Quiet => View::Nothing,
            Self::Lines => View::Lines(Lines::default()),
            Self::Bars => View::Bars(Box::default()),
        };
        let shown = Arc::new(Mutex::new(Shown { view, tally: Tally::default() }));
        // Dropped together with an interrupted `work`.
        let end = End(shown.clone());
        let events = Events::new(move |event| shown.lock().unwrap_or_else(PoisonError::into_inner).show(event));
        let output = work(events).await;
        let tally = std::mem::take(&mut end.0.lock().unwrap_or_else(PoisonError::into_inner).tally);
        (output, tally)
    }
}

/// What the events of an export add up to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Tally {
    /// How many layers were unpacked.
    pub(super) unpacked: usize,
    /// What each node of a cluster was sent.
    pub(super) nodes: Vec<NodeTally>,
}

/// What one node of a cluster was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NodeTally {
    pub(super) node: String,
    pub(super) outcome: Outcome,
    pub(super) unpacked: usize,
}

impl Tally {
    /// The same for an export into the engine `identity` of which `outcome` came: if all nodes of a cluster had all, there were no
    /// events.
    pub(super) fn of(mut self, identity: &Identity, outcome: Outcome) -> Self {
        if let Storage::Cluster { nodes, .. } = &identity.storage
            && self.nodes.is_empty()
        {
            self.nodes = nodes.to_vec().into_iter().map(|node| NodeTally { node, outcome, unpacked: 0 }).collect();
        }
        self
    }
}

/// The summary of an export, as one line.
pub(super) fn summary(outcome: Outcome, unpacked: usize) -> String {
    let Outcome { sent_blobs, sent_bytes, present_blobs } = outcome;
    let unpacked = match unpacked {
        0 => String::new(),
        unpacked => format!("; {} unpacked", show::count(unpacked, "layer")),
    };
    format!(
        "sent {} ({}); {present_blobs} {} there{unpacked}",
        show::count(sent_blobs, "blob"),
        show::size(sent_bytes),
        if present_blobs == 1 { "was" } else { "were" }
    )
}

/// What is there and what is to be sent, as one line.
fn planned(present: usize, count: usize, bytes: u64) -> String {
    let verb = if present == 1 { "is" } else { "are" };
    format!("{} {verb} there, {count} to send ({})", show::count(present, "blob"), show::size(bytes))
}

/// Whether bars can be drawn: on a terminal that can move its cursor. Editors and build services set `TERM=dumb`.
fn is_capable(is_terminal: bool, term: Option<&OsStr>) -> bool {
    is_terminal && term.is_some_and(|term| !term.is_empty() && term != "dumb")
}

/// The current view, and the counters for the summary.
#[derive(Debug)]
struct Shown {
    view: View,
    tally: Tally,
}

#[derive(Debug)]
enum View {
    Nothing,
    Lines(Lines),
    Bars(Box<Bars>),
}

impl Shown {
    fn show(&mut self, event: &Event) {
        match event {
            Event::Note(note) if note.starts_with(RESULT) => return,
            Event::Unpacked { .. } => self.tally.unpacked += 1,
            Event::Node { node, sent_blobs, sent_bytes, present_blobs, unpacked } => {
                let (sent_blobs, sent_bytes, present_blobs) = (*sent_blobs, *sent_bytes, *present_blobs);
                let outcome = Outcome { sent_blobs, sent_bytes, present_blobs };
                self.tally.nodes.push(NodeTally { node: node.clone(), outcome, unpacked: *unpacked });
            }
            _ => {}
        }
        match &mut self.view {
            View::Nothing => {}
            View::Lines(lines) => lines.show(event),
            View::Bars(bars) => bars.show(event),
        }
    }
}

/// Ends the view when dropped: the clean-up of an interrupted export is not shown.
struct End(Arc<Mutex<Shown>>);

impl Drop for End {
    fn drop(&mut self) {
        let mut shown = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let View::Bars(mut bars) = std::mem::replace(&mut shown.view, View::Nothing)
            && bars.end()
        {
            // The cursor is still behind the last bar.
            line("");
        }
    }
}

/// The progress of one stream of bytes, shown as a bar until the stream ends.
#[derive(Debug)]
pub(super) struct Gauge(Option<ProgressBar>);

impl Gauge {
    pub(super) fn set(&self, bytes: u64) {
        if let Some(bar) = &self.0 {
            bar.set_position(bytes);
        }
    }

    pub(super) fn end(&self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

/// A blob as docker and ctr show it.
fn short(digest: &Digest) -> &str {
    &digest.hex()[..12]
}

/// A line for each blob that was sent, and for each layer that the engine had but had to unpack.
#[derive(Debug, Default)]
struct Lines {
    missing: HashMap<Digest, u64>,
}

impl Lines {
    fn show(&mut self, event: &Event) {
        match event {
            // If nothing is sent, the result is enough.
            Event::Planned { missing, stored, .. } if missing.is_empty() && stored.is_empty() => {}
            Event::Planned { present, missing, stored } => {
                let bytes = missing.iter().chain(stored).map(|blob| blob.size).fold(0, u64::saturating_add);
                let count = missing.len() + stored.len();
                line(&planned(*present, count, bytes));
                self.missing = missing.iter().map(|Descriptor { digest, size, .. }| (digest.clone(), *size)).collect();
            }
            Event::Stored { digest } => {
                let size = self.missing.get(digest).copied().unwrap_or(0);
                line(&format!("{}: sent {}", short(digest), show::size(size)));
            }
            Event::Unpacked { digest } if !self.missing.contains_key(digest) => {
                line(&format!("{}: unpacked", short(digest)));
            }
            Event::Note(note) | Event::NotUnpacked { reason: note } => line(note),
            _ => {}
        }
    }
}

/// A closed stderr is ignored.
fn line(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_terminals_that_can_be_drawn_on_get_bars() {
        for (is_terminal, term, expected) in [
            (true, Some("xterm"), true),
            (true, Some("dumb"), false),
            (true, Some(""), false),
            (false, Some("xterm"), false),
        ] {
            assert_eq!(is_capable(is_terminal, term.map(OsStr::new)), expected, "{term:?}");
        }
    }

    #[test]
    fn the_last_line_adds_up() {
        let outcome = Outcome { sent_blobs: 1, sent_bytes: 12_345, present_blobs: 3 };
        assert_eq!(summary(outcome, 0), "sent 1 blob (12.35kB); 3 were there");
        assert_eq!(summary(Outcome { present_blobs: 1, ..outcome }, 0), "sent 1 blob (12.35kB); 1 was there");
        assert_eq!(planned(1, 4, 12_345), "1 blob is there, 4 to send (12.35kB)");
        assert_eq!(planned(0, 1, 5), "0 blobs are there, 1 to send (5B)");
        assert_eq!(
            summary(Outcome { sent_blobs: 2, ..outcome }, 1),
            "sent 2 blobs (12.35kB); 3 were there; 1 layer unpacked"
        );
    }
}
