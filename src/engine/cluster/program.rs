//! This program in a node, to relay a connection there.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::StatusCode;
use http_body::Frame;
use http_body_util::StreamBody;
use serde::Deserialize;
use tokio::io::AsyncReadExt as _;
use tokio_util::io::ReaderStream;

use crate::docker_api::{Api, ApiError};
use crate::engine::process::Process;
use crate::image::Digest;
use crate::tar;

/// The folder of programs in a node that belongs to none of its packages.
const FOLDER: &str = "usr/local/bin";
/// How long the copy may take, over ssh as well.
const COPY: Duration = Duration::from_secs(300);
/// How long docker may take to run a script in a node.
const EXEC: Duration = Duration::from_secs(30);
/// The age, in minutes, from which on copies of other builds are removed: another user's may be in use until then.
const OLD: &str = "1440";
/// The same for incomplete copies of processes that cannot be seen from here: their copy has less time ([`COPY`]).
const BROKEN_OFF: &str = "10";
/// Prints the incomplete copies in the folder, and removes those that are old: the folder, the age.
const LIST: &str = "find \"/$1\" -maxdepth 1 -type f -name '.linkspan-*.part' -mmin \"+$2\" -exec rm -f {} + ; \
                    find \"/$1\" -maxdepth 1 -type f -name '.linkspan-*.part'";
/// Removes files.
const REMOVE: &str = "rm -f \"$@\"";
/// Removes old copies of other builds: the folder, the name of this one, the age.
const REMOVE_OTHERS: &str =
    "find \"/$1\" -maxdepth 1 -type f -name 'linkspan-*' ! -name \"$2\" -mmin \"+$3\" -exec rm -f {} +";
/// How many incomplete copies are removed at once.
const MAX_PARTS: usize = 100;
/// How much of the program is read at once.
const PIECE: usize = 256 << 10;

/// Why it cannot be copied.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProgramError {
    #[error("this program cannot be read, to be copied into the node: {0}")]
    Read(#[from] io::Error),
    #[error("this program cannot be copied into the node: {0}")]
    Docker(String),
}

impl From<ApiError> for ProgramError {
    fn from(error: ApiError) -> Self {
        Self::Docker(error.to_string())
    }
}

/// The file of this process.
#[derive(Debug)]
pub(super) struct OwnProgram {
    file: File,
    size: u64,
    name: String,
}

impl OwnProgram {
    pub(super) fn this() -> Result<Self, ProgramError> {
        // The program that runs, even if its file was replaced since.
        let file = File::open("/proc/self/exe")?;
        let metadata = file.metadata()?;
        // Another build has another name, so that none is overwritten while it runs. Reading all of it for its digest would take
        // longer than most loads.
        let build = format!("{} {}.{}", metadata.len(), metadata.mtime(), metadata.mtime_nsec());
        let digest = Digest::sha256(build.as_bytes());
        let name = format!("linkspan-{}-{}", env!("CARGO_PKG_VERSION"), &digest.hex()[..12]);
        Ok(Self { file, size: metadata.len(), name })
    }

    /// Its path in nodes.
    pub(super) fn path(&self) -> String {
        format!("/{FOLDER}/{}", self.name)
    }

    /// Copies it into the container `node`. It has its name when all of it is there.
    pub(super) async fn copy(self, docker: &Api, node: &str) -> Result<(), ProgramError> {
        let Self { file, size, name } = self;
        tracing::info!(node, name, size, "copying this program into a node, to reach the containerd there");
        // They take room that the copy may need.
        if let Err(error) = remove_parts(docker, node).await {
            tracing::debug!(node, %error, "incomplete copies of this program stay in a node");
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        // Two processes that copy it at once do not write one file.
        let part = format!("{FOLDER}/.{name}.{}.{:x}.part", Process::this().short(), now.subsec_nanos());
        let (path, now) = (format!("{FOLDER}/{name}"), now.as_secs());
        let padding = Bytes::from(vec![0; tar::padding(size)]);
        let after = [padding, tar::link(&path, &part, now), Bytes::from_static(&tar::END)];
        let content = ReaderStream::with_capacity(tokio::fs::File::from_std(file).take(size), PIECE);
        let pieces =
            stream::iter([Ok(tar::program(&part, size, now))]).chain(content).chain(stream::iter(after.map(Ok)));
        let body = StreamBody::new(pieces.map(|piece: io::Result<Bytes>| piece.map(Frame::data)));
        let archive = format!("/containers/{node}/archive?path=%2F&noOverwriteDirNonDir=true");
        let copied = match docker.put(&archive, "application/x-tar", body, COPY).await {
            Ok(response) if response.status == StatusCode::OK => Ok(()),
            Ok(response) => Err(ProgramError::Docker(response.message())),
            Err(error) => Err(error.into()),
        };
        // The copy can be used, whatever becomes of others.
        let removing = async {
            run(docker, node, REMOVE, &[&format!("/{part}")]).await?;
            if copied.is_ok() {
                run(docker, node, REMOVE_OTHERS, &[FOLDER, &name, OLD]).await?;
            }
            Ok::<_, ProgramError>(())
        };
        if let Err(error) = removing.await {
            tracing::debug!(node, %error, "former copies of this program stay in a node");
        }
        copied
    }
}

/// Removes incomplete copies of processes that are gone.
async fn remove_parts(docker: &Api, node: &str) -> Result<(), ProgramError> {
    let listed = run(docker, node, LIST, &[FOLDER, BROKEN_OFF]).await?;
    let parts: Vec<_> = listed.lines().map(str::trim).filter(|path| is_left(path)).take(MAX_PARTS).collect();
    if !parts.is_empty() {
        run(docker, node, REMOVE, &parts).await?;
    }
    Ok(())
}

/// Whether the process is gone that was writing the incomplete copy `path`.
fn is_left(path: &str) -> bool {
    let process = path.strip_suffix(".part").and_then(|path| path.rsplit('.').nth(1));
    process.is_some_and(Process::is_gone_by_short)
}

/// Runs a script in the node to its end; what it prints. A program that runs goes on without its file.
async fn run(docker: &Api, node: &str, script: &str, args: &[&str]) -> Result<String, ProgramError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Created {
        id: String,
    }
    let command = [&["sh", "-c", script, "sh"], args].concat();
    // With a terminal docker sends what is printed as it is.
    let create = serde_json::json!({ "Cmd": command, "AttachStdout": true, "AttachStderr": false, "Tty": true });
    let path = format!("/containers/{node}/exec");
    let response = docker.send(&path, "application/json", create.to_string().into(), EXEC).await?;
    let docker_said = |text: String| ProgramError::Docker(text);
    if response.status != StatusCode::CREATED {
        return Err(docker_said(response.message()));
    }
    let Created { id } = serde_json::from_slice(&response.body).map_err(|error| docker_said(error.to_string()))?;
    let start = Bytes::from_static(br#"{"Detach":false,"Tty":true}"#);
    let response = docker.send(&format!("/exec/{id}/start"), "application/json", start, EXEC).await?;
    match response.status {
        StatusCode::OK => Ok(String::from_utf8_lossy(&response.body).into_owned()),
        _ => Err(docker_said(response.message())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn incomplete_copies_are_left_when_their_process_is_gone() {
        let this = Process::this().short();
        let name = |process: &str| format!("/usr/local/bin/.linkspan-0.1.0-abc.{process}.1f.part");
        assert!(!is_left(&name(&this)));
        let (before, _) = this.rsplit_once('-').unwrap();
        assert!(is_left(&name(&format!("{before}-1"))), "the pid was used again");
        for other in ["", "17", "abcdefabcdef-17-1"] {
            assert!(!is_left(&name(other)), "{other} may be elsewhere");
        }
    }
}
