//! Which process a lease belongs to, and whether that process still lives.

use std::fmt;
use std::fs;
use std::str::FromStr;

use crate::image::Digest;

/// A process, named so that no other process ever has the same name: boot, pid namespace, pid and start time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Process {
    boot: String,
    namespace: String,
    pid: u32,
    /// Clock ticks since boot (field 22 of proc_pid_stat(5)).
    start: u64,
}

impl Process {
    /// This process.
    pub(crate) fn this() -> Self {
        let pid = std::process::id();
        Self { boot: boot(), namespace: namespace(), pid, start: start(pid).unwrap_or_default() }
    }

    /// Whether it began since this machine was started: only then can be told whether it lives.
    pub(crate) fn is_of_this_boot(&self) -> bool {
        !self.boot.is_empty() && self.boot == boot()
    }

    /// Whether it runs, or ran, on the machine of the other one.
    pub(crate) fn is_beside(&self, other: &Self) -> bool {
        self.boot == other.boot
    }

    /// A shorter name, for files: the boot and the pid namespace are a part of a digest.
    pub(crate) fn short(&self) -> String {
        let place = Digest::sha256(format!("{}/{}", self.boot, self.namespace).as_bytes());
        format!("{}-{}-{}", &place.hex()[..12], self.pid, self.start)
    }

    /// Whether it is certain that the process of this short name was here, and does not live any more.
    pub(crate) fn is_gone_by_short(short: &str) -> bool {
        let this = Self::this();
        let mut parts = short.splitn(3, '-').skip(1);
        let (Some(Ok(pid)), Some(Ok(start))) = (parts.next().map(str::parse), parts.next().map(str::parse)) else {
            return false;
        };
        let process = Self { pid, start, ..this };
        process.short() == short && process.is_gone()
    }

    /// Whether it is certain that the process does not live any more. A process of another pid namespace
    /// (a Linkspan in another container) cannot be seen from here and counts as living until the machine restarts.
    pub(crate) fn is_gone(&self) -> bool {
        if self.boot != boot() {
            return true;
        }
        self.namespace == namespace() && start(self.pid) != Some(self.start)
    }
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}/{}", self.boot, self.namespace, self.pid, self.start)
    }
}

impl FromStr for Process {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut parts = text.split('/');
        let mut next = || parts.next().ok_or(());
        let process = Self {
            boot: next()?.to_owned(),
            namespace: next()?.to_owned(),
            pid: next()?.parse().map_err(|_| ())?,
            start: next()?.parse().map_err(|_| ())?,
        };
        Ok(process)
    }
}

/// The id of this boot; empty where the kernel does not tell.
pub(crate) fn boot() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// The pid namespace, as `pid:[4026531836]`.
fn namespace() -> String {
    fs::read_link("/proc/self/ns/pid").map(|link| link.to_string_lossy().into_owned()).unwrap_or_default()
}

/// When `pid` started; `None` if there is no such process, or nothing of it but the entry that its parent has not read.
fn start(pid: u32) -> Option<u64> {
    started(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The same by its line in `/proc` (proc_pid_stat(5)).
fn started(stat: &str) -> Option<u64> {
    // The second field is the program's name in parentheses and may itself hold spaces and parentheses.
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split(' ');
    let (state, threads) = (fields.next()?, fields.nth(20 - 4)?.parse::<u64>().ok()?);
    // In a container whose first process reads no entries, that is what a killed process stays. One with threads left
    // is still ending, and may be writing.
    if matches!(state, "Z" | "X" | "x") && threads <= 1 {
        return None;
    }
    fields.nth(22 - 21)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_lives_and_survives_the_label() {
        let this = Process::this();
        let read: Process = this.to_string().parse().unwrap();
        assert_eq!(read, this);
        assert!(!read.is_gone());
    }

    #[test]
    fn others_are_gone_only_when_that_is_certain() {
        let this = Process::this();
        assert!(Process { start: this.start + 1, ..this.clone() }.is_gone(), "the pid was used again");
        assert!(Process { boot: "another".to_owned(), ..this.clone() }.is_gone(), "the machine restarted");
        assert!(!Process { namespace: "pid:[1]".to_owned(), start: 1, ..this.clone() }.is_gone(), "out of sight");
        let mut child = std::process::Command::new("sleep").arg("600").spawn().unwrap();
        let process = Process { pid: child.id(), start: start(child.id()).unwrap(), ..this };
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(process.is_gone(), "it has exited");
    }

    #[test]
    fn a_process_that_only_waits_to_be_noticed_is_gone() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let of = |pid: u32| fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        // It ends by itself; its exit code is not needed.
        while !of(child.id()).contains(") Z ") {
            std::thread::yield_now();
        }
        let this = Process::this();
        assert!(Process { pid: child.id(), start: 1, ..this.clone() }.is_gone());
        let ended = of(child.id());
        assert_eq!((started(&ended), started(&of(this.pid))), (None, Some(this.start)));
        let fields: Vec<_> = ended.rsplit_once(") ").unwrap().1.split(' ').collect();
        let ending = [&fields[..17], &["2"], &fields[18..]].concat().join(" ");
        assert!(started(&format!("1 (a) b) {ending}")).is_some(), "a thread of it is still at work");
        child.wait().unwrap();
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "a", "a/b/c/d", "a/b/1"] {
            assert!(text.parse::<Process>().is_err(), "{text}");
        }
    }
}
