//! What is read from files, and read again when they change.

use std::fmt::{self, Debug};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How often it is looked whether the files have changed, at most.
const LOOK: Duration = Duration::from_secs(1);

/// A value that was read from files.
pub(crate) struct Reloaded<T> {
    /// What it is, for the log: `the certificate of listeners`.
    what: &'static str,
    paths: Vec<PathBuf>,
    load: Box<dyn Fn() -> Result<T, String> + Send + Sync>,
    state: Mutex<State<T>>,
}

struct State<T> {
    value: Arc<T>,
    stamps: Vec<Option<Stamp>>,
    looked: Instant,
}

/// What changes when a file is written or replaced.
#[derive(Debug, PartialEq, Eq)]
struct Stamp {
    file: (u64, u64, u64),
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(path: &Path) -> Option<Self> {
        let found = path.metadata().ok()?;
        Some(Self {
            file: (found.dev(), found.ino(), found.len()),
            modified: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
        })
    }
}

impl<T> Reloaded<T> {
    /// Reads the value with `load`, which reads `paths`.
    pub(crate) fn open<E: fmt::Display>(
        what: &'static str,
        paths: Vec<PathBuf>,
        load: impl Fn() -> Result<T, E> + Send + Sync + 'static,
    ) -> Result<Self, E> {
        // Before the files are read: a change meanwhile is seen by the next look.
        let stamps = stamps(&paths);
        let state = State { value: Arc::new(load()?), stamps, looked: Instant::now() };
        let load = Box::new(move || load().map_err(|error| error.to_string()));
        Ok(Self { what, paths, load, state: Mutex::new(state) })
    }

    /// The value. Files that cannot be used leave it as it was, and the log says so once.
    pub(crate) fn current(&self) -> Arc<T> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if self.paths.is_empty() || state.looked.elapsed() < LOOK {
            return state.value.clone();
        }
        state.looked = Instant::now();
        let stamps = stamps(&self.paths);
        if stamps != state.stamps {
            state.stamps = stamps;
            // It waits for nothing (`plain_file`): all connections would.
            match (self.load)() {
                Ok(value) => {
                    tracing::info!("{} was read again", self.what);
                    state.value = Arc::new(value);
                }
                Err(error) => {
                    tracing::warn!(%error, "{} stays as it was: its files have changed, and are not usable", self.what)
                }
            }
        }
        state.value.clone()
    }
}

fn stamps(paths: &[PathBuf]) -> Vec<Option<Stamp>> {
    paths.iter().map(|path| Stamp::of(path)).collect()
}

impl<T> Debug for Reloaded<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reloaded").field("what", &self.what).field("paths", &self.paths).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_seen_and_a_broken_one_leaves_the_value() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("number");
        std::fs::write(&path, "1").unwrap();
        let read = path.clone();
        let load = move || crate::plain_file::read_text(&read, 9)?.parse::<u32>().map_err(std::io::Error::other);
        let reloaded = Reloaded::open("the number", vec![path.clone()], load).unwrap();
        let next = || {
            reloaded.state.lock().unwrap().looked -= LOOK;
            *reloaded.current()
        };
        assert_eq!(next(), 1);
        std::fs::write(&path, "broken").unwrap();
        assert_eq!((next(), next()), (1, 1));
        std::fs::write(&path, "22").unwrap();
        assert_eq!(*reloaded.current(), 1, "it is not looked at for every call");
        assert_eq!(next(), 22);
        std::fs::remove_file(&path).unwrap();
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        assert_eq!(next(), 22, "a pipe is not waited for");
        assert!(Reloaded::open("the number", Vec::new(), || "x".parse::<u32>()).is_err());
    }
}
