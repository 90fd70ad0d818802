//! A byte stream over a process: its standard input and output.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, BufReader, ReadBuf};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::runtime::Handle;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::stream_failure::{CommandError, StreamFailure};

/// The most bytes of a line of standard error, and of all lines, that are kept; the last ones say why it failed.
const MAX_LINE: u64 = 1 << 10;
const MAX_WORDS: usize = 4 << 10;
/// How long a process may take to end after its input was closed, or after it closed its output.
const ENDING: Duration = Duration::from_secs(3);
/// How long the end of its standard error is waited for after it has ended. A process that it left behind, such as a master of
/// ssh in the background (`ControlPersist`), holds it open; what was written before is there by then.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// How long a stream without any bytes counts as one that is being established.
const ESTABLISHING: Duration = Duration::from_secs(5);

/// The last lines of a standard error, while it is read.
type Words = Arc<Mutex<String>>;

/// What a stream takes of the limits of whoever opens it.
#[derive(Debug)]
pub(super) struct Permits {
    /// For as long as there is the stream.
    pub(super) open: OwnedSemaphorePermit,
    /// Until the first bytes come.
    pub(super) establishing: OwnedSemaphorePermit,
}

/// The standard input and output of a process. Its end of output is an error unless it exits with status 0; the error
/// has what it wrote on standard error. When this is dropped the input is closed, and the process is killed if it
/// does not end by that.
pub struct CommandStream {
    program: String,
    stdin: Option<ChildStdin>,
    stdout: ChildStdout,
    running: Option<Running>,
    /// Waits for the process after its output or its input has closed.
    ending: Option<BoxFuture<'static, Option<CommandError>>>,
    ended: Option<Option<CommandError>>,
    failure: StreamFailure,
    /// Holds the permit for establishing it.
    establishing: Option<AbortOnDropHandle<()>>,
    _permit: OwnedSemaphorePermit,
}

struct Running {
    child: Child,
    words: Words,
    reading: AbortOnDropHandle<()>,
}

impl fmt::Debug for CommandStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let process = self.running.as_ref().and_then(|running| running.child.id());
        f.debug_struct("CommandStream").field("program", &self.program).field("process", &process).finish()
    }
}

impl CommandStream {
    /// Runs `command`, which is or becomes `program`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(super) fn start(program: &str, mut command: Command, permits: Permits) -> Result<Self, CommandError> {
        let failed = |reason: String| CommandError {
            program: format!("`{program}`"),
            ended: format!("cannot be run: {reason}"),
            words: String::new(),
        };
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| failed(error.to_string()))?;
        let (Some(stdin), Some(stdout), Some(stderr)) = (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(failed("its pipes are missing".to_owned()));
        };
        let failure = StreamFailure::of_process(child.id());
        let words = Words::default();
        let reading = AbortOnDropHandle::new(tokio::spawn(read_words(program.to_owned(), stderr, words.clone())));
        let Permits { open, establishing } = permits;
        let establishing = AbortOnDropHandle::new(tokio::spawn(async move {
            let _establishing = establishing;
            sleep(ESTABLISHING).await;
        }));
        Ok(Self {
            program: program.to_owned(),
            stdin: Some(stdin),
            stdout,
            running: Some(Running { child, words, reading }),
            ending: None,
            ended: None,
            failure,
            establishing: Some(establishing),
            _permit: open,
        })
    }

    /// Why it ended, as soon as a read or write has failed.
    pub(super) fn failure(&self) -> StreamFailure {
        self.failure.clone()
    }

    /// Why the process ended, once it has; `None` is status 0.
    fn poll_end(&mut self, context: &mut Context<'_>) -> Poll<Option<CommandError>> {
        if let Some(ended) = &self.ended {
            return Poll::Ready(ended.clone());
        }
        if let Some(running) = self.running.take() {
            // A process that waits for its input ends, too.
            self.stdin = None;
            self.ending = Some(Box::pin(end(self.program.clone(), running)));
        }
        let ended = match &mut self.ending {
            Some(ending) => ready!(ending.as_mut().poll(context)),
            None => None,
        };
        self.ending = None;
        self.ended = Some(ended.clone());
        if ended.is_some() {
            self.failure.end(ended.clone());
        }
        Poll::Ready(ended)
    }

    /// What a failed or finished read or write means.
    fn poll_failure(&mut self, context: &mut Context<'_>, otherwise: io::Error) -> Poll<io::Error> {
        Poll::Ready(match ready!(self.poll_end(context)) {
            Some(error) => io::Error::new(io::ErrorKind::ConnectionAborted, error),
            None => otherwise,
        })
    }

    fn poll_write_with(
        &mut self,
        context: &mut Context<'_>,
        write: impl FnOnce(Pin<&mut ChildStdin>, &mut Context<'_>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        let closed = || io::Error::from(io::ErrorKind::BrokenPipe);
        let error = match &mut self.stdin {
            Some(stdin) => match ready!(write(Pin::new(stdin), context)) {
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => error,
                outcome => return Poll::Ready(outcome),
            },
            None if self.running.is_some() => return Poll::Ready(Err(closed())),
            None => closed(),
        };
        Poll::Ready(Err(ready!(self.poll_failure(context, error))))
    }
}

impl AsyncRead for CommandStream {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        ready!(Pin::new(&mut self.stdout).poll_read(context, into))?;
        self.establishing = None;
        if into.filled().len() > before || into.remaining() == 0 {
            self.failure.read(&into.filled()[before..]);
            return Poll::Ready(Ok(()));
        }
        match ready!(self.poll_end(context)) {
            Some(error) => Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionAborted, error))),
            None => Poll::Ready(Ok(())),
        }
    }
}

impl AsyncWrite for CommandStream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_with(context, |stdin, context| stdin.poll_write(context, bytes))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_with(context, |stdin, context| stdin.poll_write_vectored(context, parts))
    }

    fn is_write_vectored(&self) -> bool {
        self.stdin.as_ref().is_some_and(AsyncWrite::is_write_vectored)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // A pipe has no buffer on this side.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stdin = None;
        Poll::Ready(Ok(()))
    }
}

impl Drop for CommandStream {
    fn drop(&mut self) {
        self.stdin = None;
        let (Some(running), Ok(runtime)) = (self.running.take(), Handle::try_current()) else { return };
        // Without a runtime the process is killed now; otherwise it has a moment to pass on what it has read.
        let program = self.program.clone();
        runtime.spawn(async move {
            if let Some(error) = end(program, running).await {
                tracing::debug!(%error, "a process was no longer needed");
            }
        });
    }
}

/// Waits for a process whose input is closed, and kills it if it goes on. `None` is status 0.
async fn end(program: String, mut running: Running) -> Option<CommandError> {
    let ended = match timeout(ENDING, running.child.wait()).await {
        Ok(Ok(status)) if status.success() => return None,
        Ok(Ok(status)) => how(status),
        Ok(Err(error)) => format!("cannot be waited for: {error}"),
        Err(_) => {
            // An error means that it has ended meanwhile; `kill` also waits for it.
            let _ = running.child.kill().await;
            format!("did not end within {} s after its output, and was killed", ENDING.as_secs())
        }
    };
    // What was read until then counts, whether or not that was all.
    let _ = timeout(LAST_WORDS, running.reading).await;
    let words = running.words.lock().unwrap_or_else(PoisonError::into_inner).clone();
    Some(CommandError { program, ended, words })
}

fn how(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt as _;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with status {code}"),
        (None, Some(signal)) => format!("was ended by signal {signal}"),
        (None, None) => format!("ended: {status}"),
    }
}

/// Reads standard error to its end and keeps the last lines in `words`, without control characters.
async fn read_words(program: String, stderr: ChildStderr, words: Words) {
    let mut stderr = BufReader::new(stderr);
    loop {
        let mut line = Vec::new();
        match tokio::io::AsyncReadExt::take(&mut stderr, MAX_LINE).read_until(b'\n', &mut line).await {
            Ok(1..) => {}
            Ok(0) | Err(_) => return,
        }
        let line: String = String::from_utf8_lossy(&line).chars().filter(|c| !c.is_control()).collect();
        let line = line.trim();
        tracing::debug!(%program, line, "standard error");
        if line.is_empty() {
            continue;
        }
        let mut kept = words.lock().unwrap_or_else(PoisonError::into_inner);
        if !kept.is_empty() {
            kept.push_str("; ");
        }
        kept.push_str(line);
        let excess = kept.len().saturating_sub(MAX_WORDS);
        let cut = (excess..).find(|at| kept.is_char_boundary(*at)).unwrap_or_default();
        kept.drain(..cut);
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::sync::Semaphore;

    use super::*;

    fn shell(script: &str) -> CommandStream {
        shell_of(script, &Arc::new(Semaphore::new(1)))
    }

    fn shell_of(script: &str, establishing: &Arc<Semaphore>) -> CommandStream {
        let permit = |limit: &Arc<Semaphore>| limit.clone().try_acquire_owned().unwrap();
        let permits = Permits { open: permit(&Arc::new(Semaphore::new(1))), establishing: permit(establishing) };
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        CommandStream::start("sh", command, permits).unwrap()
    }

    /// Every wait of these tests ends.
    async fn within<T>(wait: impl Future<Output = T>) -> T {
        timeout(Duration::from_secs(60), wait).await.unwrap()
    }

    #[tokio::test]
    async fn bytes_pass_both_ways_and_a_half_close_reaches_the_process() {
        let mut stream = shell("cat; echo end");
        let mut received = String::new();
        within(async {
            stream.write_all(b"there and back ").await.unwrap();
            stream.shutdown().await.unwrap();
            stream.read_to_string(&mut received).await.unwrap();
        })
        .await;
        assert_eq!(received, "there and back end\n");
    }

    #[tokio::test]
    async fn a_failed_process_is_an_error_with_its_words_for_readers_and_writers() {
        let mut stream = shell("echo one >&2; echo 'two \u{1b}[1m' >&2; exit 7");
        let read = within(stream.read(&mut [0])).await.unwrap_err();
        assert_eq!(read.to_string(), "sh ended with status 7: one; two [1m");
        assert_eq!(stream.failure().reason(), Some(read.to_string()));
        let written = within(stream.write_all(b"x")).await.unwrap_err();
        assert_eq!(written.to_string(), read.to_string());
        let mut stream = shell("kill -9 $$");
        let error = within(async {
            loop {
                if let Err(error) = stream.write_all(&[0; 4096]).await {
                    return error;
                }
            }
        })
        .await;
        assert_eq!(error.to_string(), "sh was ended by signal 9");
    }

    #[tokio::test]
    async fn only_the_end_of_long_words_is_kept() {
        let mut stream = shell("head -c 1000000 /dev/zero | tr '\\0' a >&2; echo >&2; echo last >&2; exit 1");
        let error = within(stream.read(&mut [0])).await.unwrap_err().to_string();
        assert!(error.ends_with("last") && error.len() < 2 * MAX_WORDS, "{} bytes", error.len());
    }

    #[tokio::test]
    async fn the_words_count_although_a_process_in_the_background_holds_standard_error_open() {
        let mut stream = shell("sleep 60 >/dev/null & echo $!; echo why >&2; exit 3");
        let mut background = Vec::new();
        let error = within(stream.read_to_end(&mut background)).await.unwrap_err();
        let background = String::from_utf8(background).unwrap().trim().parse().unwrap();
        let background = rustix::process::Pid::from_raw(background).unwrap();
        rustix::process::kill_process(background, rustix::process::Signal::KILL).unwrap();
        assert_eq!(error.to_string(), "sh ended with status 3: why");
    }

    #[tokio::test]
    async fn a_stream_is_being_established_until_bytes_come() {
        let establishing = Arc::new(Semaphore::new(1));
        let mut stream = shell_of("read line; echo there; cat", &establishing);
        assert_eq!(establishing.available_permits(), 0);
        within(stream.write_all(b"here\n")).await.unwrap();
        within(stream.read_exact(&mut [0; 6])).await.unwrap();
        drop(within(establishing.acquire()).await.unwrap());
        // And not for longer than there is the stream.
        let stream = shell_of("cat", &establishing);
        drop(stream);
        drop(within(establishing.acquire()).await.unwrap());
    }

    #[tokio::test]
    async fn a_dropped_process_ends() {
        let stream = shell("cat >/dev/null");
        let process =
            rustix::process::Pid::from_raw(stream.running.as_ref().unwrap().child.id().unwrap() as i32).unwrap();
        drop(stream);
        within(async {
            // It is reaped, too: a process that has ended and is not would still be there.
            while rustix::process::test_kill_process(process).is_ok() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
    }
}
