//! Images as static files, which a server without any knowledge of registries hands out.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use object_store::aws::AmazonS3Builder;
use object_store::{Attribute, ObjectStore, ObjectStoreExt as _};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::common::{Bucket, Minio, Run, Stack, linkspan, text, until};
use crate::fixture::{Image, export, names};
use crate::names::layout;
use crate::redirects::compressed;

/// What a server hands out.
#[derive(Clone)]
enum Content {
    /// A folder, with the types that its configuration says.
    Folder(PathBuf),
    /// A bucket, with the types that its objects have.
    Bucket(Arc<dyn ObjectStore>),
}

impl Content {
    fn of_bucket(bucket: &Bucket) -> Self {
        let mut builder = AmazonS3Builder::new().with_bucket_name(&bucket.name);
        for (key, value) in bucket.variables() {
            builder = builder.with_config(key.to_ascii_lowercase().parse().unwrap(), value);
        }
        Self::Bucket(Arc::new(builder.build().unwrap()))
    }

    /// The file of a path, and its type.
    async fn file(&self, path: &str) -> Option<(String, Bytes)> {
        match self {
            Self::Folder(root) => {
                let kind = location(&std::fs::read_to_string(root.join("nginx-locations.conf")).unwrap(), path);
                let path = if path == "/v2/" { "/v2/index.html" } else { path };
                let file = root.join(&path[1..]);
                file.is_file().then(|| (kind, std::fs::read(file).unwrap().into()))
            }
            Self::Bucket(objects) => {
                let path = if path == "/v2/" { "/v2/index.html" } else { path };
                let found = objects.get(&format!("some/prefix{path}").into()).await.ok()?;
                let kind = found.attributes.get(&Attribute::ContentType).map(|kind| kind.to_string());
                Some((kind.unwrap_or_default(), found.bytes().await.unwrap()))
            }
        }
    }
}

/// The type of a path by nginx's rules: an exact location, else the first expression that matches, else the prefix.
fn location(config: &str, path: &str) -> String {
    let locations = config.lines().filter_map(|line| {
        let (of, rest) = line.strip_prefix("location ")?.split_once(" {")?;
        let (_, kind) = rest.split_once("default_type ")?;
        Some((of, kind.split(';').next().unwrap().to_owned()))
    });
    let locations: Vec<_> = locations.collect();
    let exact = locations.iter().find(|(of, _)| *of == format!("= {path}"));
    let is_match = |of: &str| match of {
        "~ ^/v2/.+/tags/list$" => path.ends_with("/tags/list"),
        "~ ^/v2/.+/referrers/[^/]+$" => path.rsplit('/').nth(1) == Some("referrers"),
        _ => false,
    };
    let found = exact.or_else(|| locations.iter().find(|(of, _)| is_match(of)));
    found.or_else(|| locations.iter().find(|(of, _)| *of == "/v2/")).unwrap().1.clone()
}

/// A static server.
struct Server {
    address: String,
    seen: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    async fn start(content: Content) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let noted = seen.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (content, seen) = (content.clone(), noted.clone());
                let service = service_fn(move |request: Request<Incoming>| {
                    seen.lock().unwrap().push(format!("{} {}", request.method(), request.uri()));
                    let content = content.clone();
                    async move {
                        let found = content.file(request.uri().path()).await;
                        let response = Response::builder();
                        let response = match found {
                            None => response.status(404).body(Full::new(Bytes::new())),
                            Some((kind, bytes)) => {
                                let response =
                                    response.header("content-type", kind).header("content-length", bytes.len());
                                let is_head = request.method() == Method::HEAD;
                                response.body(Full::new(if is_head { Bytes::new() } else { bytes }))
                            }
                        };
                        Ok::<_, Infallible>(response.unwrap())
                    }
                });
                let connection =
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                tokio::spawn(async move { drop(connection.await) });
            }
        });
        Self { address, seen, task }
    }
}

/// The files below a folder, with when they were written.
fn files(root: &Path) -> BTreeMap<String, std::time::SystemTime> {
    fn walk(folder: &Path, root: &Path, found: &mut BTreeMap<String, std::time::SystemTime>) {
        for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_dir() {
                walk(&entry.path(), root, found);
            } else {
                let path = entry.path().strip_prefix(root).unwrap().display().to_string();
                found.insert(path, entry.metadata().unwrap().modified().unwrap());
            }
        }
    }
    let mut found = BTreeMap::new();
    walk(root, root, &mut found);
    found
}

/// Images in a layout: `site/one:1`, `site/one/nested:1`, and an index `site/both:1` of two.
async fn source(folder: &Path) -> [Image; 3] {
    let (one, other) = (compressed("published\n"), compressed("nested\n"));
    let both = Image::index(&[one.clone(), other.clone()]);
    let engine = layout(folder).await;
    for (image, name) in [(&one, "site/one:1"), (&other, "site/one/nested:1"), (&both, "site/both:1")] {
        export(&*engine, image, &names(&[name])).await.unwrap();
    }
    [one, other, both]
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_pull_from_a_folder_and_from_a_bucket() {
    let (stack, minio) = (Stack::shared(), Minio::shared());
    let (folder, site, bucket) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), minio.bucket());
    let [one, other, both] = source(folder.path()).await;
    // Whoever opens a bucket chooses the cryptography of this process.
    drop(bucket.engine().await.unwrap());
    for (to, content, namespace) in [
        (text(site.path()).to_owned(), Content::Folder(site.path().to_owned()), "object-site-folder"),
        (bucket.address(), Content::of_bucket(&bucket), "object-site-bucket"),
    ] {
        let all = ["site/one:1", "site/one/nested:1", "site/both:1"];
        let args = [&["publish", "static"][..], &all[..], &[to.as_str(), "--layout", text(folder.path())][..]].concat();
        let publish = || bucket.with(args.clone()).args(["--engine", "layout", "--json"]).ok().stdout;
        let first: Value = serde_json::from_str(&publish()).unwrap();
        assert!(first["sentBlobs"].as_u64().unwrap() >= 8, "{first}");
        let server = Server::start(content).await;
        let crane = |args: &[&str]| stack.run("crane").args(args).ok().stdout.trim().to_owned();
        for (path, image) in [("site/one", &one), ("site/one/nested", &other), ("site/both", &both)] {
            let digest = image.root.digest.as_str();
            let (tagged, named) =
                (format!("{}/{path}:1", server.address), format!("{}/{path}@{digest}", server.address));
            assert_eq!(crane(&["digest", &tagged]), digest);
            crane(&["validate", "--remote", &tagged]);
            crane(&["validate", "--remote", &named]);
            assert_eq!(crane(&["ls", &format!("{}/{path}", server.address)]), "1");
            let copied = tempfile::tempdir().unwrap();
            let copy = ["--insecure-policy", "copy", "--all", "--src-tls-verify=false", "--preserve-digests"];
            let to = format!("oci:{}:1", text(copied.path()));
            Run::new("skopeo").args(copy).args([&format!("docker://{tagged}"), &to]).ok();
        }
        let name = format!("{}/site/one/nested:1", server.address);
        stack.ctr(namespace, ["images", "pull", "--plain-http", &name]).ok();
        assert_eq!(stack.image_of(namespace, &name).as_deref(), Some(other.root.digest.as_str()));
        let name = format!("{}/site/one@{}", server.address, one.root.digest);
        assert_eq!(stack.docker(["run", "--rm", &name, "cat", "/etc/greeting"]).ok().stdout, "published\n");
        let seen = server.seen.lock().unwrap().clone();
        assert!(seen.iter().any(|line| line == "GET /v2/"), "{seen:?}");
        // What is there is not written again.
        let again: Value = serde_json::from_str(&publish()).unwrap();
        assert_eq!(again["sentBlobs"], json!(0), "{again}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_publication_writes_only_what_has_changed() {
    let (folder, site) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let [_, other, _] = source(folder.path()).await;
    let publish = |names: &[&str]| {
        let args = [&["publish", "static"][..], names, &[text(site.path()), "--engine", "layout"][..]].concat();
        linkspan(args).args(["--layout", text(folder.path())])
    };
    publish(&["site/one:1"]).ok();
    let first = files(site.path());
    publish(&["site/one:1"]).ok();
    assert_eq!(files(site.path()), first);
    // The tag moves, and another one comes.
    let engine = layout(folder.path()).await;
    export(&*engine, &other, &names(&["site/one:1", "site/one:2"])).await.unwrap();
    let output = publish(&["site/one:1", "site/one:2", "site/one:1"]).ok();
    assert_eq!(output.stdout, "Published image: site/one:1\nPublished image: site/one:2\n", "{output}");
    let second = files(site.path());
    let changed: Vec<_> =
        first.iter().filter(|(path, written)| second[*path] != **written).map(|(path, _)| path).collect();
    assert_eq!(changed, ["nginx-locations.conf", "v2/site/one/manifests/1", "v2/site/one/tags/list"]);
    let list: Value =
        serde_json::from_slice(&std::fs::read(site.path().join("v2/site/one/tags/list")).unwrap()).unwrap();
    assert_eq!(list, json!({ "name": "site/one", "tags": ["1", "2"] }));
    let is_staged = |path: &String| path.contains(".linkspan-publish/") && !path.ends_with("/lock");
    assert!(!second.keys().any(is_staged), "{second:?}");
    // Two at once would each write lists without what the other one adds.
    let busy = linkspan::publish::Folder::open(site.path()).unwrap();
    let output = publish(&["site/one:1"]).fails();
    assert!(output.stderr.contains("another process publishes to") && output.stderr.contains("hint: "), "{output}");
    drop(busy);
    // A process that another test was about to start may have had the lock for an instant longer.
    until("the folder to be free", || publish(&["site/one:1"]).output(), |output| output.status.success());
    // What no path can hold is said before anything is written.
    export(&*engine, &other, &names(&["site/tags/list:1"])).await.unwrap();
    let output = publish(&["site/one:1", "site/tags/list:1"]).fails();
    assert!(output.stderr.contains("site/tags/list:1") && output.stderr.contains("hint: "), "{output}");
    let output = publish(&[other.root.digest.as_str()]).fails();
    assert!(output.stderr.contains("tag"), "{output}");
    assert_eq!(files(site.path()), second);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_blob_and_an_unwritable_place_are_refused_and_no_tag_is_written() {
    let (folder, site) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let [one, ..] = source(folder.path()).await;
    let layer = folder.path().join("blobs/sha256").join(one.layers[1].digest.hex());
    let mut bytes = std::fs::read(&layer).unwrap();
    bytes[20] ^= 1;
    let read_only = std::fs::metadata(&layer).unwrap().permissions();
    std::fs::remove_file(&layer).unwrap();
    std::fs::write(&layer, bytes).unwrap();
    std::fs::set_permissions(&layer, read_only).unwrap();
    let publish = |to: &str| {
        linkspan(["publish", "static", "site/one:1", to, "--engine", "layout", "--layout", text(folder.path())])
    };
    let output = publish(text(site.path())).fails();
    assert!(output.stderr.contains(one.layers[1].digest.as_str()), "{output}");
    let written = files(site.path());
    assert!(
        !written.keys().any(|path| path.contains("/manifests/") || path.contains(one.layers[1].digest.hex())),
        "{written:?}"
    );
    let output = publish("s3://Upper").fails();
    assert!(output.stderr.contains("s3://Upper") && output.stderr.contains("hint: give a folder"), "{output}");
    // As `"$UNSET"`: not the folder that one happens to be in.
    let output = publish("").dir(site.path()).fails();
    assert_eq!(output.status.code(), Some(2), "{output}");
    let file = tempfile::NamedTempFile::new().unwrap();
    let output = publish(text(file.path())).fails();
    assert!(output.stderr.contains(text(file.path())) && output.stderr.contains("hint: "), "{output}");
}
