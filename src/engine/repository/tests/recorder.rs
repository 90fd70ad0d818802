//! A disk that records every operation, can make one of them fail, and computes what a power loss after any of them
//! could leave.
//!
//! The model is the weakest that POSIX promises: content is safe once its file was synced, a name once its folder was.
//! Anything else may or may not survive a power loss, independently and in any order; a file may have its length and
//! not its content.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use bytes::Bytes;

use crate::engine::local::testing::{Disk, DiskFile, System};

/// An inode: a folder, or a file by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Node {
    Folder,
    File(usize),
}

#[derive(Debug, Clone)]
enum Operation {
    Named { path: PathBuf, node: Node },
    Renamed { from: PathBuf, to: PathBuf },
    Removed { path: PathBuf },
    Written { file: usize, bytes: Vec<u8> },
    Cleared { file: usize },
    FileSynced { file: usize },
    FolderSynced { path: PathBuf },
    AllSynced,
}

/// What a power loss destroys of everything that is not safe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Loss {
    /// Names and content.
    All,
    /// Content; every name is there, and every file has its length.
    Content,
    /// Names.
    Names,
    /// Nothing: the process was merely killed.
    Nothing,
    /// Each name and each content independently, by a seed.
    Some(u64),
}

#[derive(Debug, Default)]
struct Log {
    operations: Vec<Operation>,
    /// The file that each path names now.
    names: HashMap<PathBuf, usize>,
    files: usize,
}

/// The disk of this machine, with a log of its operations.
#[derive(Debug, Clone, Default)]
pub(super) struct Recorder {
    log: Arc<Mutex<Log>>,
    /// The first operation that fails, if any, counted from 0, and how many fail from there on.
    fails: Option<(usize, usize)>,
    attempts: Arc<Mutex<usize>>,
}

impl Recorder {
    /// A disk of which `count` operations, from operation `at` on, fail with ENOSPC.
    pub(super) fn failing(at: usize, count: usize) -> Self {
        Self { fails: Some((at, count)), ..Self::default() }
    }

    /// The number of operations in the log.
    pub(super) fn len(&self) -> usize {
        self.log.lock().unwrap().operations.len()
    }

    /// The number of operations that were attempted.
    pub(super) fn attempts(&self) -> usize {
        *self.attempts.lock().unwrap()
    }

    fn attempt(&self) -> io::Result<()> {
        let mut attempts = self.attempts.lock().unwrap();
        let now = *attempts;
        *attempts += 1;
        match self.fails {
            // ENOSPC, errno(3).
            Some((at, count)) if (at..at + count).contains(&now) => Err(io::Error::from_raw_os_error(28)),
            _ => Ok(()),
        }
    }

    fn note(&self, operation: Operation) {
        self.log.lock().unwrap().operations.push(operation);
    }

    /// Writes to `to` what a power loss after the first `count` operations leaves of `root`, which was a copy of
    /// `before`.
    pub(super) fn lose_power(&self, count: usize, loss: Loss, before: Option<&Path>, root: &Path, to: &Path) {
        let log = self.log.lock().unwrap();
        let operations = &log.operations[..count];
        let mut coin = Coin(match loss {
            Loss::Some(seed) => seed,
            _ => 0,
        });
        let mut tree: BTreeMap<PathBuf, Node> = BTreeMap::new();
        for (at, operation) in operations.iter().enumerate() {
            let is_safe = is_safe(operation, &operations[at + 1..]);
            let is_kept = is_safe
                || match loss {
                    Loss::All | Loss::Names => false,
                    Loss::Content | Loss::Nothing => true,
                    Loss::Some(_) => coin.toss(),
                };
            if !is_kept {
                continue;
            }
            match operation {
                Operation::Named { path, node } => {
                    tree.insert(path.clone(), *node);
                }
                Operation::Renamed { from, to } => {
                    if let Some(node) = tree.remove(from).or_else(|| node_at(&operations[..at], from)) {
                        tree.insert(to.clone(), node);
                    }
                }
                Operation::Removed { path } => {
                    tree.remove(path);
                    // A file from before the log began.
                    let _ = fs::remove_file(to.join(path.strip_prefix(root).unwrap()));
                }
                _ => {}
            }
        }
        let had = |path: &Path| before.is_some_and(|before| before.join(path).is_dir());
        for (path, node) in &tree {
            let Ok(path) = path.strip_prefix(root) else { continue };
            // A name in a folder that was lost is lost.
            let has_folder = path.parent().is_none_or(|parent| to.join(parent).is_dir() || had(parent));
            match node {
                Node::Folder if has_folder => fs::create_dir_all(to.join(path)).unwrap(),
                Node::File(file) if has_folder => {
                    fs::write(to.join(path), content(*file, operations, loss, &mut coin)).unwrap();
                }
                _ => {}
            }
        }
    }
}

/// Whether the name that `operation` set or removed is safe after `later`.
fn is_safe(operation: &Operation, later: &[Operation]) -> bool {
    let path = match operation {
        Operation::Named { path, .. } | Operation::Removed { path } | Operation::Renamed { to: path, .. } => path,
        _ => return true,
    };
    later.iter().any(|later| match later {
        Operation::FolderSynced { path: folder } => path.parent() == Some(folder),
        Operation::AllSynced => true,
        _ => false,
    })
}

/// The inode of `path` after `operations`, whether that was safe or not.
fn node_at(operations: &[Operation], path: &Path) -> Option<Node> {
    operations.iter().rev().find_map(|operation| match operation {
        Operation::Named { path: named, node } if named == path => Some(*node),
        _ => None,
    })
}

/// A file's content after a power loss.
fn content(file: usize, operations: &[Operation], loss: Loss, coin: &mut Coin) -> Vec<u8> {
    let is_sync = |operation: &Operation| match operation {
        Operation::FileSynced { file: synced } => *synced == file,
        Operation::AllSynced => true,
        _ => false,
    };
    let synced = operations.iter().rposition(is_sync).map_or(0, |at| at + 1);
    let upto = |count: usize| {
        let mut bytes = Vec::new();
        for operation in &operations[..count] {
            match operation {
                Operation::Written { file: written, bytes: more } if *written == file => bytes.extend_from_slice(more),
                Operation::Cleared { file: cleared } if *cleared == file => bytes.clear(),
                _ => {}
            }
        }
        bytes
    };
    let (safe, whole) = (upto(synced), upto(operations.len()));
    let holes = |mut bytes: Vec<u8>| {
        let from = safe.len().min(bytes.len());
        bytes[from..].fill(0);
        bytes
    };
    match loss {
        Loss::All => safe,
        Loss::Content => holes(whole),
        Loss::Names | Loss::Nothing => whole,
        Loss::Some(_) if coin.toss() => whole,
        Loss::Some(_) if coin.toss() => holes(whole),
        Loss::Some(_) => safe,
    }
}

/// Heads or tails, by a seed (xorshift).
struct Coin(u64);

impl Coin {
    fn toss(&mut self) -> bool {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (x ^ (x >> 31)) & 1 == 1
    }
}

impl Disk for Recorder {
    fn create_folder(&self, path: &Path) -> io::Result<()> {
        self.attempt()?;
        let is_new = !path.exists();
        System.create_folder(path)?;
        if is_new {
            self.note(Operation::Named { path: path.to_owned(), node: Node::Folder });
        }
        Ok(())
    }

    fn append(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.attempt()?;
        let file = System.append(path)?;
        let mut log = self.log.lock().unwrap();
        let known = log.names.get(path).copied();
        let number = known.unwrap_or_else(|| {
            let number = log.files;
            log.files += 1;
            log.names.insert(path.to_owned(), number);
            log.operations.push(Operation::Named { path: path.to_owned(), node: Node::File(number) });
            number
        });
        Ok(Box::new(Recorded { file, number, disk: self.clone() }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.attempt()?;
        if to.ends_with("index.json") {
            let lock = File::open(to.with_file_name(".linkspan/lock"))?;
            assert!(lock.try_lock_shared().is_err(), "others might be replacing the index at this moment");
        }
        System.rename(from, to)?;
        let mut log = self.log.lock().unwrap();
        if let Some(number) = log.names.remove(from) {
            log.names.insert(to.to_owned(), number);
        }
        log.operations.push(Operation::Renamed { from: from.to_owned(), to: to.to_owned() });
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.attempt()?;
        let was_there = path.symlink_metadata().is_ok();
        System.remove(path)?;
        let mut log = self.log.lock().unwrap();
        log.names.remove(path);
        if was_there {
            log.operations.push(Operation::Removed { path: path.to_owned() });
        }
        Ok(())
    }

    fn remove_folder(&self, path: &Path) -> io::Result<()> {
        self.attempt()?;
        let was_there = path.exists();
        System.remove_folder(path)?;
        if was_there {
            self.note(Operation::Removed { path: path.to_owned() });
        }
        Ok(())
    }

    fn sync_file(&self, path: &Path) -> io::Result<()> {
        self.attempt()?;
        System.sync_file(path)?;
        let number = self.log.lock().unwrap().names.get(path).copied();
        self.note(Operation::FileSynced { file: number.expect("a file of ours") });
        Ok(())
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        self.attempt()?;
        System.sync_folder(path)?;
        self.note(Operation::FolderSynced { path: path.to_owned() });
        Ok(())
    }

    fn sync_all(&self, folder: &Path) -> io::Result<()> {
        self.attempt()?;
        System.sync_all(folder)?;
        self.note(Operation::AllSynced);
        Ok(())
    }
}

#[derive(Debug)]
struct Recorded {
    file: Box<dyn DiskFile>,
    number: usize,
    disk: Recorder,
}

impl DiskFile for Recorded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.disk.attempt()?;
        self.file.write(bytes)?;
        self.disk.note(Operation::Written { file: self.number, bytes: bytes.to_vec() });
        Ok(())
    }

    fn extend(&mut self, at: u64, chunks: &mut dyn Iterator<Item = Bytes>) -> io::Result<u64> {
        self.disk.attempt()?;
        let mut bytes = Vec::new();
        let count = self.file.extend(at, &mut chunks.inspect(|chunk| bytes.extend_from_slice(chunk)))?;
        self.disk.note(Operation::Written { file: self.number, bytes });
        Ok(count)
    }

    fn clear(&mut self) -> io::Result<()> {
        self.disk.attempt()?;
        self.file.clear()?;
        self.disk.note(Operation::Cleared { file: self.number });
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.disk.attempt()?;
        self.file.sync()?;
        self.disk.note(Operation::FileSynced { file: self.number });
        Ok(())
    }

    fn file(&self) -> &File {
        self.file.file()
    }
}

/// Copies a folder recursively.
pub(super) fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    let mut seen = HashSet::new();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        assert!(seen.insert(entry.file_name()));
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &to.join(entry.file_name())),
            false => fs::copy(entry.path(), to.join(entry.file_name())).map(|_| ()).unwrap(),
        }
    }
}
