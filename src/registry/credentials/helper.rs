//! Credential helpers: programs that are asked for a password (docker-credential-helpers `credentials/credentials.go`).

use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::config::Found;

/// How long a helper may take. It may ask its user to unlock something.
const LIMIT: Duration = Duration::from_secs(30);
/// The longest answer, the beginning of its standard error that is kept, and how much of that is shown.
const MAX_ANSWER: usize = 64 << 10;
const MAX_WORDS: usize = 4 << 10;
const MAX_SHOWN: usize = 300;
/// A helper's message for a server that it does not know (docker-credential-helpers `credentials/error.go`).
const UNKNOWN: &str = "credentials not found";

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: String,
    secret: String,
}

/// Asks `program` for the credentials for `server`; `None` if it has none. An error continues a sentence that names the helper.
pub(super) async fn get(program: &Path, server: &str) -> Result<Option<Found>, String> {
    let mut command = Command::new(program);
    command.arg("get").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let child = command.spawn().map_err(|error| format!("cannot be run: {error}"))?;
    // Dropped after that, which ends it. What it has started itself may hold its output open, and is not waited for.
    let late =
        |_| format!("did not answer within {} s; {} what it waits for", LIMIT.as_secs(), by_hand(program, server));
    let (status, output, words) = timeout(LIMIT, ask(child, server)).await.map_err(late)??;
    if !status.success() {
        let [output, words] = [output, words].map(|bytes| String::from_utf8_lossy(&bytes).trim().to_owned());
        // They write it to their standard output.
        if [&output, &words].iter().any(|said| said.contains(UNKNOWN)) {
            return Ok(None);
        }
        // The output is no place to quote from: it is where the secret is, also if the helper fails after it.
        let shown: String = words.chars().filter(|it| !it.is_control() || *it == ' ').take(MAX_SHOWN).collect();
        let shown = if shown.is_empty() { String::new() } else { format!(": {shown}") };
        return Err(format!("failed ({status}){shown}; {} more", by_hand(program, server)));
    }
    if output.len() > MAX_ANSWER {
        return Err(format!("gave an answer of more than {} KiB", MAX_ANSWER >> 10));
    }
    // An error of the parser would quote the answer.
    let answer: Answer = serde_json::from_slice(&output)
        .map_err(|_| "gave an answer that is not JSON with `Username` and `Secret`".to_owned())?;
    Ok(Some(match answer.username.as_str() {
        "<token>" => Found::IdentityToken,
        _ => Found::Password { user: answer.username, password: answer.secret },
    }))
}

/// How a helper ended, and what it wrote to its standard output and error.
async fn ask(mut child: Child, server: &str) -> Result<(ExitStatus, Vec<u8>, Vec<u8>), String> {
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let writing = async {
        let Some(mut stdin) = stdin else { return };
        // One that does not want to know the server may have ended.
        let _ = stdin.write_all(server.as_bytes()).await;
    };
    // One byte more than an answer may have tells that it is longer.
    let (output, words) = (beginning(stdout, MAX_ANSWER + 1), beginning(stderr, MAX_WORDS));
    let ((), output, words) = tokio::join!(writing, output, words);
    let failed = |error: std::io::Error| format!("cannot be read: {error}");
    let (output, words) = (output.map_err(failed)?, words.map_err(failed)?);
    let status = child.wait().await.map_err(failed)?;
    Ok((status, output, words))
}

/// The command that shows what a helper says.
fn by_hand(program: &Path, server: &str) -> String {
    format!("`echo {server} | {} get` shows", program.display())
}

/// The first `limit` bytes of a stream. The rest is read as well, and dropped: a program that nobody reads waits, or ends by a signal.
async fn beginning(stream: Option<impl AsyncRead + Unpin>, limit: usize) -> std::io::Result<Vec<u8>> {
    let (mut kept, mut piece) = (Vec::new(), [0; 4 << 10]);
    let Some(mut stream) = stream else { return Ok(kept) };
    loop {
        let length = stream.read(&mut piece).await?;
        if length == 0 {
            return Ok(kept);
        }
        let room = limit.saturating_sub(kept.len());
        kept.extend_from_slice(&piece[..length.min(room)]);
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    async fn answer(script: &str) -> Result<Option<Found>, String> {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("docker-credential-made");
        // Written by another process: one that is started meanwhile would hold it open for writing, so that it cannot run.
        let text = format!("#!/bin/sh\n{script}\n");
        let mut write = std::process::Command::new("sh");
        write.args(["-c", "printf %s \"$1\" >\"$0\""]).arg(&program).arg(text);
        assert!(write.status().unwrap().success());
        fs::set_permissions(&program, Permissions::from_mode(0o700)).unwrap();
        get(&program, "r.test").await
    }

    #[tokio::test]
    async fn a_helper_is_asked_by_its_input() {
        let script =
            r#"read -r server; echo "{\"ServerURL\": \"x\", \"Username\": \"$1\", \"Secret\": \"of $server\"}""#;
        let expected = Found::Password { user: "get".to_owned(), password: "of r.test".to_owned() };
        assert!(answer(script).await.unwrap() == Some(expected));
        let script = r#"echo '{"Username": "<token>", "Secret": "x"}'"#;
        assert!(answer(script).await.unwrap() == Some(Found::IdentityToken), "it need not read its input");
        let script = "echo credentials not found in native keychain; exit 1";
        assert!(answer(script).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn what_goes_wrong_is_said_without_a_secret() {
        let answer_of = r#"echo '{"Username": "u", "Secret": "s3cret"}'"#;
        for (script, expected) in [
            ("echo error getting credentials; exit 1", "failed (exit status: 1); `echo r.test | /"),
            (&format!("{answer_of}; exit 1"), "failed (exit status: 1); `echo r.test | /"),
            (&format!("{answer_of}; echo locked >&2; exit 2"), "failed (exit status: 2): locked; `echo r.test | /"),
            ("exit 3", "failed (exit status: 3); `echo r.test | /"),
            ("echo s3cret", "gave an answer that is not JSON with `Username` and `Secret`"),
            (r#"echo '{"Username": 7, "Secret": "s3cret"}'"#, "gave an answer that is not JSON"),
            ("yes s3cret | head -c 70000", "gave an answer of more than 64 KiB"),
        ] {
            let error = answer(script).await.unwrap_err();
            assert!(error.starts_with(expected) && !error.contains("s3cret"), "{script}: {error}");
        }
        let long = answer("yes locked | tr '\\n' ' ' | head -c 200000 >&2; exit 1").await.unwrap_err();
        assert!(long.contains(": locked locked") && long.len() < 2 * MAX_SHOWN, "{long}");
        let absent = get(Path::new("/no/docker-credential-made"), "r.test").await;
        assert!(absent.unwrap_err().starts_with("cannot be run: No such file"));
    }

    #[tokio::test]
    async fn one_that_says_much_beside_its_answer_is_heard_to_its_end() {
        let script = r#"yes remark | head -c 200000 >&2 || exit 9; echo '{"Username": "u", "Secret": "p"}'"#;
        let expected = Found::Password { user: "u".to_owned(), password: "p".to_owned() };
        assert!(answer(script).await.unwrap() == Some(expected));
    }

    /// The clock jumps to the limit, as there is nothing else to wait for.
    #[tokio::test(start_paused = true)]
    async fn one_that_hangs_is_not_waited_for() {
        for script in ["sleep 60", "exec sleep 60", "exec >&- 2>&-; sleep 60", "sleep 60 & exit 0"] {
            let error = answer(script).await.unwrap_err();
            assert!(error.starts_with("did not answer within 30 s"), "{script}: {error}");
        }
    }
}
