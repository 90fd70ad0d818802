//! What an export does, shown while it does it: bars on a terminal, lines elsewhere, both on stderr.

use std::collections::HashMap;
use std::io::{self, IsTerminal as _, Write as _};
use std::sync::{Arc, Mutex, PoisonError};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::show;
use crate::image::{Descriptor, Digest};
use crate::progress::{Event, Events};

/// How people are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Manner {
    Quiet,
    Lines,
    Bars,
}

impl Manner {
    pub(super) fn of(quiet: bool) -> Self {
        match (quiet, io::stderr().is_terminal()) {
            (true, _) => Self::Quiet,
            (false, true) => Self::Bars,
            (false, false) => Self::Lines,
        }
    }

    /// How far a stream of `total` bytes is.
    pub(super) fn gauge(self, total: u64) -> Gauge {
        Gauge((self == Self::Bars).then(|| bar(total).with_prefix("archive").with_message("writing")))
    }

    /// Events that are shown in this manner.
    pub(super) fn events(self) -> Events {
        match self {
            Self::Quiet => Events::none(),
            Self::Lines => {
                let lines = Mutex::new(Lines::default());
                Events::new(move |event| lines.lock().unwrap_or_else(PoisonError::into_inner).show(event))
            }
            Self::Bars => {
                let bars = Arc::new(Mutex::new(Bars::default()));
                Events::new(move |event| bars.lock().unwrap_or_else(PoisonError::into_inner).show(event))
            }
        }
    }
}

/// How far one stream of bytes is. Only a bar shows that; it goes when the stream has ended.
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

/// As docker and ctr show a blob.
fn short(digest: &Digest) -> &str {
    &digest.hex()[..12]
}

/// A line for each blob that is sent, when it begins to be unpacked, and when it is done.
#[derive(Debug, Default)]
struct Lines {
    missing: HashMap<Digest, u64>,
}

impl Lines {
    fn show(&mut self, event: Event) {
        match event {
            // With nothing to send the result says it all.
            Event::Planned { missing, .. } if missing.is_empty() => {}
            Event::Planned { present, missing } => {
                let bytes = missing.iter().map(|blob| blob.size).fold(0, u64::saturating_add);
                line(&format!("{present} blobs are there, {} to send ({})", missing.len(), show::size(bytes)));
                self.missing = missing.into_iter().map(|Descriptor { digest, size, .. }| (digest, size)).collect();
            }
            Event::Stored { digest } => {
                let size = self.missing.get(&digest).copied().unwrap_or(0);
                line(&format!("{}: sent {}", short(&digest), show::size(size)));
            }
            Event::Unpacked { digest } => line(&format!("{}: unpacked", short(&digest))),
            Event::Note(note) => line(&note),
            _ => {}
        }
    }
}

/// If stderr is closed nobody watches.
fn line(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// A bar for each blob that is sent.
#[derive(Debug, Default)]
struct Bars {
    all: MultiProgress,
    bars: HashMap<Digest, ProgressBar>,
}

impl Bars {
    fn show(&mut self, event: Event) {
        match event {
            Event::Sent { digest, current, total } => self.bar(&digest, total).set_position(current),
            Event::Stored { digest } => {
                if let Some(bar) = self.bars.get(&digest) {
                    bar.abandon_with_message("sent");
                }
            }
            Event::Unpacking { digest } => {
                if let Some(bar) = self.bars.get(&digest) {
                    bar.set_message("unpacking");
                }
            }
            Event::Unpacked { digest } => {
                if let Some(bar) = self.bars.get(&digest) {
                    bar.abandon_with_message("unpacked");
                }
            }
            Event::Note(note) => {
                let _ = self.all.println(note);
            }
            _ => {}
        }
    }

    fn bar(&mut self, digest: &Digest, total: u64) -> &ProgressBar {
        self.bars
            .entry(digest.clone())
            .or_insert_with(|| self.all.add(bar(total).with_prefix(short(digest).to_owned()).with_message("sending")))
    }
}

fn bar(total: u64) -> ProgressBar {
    let bar = ProgressBar::new(total);
    // The template is a constant; were it wrong, the default one would do.
    match ProgressStyle::with_template("{prefix} {bar:30} {bytes:>10}/{total_bytes:10} {bytes_per_sec:12} {msg}") {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}
