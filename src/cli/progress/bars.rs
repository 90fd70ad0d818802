//! Bars: one for each blob that is sent, or one for all of them where they would not fit on the screen.

use std::collections::{HashMap, HashSet};
use std::fmt::Write;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressState, ProgressStyle};

use super::{short, show};
use crate::image::Digest;
use crate::progress::Event;

/// How many bars there are at most: they must fit on a small screen, or they cannot be redrawn.
const MOST_BARS: usize = 16;
/// How often a bar is drawn where nothing changes: the last change may have come too soon after another one.
const TICK: Duration = Duration::from_millis(150);
/// What is in a line beside the bar itself, in columns; and those at its end, for what the terminal writes there when
/// somebody types Ctrl-C: in the next line that would come between the bars.
const BESIDE: u16 = 12 + 1 + 1 + 9 + 1 + 9 + 1 + 11 + 1 + 9;
const SPARE: u16 = 3;
/// The shortest bar that is one.
const SHORTEST: u16 = 5;
/// What a terminal is taken to have that does not say.
const USUAL: u16 = 80;

#[derive(Debug, Default)]
pub(super) struct Bars {
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
    unpacking: HashSet<Digest>,
}

impl Together {
    fn set(&mut self, digest: Digest, current: u64) {
        let before = self.sent.insert(digest, current).unwrap_or(0);
        self.bytes = self.bytes.saturating_sub(before).saturating_add(current);
        self.bar.set_position(self.bytes);
    }

    fn say(&self) {
        let message = match self.stored < self.count || self.unpacking.is_empty() {
            true => format!("{}/{}", self.stored, self.count),
            false => "unpacking".to_owned(),
        };
        self.bar.set_message(message);
    }
}

impl Bars {
    pub(super) fn show(&mut self, event: Event) {
        match event {
            Event::Planned { missing, .. } if missing.len() > MOST_BARS => {
                let total = missing.iter().map(|blob| blob.size).fold(0, u64::saturating_add);
                let bar = self.add(bar(total).with_prefix("all blobs   ").with_message("sending"));
                let (sent, count, unpacking) = (HashMap::new(), missing.len(), HashSet::new());
                self.together = Some(Together { bar, sent, bytes: 0, stored: 0, count, unpacking });
            }
            Event::Sent { digest, current, total } => match &mut self.together {
                Some(together) => together.set(digest, current),
                None => self.bar(&digest, total).set_position(current),
            },
            Event::Stored { digest } => {
                if let Some(together) = &mut self.together {
                    together.stored += 1;
                    together.say();
                } else if let Some(bar) = self.bars.get(&digest) {
                    bar.set_position(bar.length().unwrap_or(0));
                    bar.set_message("sent");
                }
            }
            Event::Unpacking { digest } => match &mut self.together {
                Some(together) => {
                    together.unpacking.insert(digest);
                    together.say();
                }
                None => self.say(&digest, "unpacking"),
            },
            Event::Unpacked { digest } => match &mut self.together {
                Some(together) => {
                    together.unpacking.remove(&digest);
                    together.say();
                }
                None => self.say(&digest, "unpacked"),
            },
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

    /// Leaves the bars as they are: what is said next stands below them. Whether there are any.
    pub(super) fn end(&mut self) -> bool {
        let together = self.together.take().map(|together| together.bar);
        self.bars.drain().map(|(_, bar)| bar).chain(together).for_each(|bar| bar.abandon());
        std::mem::take(&mut self.is_drawn)
    }
}

pub(super) fn bar(total: u64) -> ProgressBar {
    let bar = ProgressBar::new(total);
    let columns = rustix::termios::tcgetwinsize(std::io::stderr()).map_or(0, |size| size.ws_col);
    let columns = if columns == 0 { USUAL } else { columns };
    let length = columns.saturating_sub(BESIDE + SPARE).max(SHORTEST);
    let template = format!("{{prefix}} {{bar:{length}}} {{sent:>9}}/{{size:9}} {{speed:>11}} {{msg:9}}");
    // The template is ours; were it wrong, the default one would do.
    let Ok(style) = ProgressStyle::with_template(&template) else { return bar };
    let style = style
        .with_key("sent", |state: &ProgressState, into: &mut dyn Write| write(into, &show::size(state.pos())))
        .with_key("size", |state: &ProgressState, into: &mut dyn Write| {
            write(into, &show::size(state.len().unwrap_or(0)));
        })
        .with_key("speed", |state: &ProgressState, into: &mut dyn Write| {
            // Of one that has come to its end nobody wants to know how slow it is now.
            if state.len().is_some_and(|len| state.pos() < len) {
                write(into, &format!("{}/s", show::size(state.per_sec() as u64)));
            }
        });
    bar.with_style(style)
}

/// Into the line of a bar, which takes everything.
fn write(into: &mut dyn Write, text: &str) {
    let _ = into.write_str(text);
}
