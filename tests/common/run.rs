//! Running a client: captured, bounded in time, and without leftovers.

use std::{
    ffi::OsStr,
    fmt,
    io::{Read, Write},
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process_group};

use super::relay::read_some;
use super::wait::deadline;

/// Long enough for a cold build on a slow machine; a client that needs longer hangs.
const TIMEOUT: Duration = Duration::from_secs(300);
/// No client of these tests says more than this on one stream.
const MAX_CAPTURED: usize = 64 << 20;

/// A command to run.
#[derive(Debug)]
pub(crate) struct Run {
    command: Command,
    stdin: Vec<u8>,
    timeout: Duration,
}

/// A command that runs, in a process group of its own.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    shown: String,
    streams: [Captured; 2],
    deadline: Instant,
    timeout: Duration,
}

/// What a stream has had so far, and the thread that still listens.
#[derive(Debug)]
struct Captured {
    bytes: Arc<Mutex<Vec<u8>>>,
    reader: JoinHandle<()>,
}

/// What a command printed, and how it ended.
#[derive(Debug, Clone)]
pub(crate) struct Output {
    /// The command line, for messages.
    pub(crate) shown: String,
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Run {
    pub(crate) fn new(program: impl AsRef<OsStr>) -> Self {
        Self { command: Command::new(program), stdin: Vec::new(), timeout: TIMEOUT }
    }

    pub(crate) fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    pub(crate) fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.command.args(args);
        self
    }

    pub(crate) fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    pub(crate) fn without_env(mut self, name: impl AsRef<OsStr>) -> Self {
        self.command.env_remove(name);
        self
    }

    pub(crate) fn dir(mut self, dir: impl AsRef<Path>) -> Self {
        self.command.current_dir(dir);
        self
    }

    pub(crate) fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = bytes.into();
        self
    }

    pub(crate) fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Runs it to its end, however that is.
    ///
    /// # Panics
    /// When it cannot be started or does not end in time.
    #[track_caller]
    pub(crate) fn output(self) -> Output {
        self.spawn().wait()
    }

    /// Runs it to a successful end.
    ///
    /// # Panics
    /// When it fails, with everything that it printed.
    #[track_caller]
    pub(crate) fn ok(self) -> Output {
        let output = self.output();
        assert!(output.status.success(), "{output}");
        output
    }

    /// Runs it to an end that must be a failure.
    #[track_caller]
    pub(crate) fn fails(self) -> Output {
        let output = self.output();
        assert!(!output.status.success(), "expected to fail: {output}");
        output
    }

    /// Starts it.
    #[track_caller]
    pub(crate) fn spawn(mut self) -> Running {
        let shown = format!("{:?}", self.command);
        self.command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        self.command.process_group(0);
        let mut child = self.command.spawn().unwrap_or_else(|error| panic!("{shown} did not start: {error}"));
        let mut stdin = child.stdin.take().unwrap();
        let bytes = self.stdin;
        // A client that ends without reading its input is none of our business.
        thread::spawn(move || stdin.write_all(&bytes));
        let streams = [Captured::of(child.stdout.take().unwrap()), Captured::of(child.stderr.take().unwrap())];
        Running { child, shown, streams, deadline: deadline(self.timeout), timeout: self.timeout }
    }
}

impl Captured {
    fn of(mut stream: impl Read + Send + 'static) -> Self {
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let into = Arc::clone(&bytes);
        let reader = thread::spawn(move || {
            let mut buffer = [0; 64 << 10];
            // Reading goes on at the limit, so that the client does not hang on a full pipe.
            while let Ok(count @ 1..) = read_some(&mut stream, &mut buffer) {
                let mut bytes = into.lock().unwrap();
                let room = MAX_CAPTURED.saturating_sub(bytes.len()).min(count);
                bytes.extend_from_slice(&buffer[..room]);
            }
        });
        Self { bytes, reader }
    }

    fn so_far(&self) -> String {
        String::from_utf8_lossy(&self.bytes.lock().unwrap()).into_owned()
    }

    fn whole(self) -> String {
        self.reader.join().unwrap();
        let bytes = self.bytes.lock().unwrap();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl Running {
    /// What it has printed on stdout so far.
    pub(crate) fn stdout(&self) -> String {
        self.streams[0].so_far()
    }

    /// Sends a signal to it and to what it started, as a terminal does.
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process_group(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Whether it handles a signal by now (proc(5), `SigCgt`).
    pub(crate) fn catches(&self, signal: Signal) -> bool {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
        u64::from_str_radix(caught.trim(), 16).unwrap() & (1 << (signal.as_raw() - 1)) != 0
    }

    /// What it has printed on stderr so far.
    pub(crate) fn stderr(&self) -> String {
        self.streams[1].so_far()
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When it does not end in time; it is killed then.
    #[track_caller]
    pub(crate) fn wait(mut self) -> Output {
        let mut late = false;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            if Instant::now() > self.deadline && !late {
                late = true;
                self.signal(Signal::KILL);
            }
            thread::sleep(Duration::from_millis(5));
        };
        let [stdout, stderr] = self.streams.map(Captured::whole);
        let output = Output { shown: self.shown, status, stdout, stderr };
        assert!(!late, "killed after {:?} at most: {output}", self.timeout);
        output
    }
}

impl Output {
    /// Its lines on stdout, without empty ones.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.stdout.lines().filter(|line| !line.trim().is_empty()).map(str::to_owned).collect()
    }
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { shown, status, stdout, stderr } = self;
        write!(f, "{shown} ended with {status}\n--- stdout\n{stdout}\n--- stderr\n{stderr}")
    }
}
