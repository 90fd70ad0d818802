//! What an export does, shown while it does it: bars on a terminal, lines elsewhere, both on stderr.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io::{self, IsTerminal as _, Write as _};
use std::sync::{Arc, Mutex, PoisonError};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::show;
use crate::image::{Descriptor, Digest};
use crate::progress::{Event, Events};

/// How many bars there are at most: they must fit on a small screen, or they cannot be redrawn.
const MOST_BARS: usize = 16;

/// How people are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Manner {
    Quiet,
    Lines,
    Bars,
}

impl Manner {
    pub(super) fn of(quiet: bool) -> Self {
        match (quiet, is_capable(io::stderr().is_terminal(), std::env::var_os("TERM").as_deref())) {
            (true, _) => Self::Quiet,
            (false, true) => Self::Bars,
            (false, false) => Self::Lines,
        }
    }

    /// How far a stream of `total` bytes is.
    pub(super) fn gauge(self, total: u64) -> Gauge {
        Gauge((self == Self::Bars).then(|| bar(total).with_prefix("archive").with_message("writing")))
    }

    /// Runs `work`, whose events are shown in this manner. Whatever becomes of it, what is said next stands by itself.
    pub(super) async fn show<F: Future>(self, work: impl FnOnce(Events) -> F) -> F::Output {
        let bars = Arc::new(Mutex::new(Bars::default()));
        let events = match self {
            Self::Quiet => Events::none(),
            Self::Lines => {
                let lines = Mutex::new(Lines::default());
                Events::new(move |event| lines.lock().unwrap_or_else(PoisonError::into_inner).show(event))
            }
            Self::Bars => {
                let bars = bars.clone();
                Events::new(move |event| bars.lock().unwrap_or_else(PoisonError::into_inner).show(event))
            }
        };
        // Dropped with the work when that is interrupted.
        let _end = End(bars);
        work(events).await
    }
}

/// Whether bars can be drawn: a terminal that moves its cursor. Those of editors and build services say `dumb`.
fn is_capable(is_terminal: bool, term: Option<&OsStr>) -> bool {
    is_terminal && term.is_some_and(|term| !term.is_empty() && term != "dumb")
}

/// The end of what is shown.
struct End(Arc<Mutex<Bars>>);

impl Drop for End {
    fn drop(&mut self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).end();
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

/// A bar for each blob that is sent; one for all of them where they would not fit on the screen.
#[derive(Debug, Default)]
struct Bars {
    all: MultiProgress,
    bars: HashMap<Digest, ProgressBar>,
    together: Option<Together>,
    is_drawn: bool,
}

/// Many blobs, as one.
#[derive(Debug)]
struct Together {
    bar: ProgressBar,
    sent: HashMap<Digest, u64>,
    bytes: u64,
    stored: usize,
    count: usize,
}

impl Together {
    fn set(&mut self, digest: Digest, current: u64) {
        let before = self.sent.insert(digest, current).unwrap_or(0);
        self.bytes = self.bytes.saturating_sub(before).saturating_add(current);
        self.bar.set_position(self.bytes);
    }
}

impl Bars {
    fn show(&mut self, event: Event) {
        match event {
            Event::Planned { missing, .. } if missing.len() > MOST_BARS => {
                let total = missing.iter().map(|blob| blob.size).fold(0, u64::saturating_add);
                let bar = self.add(bar(total).with_prefix("all blobs   ").with_message("sending"));
                let (sent, count) = (HashMap::new(), missing.len());
                self.together = Some(Together { bar, sent, bytes: 0, stored: 0, count });
            }
            Event::Sent { digest, current, total } => match &mut self.together {
                Some(together) => together.set(digest, current),
                None => self.bar(&digest, total).set_position(current),
            },
            Event::Stored { digest } => {
                if let Some(Together { bar, stored, count, .. }) = &mut self.together {
                    *stored += 1;
                    bar.set_message(format!("{stored}/{count}"));
                } else if let Some(bar) = self.bars.get(&digest) {
                    bar.abandon_with_message("sent");
                }
            }
            Event::Unpacking { digest } => self.say(&digest, "unpacking"),
            Event::Unpacked { digest } => self.say(&digest, "unpacked"),
            Event::Note(note) => {
                let _ = self.all.println(note);
            }
            _ => {}
        }
    }

    fn say(&self, digest: &Digest, what: &'static str) {
        if let Some(bar) = self.bars.get(digest) {
            bar.set_message(what);
        }
    }

    fn add(&mut self, bar: ProgressBar) -> ProgressBar {
        self.is_drawn = true;
        self.all.add(bar)
    }

    fn bar(&mut self, digest: &Digest, total: u64) -> &ProgressBar {
        if !self.bars.contains_key(digest) {
            let bar = self.add(bar(total).with_prefix(short(digest).to_owned()).with_message("sending"));
            self.bars.insert(digest.clone(), bar);
        }
        &self.bars[digest]
    }

    /// Leaves the bars as they are: what is said next stands below them.
    fn end(&mut self) {
        let together = self.together.take().map(|together| together.bar);
        let bars = self.bars.drain().map(|(_, bar)| bar).chain(together);
        // One that has ended shows how fast that was.
        bars.filter(|bar| !bar.is_finished()).for_each(|bar| bar.abandon());
        // The cursor stays behind the last bar.
        if std::mem::take(&mut self.is_drawn) {
            line("");
        }
    }
}

fn bar(total: u64) -> ProgressBar {
    let bar = ProgressBar::new(total);
    let template = "{prefix} {wide_bar} {decimal_bytes:>9}/{decimal_total_bytes:9} {decimal_bytes_per_sec:>11} {msg:9}";
    // The template is a constant; were it wrong, the default one would do.
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}
