//! This program in a node, to relay a connection there.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::StatusCode;
use http_body::Frame;
use http_body_util::StreamBody;
use tokio::io::AsyncReadExt as _;
use tokio_util::io::ReaderStream;

use crate::docker_api::{Api, ApiError};
use crate::image::Digest;
use crate::tar;

/// The folder of programs in a node that belongs to none of its packages.
const FOLDER: &str = "usr/local/bin";
/// How long the copy may take, over ssh as well.
const COPY: Duration = Duration::from_secs(300);
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
        let (name, part) = (format!("{FOLDER}/{name}"), format!("{FOLDER}/.{name}.part"));
        let padding = Bytes::from(vec![0; tar::padding(size)]);
        let after = [padding, tar::link(&name, &part), Bytes::from_static(&tar::END)];
        let content = ReaderStream::with_capacity(tokio::fs::File::from_std(file).take(size), PIECE);
        let pieces = stream::iter([Ok(tar::program(&part, size))]).chain(content).chain(stream::iter(after.map(Ok)));
        let body = StreamBody::new(pieces.map(|piece: io::Result<Bytes>| piece.map(Frame::data)));
        let path = format!("/containers/{node}/archive?path=%2F&noOverwriteDirNonDir=true");
        let response = docker.put(&path, "application/x-tar", body, COPY).await?;
        match response.status {
            StatusCode::OK => Ok(()),
            _ => Err(ProgramError::Docker(response.message())),
        }
    }
}
