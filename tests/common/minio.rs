//! An S3 server, MinIO, and a registry that has one of its buckets as its storage.

use std::{
    fs::{self, File},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use linkspan::engine::select::{Selected, Selection, select};
use linkspan::engine::{EngineError, EngineKind};

use super::{Output, Run, Stack, command::linkspan, file_of, text, until};

/// Who may read and write.
pub(crate) const USER: &str = "linkspan";
/// The secret of [`USER`].
pub(crate) const PASSWORD: &str = "linkspan-secret";

/// A server, killed when dropped, or with the stack that it belongs to.
#[derive(Debug)]
pub(crate) struct Minio {
    child: Child,
    folder: PathBuf,
    /// `127.0.0.1:PORT`.
    pub(crate) address: String,
}

impl Minio {
    /// The one that the tests of this binary share.
    pub(crate) fn shared() -> &'static Self {
        static SHARED: OnceLock<Minio> = OnceLock::new();
        SHARED.get_or_init(|| Self::start(Stack::shared()))
    }

    /// One of its own, for tests that kill it or fill its disk.
    #[track_caller]
    pub(crate) fn start(stack: &Stack) -> Self {
        Self::start_in(stack, &stack.fresh_path("-minio"))
    }

    /// The same, with its data in `folder`.
    #[track_caller]
    pub(crate) fn start_in(stack: &Stack, folder: &Path) -> Self {
        fs::create_dir_all(folder).unwrap();
        let address = free_address();
        let log = stack.fresh_path("-minio.log");
        let file = File::create(&log).unwrap();
        let (name, value) = stack.mark();
        let mut command = Command::new(stack.program("minio"));
        command.args(["server", "--quiet", "--address", &address, text(folder)]).env(name, value);
        for (name, value) in [("MINIO_ROOT_USER", USER), ("MINIO_ROOT_PASSWORD", PASSWORD), ("MINIO_BROWSER", "off")] {
            command.env(name, value);
        }
        // It takes no root disk otherwise.
        command.env("MINIO_CI_CD", "1").env("MINIO_UPDATE", "off");
        command.stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file);
        let mut minio = Self { child: command.spawn().unwrap(), folder: folder.to_owned(), address };
        let health = || (minio.child.try_wait().unwrap(), is_healthy(&minio.address));
        let (ended, _) = until("minio to listen", health, |(ended, healthy)| ended.is_some() || *healthy);
        assert!(ended.is_none(), "minio ended with {ended:?}:\n{}", file_of(&log));
        minio
    }

    /// A new bucket, with a prefix. In this server a folder is one.
    #[track_caller]
    pub(crate) fn bucket(&self) -> Bucket {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("bucket-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        fs::create_dir(self.folder.join(&name)).unwrap();
        Bucket::new(&self.address, &self.folder, &name)
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Minio {
    fn drop(&mut self) {
        // Already gone is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An address of this host that nobody listens on.
fn free_address() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

fn is_healthy(address: &str) -> bool {
    use std::io::{Read as _, Write as _};
    let Ok(mut stream) = TcpStream::connect(address) else { return false };
    let mut response = String::new();
    let asked = write!(stream, "GET /minio/health/ready HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    asked.is_ok() && stream.read_to_string(&mut response).is_ok() && response.starts_with("HTTP/1.1 200")
}

/// A bucket.
#[derive(Debug, Clone)]
pub(crate) struct Bucket {
    pub(crate) endpoint: String,
    /// Where the server keeps it: in MinIO each object is a folder, in s3s-fs a file.
    folder: PathBuf,
    pub(crate) name: String,
}

impl Bucket {
    /// That of the server at `HOST:PORT` which keeps its buckets in `folder`, and has [`USER`] and [`PASSWORD`].
    pub(crate) fn new(server: &str, folder: &Path, name: &str) -> Self {
        Self { endpoint: format!("http://{server}"), folder: folder.join(name), name: name.to_owned() }
    }

    /// `s3://BUCKET/PREFIX`.
    pub(crate) fn address(&self) -> String {
        format!("s3://{}/some/prefix", self.name)
    }

    /// The same bucket, reached at another endpoint.
    pub(crate) fn at(&self, endpoint: &str) -> Self {
        Self { endpoint: format!("http://{endpoint}"), ..self.clone() }
    }

    /// The variables by which clients find it.
    pub(crate) fn variables(&self) -> Vec<(String, String)> {
        [
            ("AWS_ACCESS_KEY_ID", USER),
            ("AWS_SECRET_ACCESS_KEY", PASSWORD),
            ("AWS_REGION", "us-east-1"),
            ("AWS_ENDPOINT_URL", &self.endpoint),
            ("AWS_ALLOW_HTTP", "true"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec()
    }

    /// The flags that choose it.
    pub(crate) fn flags(&self) -> [String; 4] {
        ["--engine".to_owned(), "object".to_owned(), "--object".to_owned(), self.address()]
    }

    pub(crate) fn selection(&self) -> Selection {
        Selection {
            kind: Some(EngineKind::Object),
            object: Some(self.address().parse().unwrap()),
            object_variables: self.variables().into(),
            ..Selection::default()
        }
    }

    /// Its engine in this process.
    pub(crate) async fn engine(&self) -> Result<Selected, EngineError> {
        select(&self.selection()).await
    }

    /// `linkspan ARGS` with what finds the bucket in its environment.
    pub(crate) fn with<'s>(&self, args: impl IntoIterator<Item = &'s str>) -> Run {
        self.variables().into_iter().fold(linkspan(args), |run, (name, value)| run.env(name, value))
    }

    /// `linkspan ARGS --object ADDRESS`.
    pub(crate) fn linkspan<'s>(&self, args: impl IntoIterator<Item = &'s str>) -> Run {
        self.with(args).args(["--object", &self.address()])
    }

    /// The keys of its objects behind the prefix, sorted; uploads that are under way are none.
    pub(crate) fn keys(&self) -> Vec<String> {
        fn walk(folder: &Path, key: &str, keys: &mut Vec<String>) {
            let Ok(entries) = fs::read_dir(folder) else { return };
            if folder.join("xl.meta").exists() {
                return keys.push(key.to_owned());
            }
            for entry in entries.map(Result::unwrap) {
                let name = entry.file_name().into_string().unwrap();
                let below = if key.is_empty() { name } else { format!("{key}/{name}") };
                match entry.file_type() {
                    Ok(kind) if kind.is_dir() => walk(&entry.path(), &below, keys),
                    Ok(_) => keys.push(below),
                    // It went meanwhile.
                    Err(_) => {}
                }
            }
        }
        let mut keys = Vec::new();
        walk(&self.folder.join("some/prefix"), "", &mut keys);
        keys.sort();
        keys
    }

    /// How many multipart uploads are under way, as the server keeps them: MinIO in folders, s3s-fs in files.
    pub(crate) fn uploads(&self) -> usize {
        let root = self.folder.parent().unwrap();
        let entries = |folder: &Path| fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path());
        let is_upload = |path: &PathBuf| text(path.file_name().unwrap().as_ref()).starts_with(".upload");
        let folders = entries(&root.join(".minio.sys/multipart"));
        folders.flat_map(|object| entries(&object).collect::<Vec<_>>()).count()
            + entries(root).filter(is_upload).count()
    }

    /// A registry that has this bucket as its storage.
    #[track_caller]
    pub(crate) fn registry(&self, stack: &Stack) -> BucketRegistry {
        let (config, log) = (stack.fresh_path("-registry.yml"), stack.fresh_path("-registry.log"));
        let Self { endpoint, name, .. } = self;
        let yaml = format!(
            "version: 0.1\nstorage:\n  s3: {{accesskey: {USER}, secretkey: {PASSWORD}, region: us-east-1, regionendpoint: \
             \"{endpoint}\", bucket: {name}, secure: false, forcepathstyle: true, rootdirectory: /some/prefix}}\nhttp: {{addr: \
             \"127.0.0.1:0\"}}\n"
        );
        fs::write(&config, yaml).unwrap();
        let file = File::create(&log).unwrap();
        let (name, value) = stack.mark();
        let mut command = Command::new(stack.program("registry"));
        command.args(["serve", text(&config)]).env(name, value).env("OTEL_TRACES_EXPORTER", "none");
        command.stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file);
        let mut child = command.spawn().unwrap();
        let listening = |log: &str| {
            let (_, rest) = log.split_once("listening on ")?;
            Some(rest.split(|c: char| c.is_whitespace() || c == '"').next().unwrap().to_owned())
        };
        let look = || (child.try_wait().unwrap(), listening(&file_of(&log)));
        let (ended, address) = until("the registry to listen", look, |(ended, at)| ended.is_some() || at.is_some());
        let address = address.unwrap_or_else(|| panic!("the registry ended with {ended:?}:\n{}", file_of(&log)));
        BucketRegistry { child, address, log }
    }
}

/// A registry, killed when dropped.
#[derive(Debug)]
pub(crate) struct BucketRegistry {
    child: Child,
    /// `127.0.0.1:PORT`.
    pub(crate) address: String,
    log: PathBuf,
}

impl Drop for BucketRegistry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("--- the registry's log\n{}", file_of(&self.log));
        }
    }
}

/// What a command says of its failure, with its hint.
#[track_caller]
pub(crate) fn refusal(output: &Output) -> &str {
    assert!(output.stderr.contains("hint: "), "{output}");
    &output.stderr
}
