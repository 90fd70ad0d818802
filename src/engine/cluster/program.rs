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
use crate::image::Digest;
use crate::tar;

/// The folder of programs in a node that belongs to none of its packages.
const FOLDER: &str = "usr/local/bin";
/// How long the copy may take, over ssh as well.
const COPY: Duration = Duration::from_secs(300);
/// How long docker may take to start what removes former copies.
const EXEC: Duration = Duration::from_secs(30);
/// The age, in minutes, from which on copies of other builds are removed: one that is being copied is younger.
const OLD: &str = "1440";
/// The script that does it: the folder, the name of the incomplete copy, the name of this one, the age.
const REMOVE: &str = "cd / && rm -f \"$2\"; find \"$1\" -maxdepth 1 -type f '(' -name 'linkspan-*' -o -name '.linkspan-*.part' ')' \
                      ! -name \"$3\" -mmin \"+$4\" -exec rm -f {} +";
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
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        // Two processes that copy it at once do not write one file.
        let part = format!("{FOLDER}/.{name}.{}-{:x}.part", std::process::id(), now.subsec_nanos());
        let (name, now) = (format!("{FOLDER}/{name}"), now.as_secs());
        let padding = Bytes::from(vec![0; tar::padding(size)]);
        let after = [padding, tar::link(&name, &part, now), Bytes::from_static(&tar::END)];
        let content = ReaderStream::with_capacity(tokio::fs::File::from_std(file).take(size), PIECE);
        let pieces =
            stream::iter([Ok(tar::program(&part, size, now))]).chain(content).chain(stream::iter(after.map(Ok)));
        let body = StreamBody::new(pieces.map(|piece: io::Result<Bytes>| piece.map(Frame::data)));
        let path = format!("/containers/{node}/archive?path=%2F&noOverwriteDirNonDir=true");
        let response = docker.put(&path, "application/x-tar", body, COPY).await?;
        if response.status != StatusCode::OK {
            return Err(ProgramError::Docker(response.message()));
        }
        // The copy can be used, whatever becomes of others.
        if let Err(error) = remove_others(docker, node, &name, &part).await {
            tracing::debug!(node, %error, "former copies of this program stay in a node");
        }
        Ok(())
    }
}

/// Removes what the copy was called while it was not complete, and the copies of other builds that are [`OLD`]. A program that
/// runs goes on without its file.
async fn remove_others(docker: &Api, node: &str, name: &str, part: &str) -> Result<(), ProgramError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Created {
        id: String,
    }
    let command = ["sh", "-c", REMOVE, "sh", FOLDER, part, name.rsplit('/').next().unwrap_or(name), OLD];
    let create = serde_json::json!({ "Cmd": command, "AttachStdout": false, "AttachStderr": false });
    let path = format!("/containers/{node}/exec");
    let response = docker.send(&path, "application/json", create.to_string().into(), EXEC).await?;
    let docker_said = |text: String| ProgramError::Docker(text);
    if response.status != StatusCode::CREATED {
        return Err(docker_said(response.message()));
    }
    let Created { id } = serde_json::from_slice(&response.body).map_err(|error| docker_said(error.to_string()))?;
    let start = Bytes::from_static(br#"{"Detach":true,"Tty":false}"#);
    let response = docker.send(&format!("/exec/{id}/start"), "application/json", start, EXEC).await?;
    if response.status == StatusCode::OK { Ok(()) } else { Err(docker_said(response.message())) }
}
