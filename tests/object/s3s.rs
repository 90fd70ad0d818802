//! A second S3 server, s3s-fs, in this process: objects are files, and what it makes of a request it shares with no other server.

use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s_fs::FileSystem;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

use crate::common::{Bucket, PASSWORD, USER};

/// The server, which ends with this process. Its faults, as far as tests must keep clear of them:
///
/// * It looks at a condition and then writes, with nothing that holds others off (`put_object` and `complete_multipart_upload`
///   in its `src/s3.rs`): of writers at the same time several may win. Races are for MinIO.
/// * A PUT into a bucket that is not there makes it (`FileWriter::done` in `src/fs.rs`).
/// * What it notes of an object is in a file whose name is the whole key in base64 (`get_internal_info_path` in `src/fs.rs`), so
///   that keys end at some 150 bytes: a longer one is written, and answered with a 500.
/// * It lists no uploads: `list_multipart_uploads` is not in its `src/s3.rs`, and is answered with a 501. We list none; the
///   distribution registry does, and cannot be pushed to over this server.
#[derive(Debug)]
pub(crate) struct S3s {
    folder: TempDir,
    address: String,
    // Not that of a test, which ends with it; nor is it blocked where a test waits for a command.
    _runtime: Runtime,
}

impl S3s {
    /// The one that the tests of this binary share.
    pub(crate) fn shared() -> &'static Self {
        static SHARED: OnceLock<S3s> = OnceLock::new();
        // A runtime cannot be made to wait in a test's own.
        SHARED.get_or_init(|| std::thread::spawn(Self::start).join().unwrap())
    }

    fn start() -> Self {
        let (folder, runtime) = (tempfile::tempdir().unwrap(), Runtime::new().unwrap());
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        runtime.spawn(serve(listener, service(folder.path())));
        Self { folder, address, _runtime: runtime }
    }

    /// A new bucket, with a prefix. In this server a folder is one.
    #[track_caller]
    pub(crate) fn bucket(&self) -> Bucket {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("b{:02}", NEXT.fetch_add(1, Ordering::Relaxed));
        std::fs::create_dir(self.folder.path().join(&name)).unwrap();
        Bucket::new(&self.address, self.folder.path(), &name)
    }
}

fn service(folder: &Path) -> S3Service {
    let mut builder = S3ServiceBuilder::new(FileSystem::new(folder).unwrap());
    builder.set_auth(SimpleAuth::from_single(USER, PASSWORD));
    builder.build()
}

async fn serve(listener: TcpListener, service: S3Service) {
    while let Ok((stream, _)) = listener.accept().await {
        let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service.clone());
        // A client that goes away ends its connection with an error.
        tokio::spawn(async move { drop(connection.await) });
    }
}
