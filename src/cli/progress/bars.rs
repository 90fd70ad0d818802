//! Bars: one for each blob that is sent, or one for all blobs if they do not fit on the screen.

use std::collections::{HashMap, HashSet};
use std::fmt::Write;
use std::io::stderr;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressState, ProgressStyle};
use rustix::process::getpgrp;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcgetpgrp, tcsetattr};

use super::{short, show};
use crate::image::Digest;
use crate::progress::Event;

/// The maximum number of bars: they must fit on a small screen to be redrawn.
const MOST_BARS: usize = 16;
/// How often an unchanged bar is redrawn: the last change may have been skipped by the rate limit.
const TICK: Duration = Duration::from_millis(150);
/// On 80 columns the bar itself has about twenty.
const TEMPLATE: &str = "{prefix} {wide_bar} {sent:>9}/{size:9} {speed:>11} {msg:9}";

#[derive(Debug, Default)]
pub(super) struct Bars {
    all: MultiProgress,
    bars: HashMap<Digest, ProgressBar>,
    together: Option<CombinedBar>,
    is_drawn: bool,
    unechoed: Option<EchoOff>,
}

/// Turns off the echo of `^C`, which would appear behind the last bar and break the redrawing. Restores the terminal when
/// dropped.
#[derive(Debug)]
struct EchoOff(Termios);

impl EchoOff {
    fn new() -> Option<Self> {
        let before = tcgetattr(stderr()).ok()?;
        let mut changed = before.clone();
        changed.local_modes.remove(LocalModes::ECHOCTL);
        let this = Self(before);
        set(&changed).then_some(this)
    }
}

impl Drop for EchoOff {
    fn drop(&mut self) {
        set(&self.0);
    }
}

/// Changes the terminal, unless this process is in the background: the change would stop it (SIGTTOU).
fn set(attributes: &Termios) -> bool {
    let is_in_front = tcgetpgrp(stderr()).is_ok_and(|group| group == getpgrp());
    is_in_front && tcsetattr(stderr(), OptionalActions::Now, attributes).is_ok()
}

/// The sum of many blobs.
#[derive(Debug)]
struct CombinedBar {
    bar: ProgressBar,
    sent: HashMap<Digest, u64>,
    bytes: u64,
    stored: usize,
    count: usize,
    unpacking: HashSet<Digest>,
}

impl CombinedBar {
    fn set(&mut self, digest: &Digest, current: u64) {
        let before = self.sent.insert(digest.clone(), current).unwrap_or(0);
        self.bytes = self.bytes.saturating_sub(before).saturating_add(current);
        self.bar.set_position(self.bytes);
    }

    fn show_state(&self) {
        let message = match self.stored < self.count || self.unpacking.is_empty() {
            true => format!("{}/{}", self.stored, self.count),
            false => "unpacking".to_owned(),
        };
        self.bar.set_message(message);
    }
}

impl Bars {
    pub(super) fn show(&mut self, event: &Event) {
        match event {
            Event::Planned { missing, .. } if missing.len() > MOST_BARS => {
                let total = missing.iter().map(|blob| blob.size).fold(0, u64::saturating_add);
                let bar = self.add(bar(total).with_prefix("all blobs   ").with_message("sending"));
                let (sent, count, unpacking) = (HashMap::new(), missing.len(), HashSet::new());
                self.together = Some(CombinedBar { bar, sent, bytes: 0, stored: 0, count, unpacking });
            }
            Event::Sent { digest, current, total } => match &mut self.together {
                Some(together) => together.set(digest, *current),
                None => self.bar(digest, *total).set_position(*current),
            },
            Event::Stored { digest } => {
                if let Some(together) = &mut self.together {
                    together.stored += 1;
                    together.show_state();
                } else if let Some(bar) = self.bars.get(digest) {
                    bar.set_position(bar.length().unwrap_or(0));
                    bar.set_message("sent");
                }
            }
            Event::Unpacking { digest } => match &mut self.together {
                Some(together) => {
                    together.unpacking.insert(digest.clone());
                    together.show_state();
                }
                None => self.set_message(digest, "unpacking"),
            },
            Event::Unpacked { digest } => match &mut self.together {
                Some(together) => {
                    together.unpacking.remove(digest);
                    together.show_state();
                }
                None => self.set_message(digest, "unpacked"),
            },
            Event::Note(note) => {
                let _ = self.all.println(note);
            }
            _ => {}
        }
    }

    fn set_message(&self, digest: &Digest, what: &'static str) {
        if let Some(bar) = self.bars.get(digest) {
            bar.set_message(what);
        }
    }

    fn add(&mut self, bar: ProgressBar) -> ProgressBar {
        if !std::mem::replace(&mut self.is_drawn, true) {
            self.unechoed = EchoOff::new();
        }
        let bar = self.all.add(bar);
        bar.enable_steady_tick(TICK);
        bar
    }

    fn bar(&mut self, digest: &Digest, total: u64) -> &ProgressBar {
        if !self.bars.contains_key(digest) {
            let bar = self.add(bar(total).with_prefix(short(digest).to_owned()).with_message("sending"));
            self.bars.insert(digest.clone(), bar);
        }
        &self.bars[digest]
    }

    /// Leaves the bars as they are, above later output. Returns whether there are any.
    pub(super) fn end(&mut self) -> bool {
        let together = self.together.take().map(|together| together.bar);
        self.bars.drain().map(|(_, bar)| bar).chain(together).for_each(|bar| bar.abandon());
        self.unechoed = None;
        std::mem::take(&mut self.is_drawn)
    }
}

pub(super) fn bar(total: u64) -> ProgressBar {
    let bar = ProgressBar::new(total);
    // The template is a constant; if it were wrong, the default would be used.
    let Ok(style) = ProgressStyle::with_template(TEMPLATE) else { return bar };
    let style = style
        .with_key("sent", |state: &ProgressState, into: &mut dyn Write| write(into, &show::size(state.pos())))
        .with_key("size", |state: &ProgressState, into: &mut dyn Write| {
            write(into, &show::size(state.len().unwrap_or(0)));
        })
        .with_key("speed", |state: &ProgressState, into: &mut dyn Write| {
            // A finished bar shows no rate.
            if state.len().is_some_and(|len| state.pos() < len) {
                write(into, &format!("{}/s", show::size(state.per_sec() as u64)));
            }
        });
    bar.with_style(style)
}

/// Writes into the line of a bar, which cannot fail.
fn write(into: &mut dyn Write, text: &str) {
    let _ = into.write_str(text);
}
