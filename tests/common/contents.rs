//! What is in the engines of a stack.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::{Run, Stack, until};

/// A tag as image records have it.
pub(crate) fn full_name(tag: &str) -> String {
    format!("docker.io/library/{tag}")
}

impl Stack {
    /// Ids of the leases in a containerd namespace.
    pub(crate) fn leases(&self, namespace: &str) -> Vec<String> {
        self.ctr(namespace, ["leases", "ls", "-q"]).ok().lines()
    }

    /// References of the ingests that are under way in a containerd namespace.
    pub(crate) fn ingests(&self, namespace: &str) -> Vec<String> {
        let lines = self.ctr(namespace, ["content", "active"]).ok().lines();
        lines[1..].iter().filter_map(|line| line.split_whitespace().next().map(str::to_owned)).collect()
    }

    /// Digests of the blobs in a containerd namespace.
    pub(crate) fn blobs(&self, namespace: &str) -> Vec<String> {
        self.ctr(namespace, ["content", "ls", "-q"]).ok().lines()
    }

    /// Snapshots of the default snapshotter in a containerd namespace, as `(name, kind)`.
    pub(crate) fn snapshots(&self, namespace: &str) -> Vec<(String, String)> {
        let lines = self.ctr(namespace, ["snapshots", "ls"]).ok().lines();
        // An active snapshot's key is two words, and the lowest has no parent.
        let pair = |line: &String| {
            let words: Vec<_> = line.split_whitespace().collect();
            (words[0].to_owned(), words[words.len() - 1].to_owned())
        };
        lines[1..].iter().map(pair).collect()
    }

    /// Image records of a containerd namespace, as `(name, digest)`.
    pub(crate) fn images(&self, namespace: &str) -> Vec<(String, String)> {
        let lines = self.ctr(namespace, ["images", "ls"]).ok().lines();
        let pair = |line: &String| {
            let words: Vec<_> = line.split_whitespace().collect();
            (words[0].to_owned(), words[2].to_owned())
        };
        lines[1..].iter().map(pair).collect()
    }

    /// The digest of an image record in dockerd's namespace, if there is one.
    pub(crate) fn image(&self, name: &str) -> Option<String> {
        self.image_of("moby", name)
    }

    /// The digest of an image record in a containerd namespace, if there is one.
    pub(crate) fn image_of(&self, namespace: &str, name: &str) -> Option<String> {
        self.images(namespace).into_iter().find(|(found, _)| found == name).map(|(_, digest)| digest)
    }

    /// The digest of the image record of a tag such as `app:1` in a containerd namespace, if there is one.
    pub(crate) fn tagged(&self, namespace: &str, tag: &str) -> Option<String> {
        self.image_of(namespace, &full_name(tag))
    }

    /// The document `digest` of a containerd namespace.
    #[track_caller]
    pub(crate) fn document(&self, namespace: &str, digest: &str) -> serde_json::Value {
        serde_json::from_str(&self.ctr(namespace, ["content", "get", digest]).ok().stdout).unwrap()
    }

    /// Runs a command in a container of an image that dockerd has, without a network of its own.
    pub(crate) fn run_image(&self, image: &str, command: &[&str]) -> Run {
        self.docker(run(image)).args(command.iter().copied())
    }

    /// The same in the dockerd with the classic image store.
    pub(crate) fn run_classic_image(&self, image: &str, command: &[&str]) -> Run {
        self.docker_classic(run(image)).args(command.iter().copied())
    }

    /// Leases of Linkspan in a containerd namespace.
    pub(crate) fn linkspan_leases(&self, namespace: &str) -> Vec<String> {
        of_linkspan(self.leases(namespace))
    }

    /// Ingests of Linkspan in a containerd namespace.
    pub(crate) fn linkspan_ingests(&self, namespace: &str) -> Vec<String> {
        of_linkspan(self.ingests(namespace))
    }

    /// Runs containerd's garbage collector, which goes through all namespaces: a lease that is deleted with `--sync` waits for it.
    ///
    /// Without being asked, containerd may leave what is garbage until somebody writes to it again. While blobs and folders of
    /// snapshots are deleted, clients can remove more (containerd 2.3 `core/metadata/db.go`: `GarbageCollect` unlocks `wlock` before
    /// it waits for that), and what it is told of such a removal before the end of the collection, its scheduler drops
    /// (`plugins/gc/scheduler.go`, `run`: `lastCollection.After(e.ts)`).
    #[track_caller]
    pub(crate) fn collect_garbage(&self, namespace: &str) {
        // Of its own: other tests collect as well.
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let lease = format!("collect-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        self.ctr(namespace, ["leases", "create", "--id", &lease]).ok();
        self.ctr(namespace, ["leases", "rm", "--sync", &lease]).ok();
    }

    /// The folder of containerd's content store.
    pub(crate) fn content_store(&self) -> PathBuf {
        self.state().join("containerd/root/io.containerd.content.v1.content")
    }

    /// The file of a blob there.
    pub(crate) fn blob_file(&self, digest: &str) -> PathBuf {
        self.content_store().join("blobs").join(digest.replace(':', "/"))
    }

    /// Waits until neither a lease nor an ingest is left in a containerd namespace, whoever made it.
    #[track_caller]
    pub(crate) fn until_idle(&self, namespace: &str) {
        until("all leases to go", || self.leases(namespace), Vec::is_empty);
        until("all ingests to go", || self.ingests(namespace), Vec::is_empty);
    }

    /// Waits until neither a lease nor an ingest of Linkspan is left in a containerd namespace.
    #[track_caller]
    pub(crate) fn until_released(&self, namespace: &str) {
        until("Linkspan's leases to go", || self.linkspan_leases(namespace), Vec::is_empty);
        until("Linkspan's ingests to go", || self.linkspan_ingests(namespace), Vec::is_empty);
    }
}

fn run(image: &str) -> [&str; 7] {
    ["run", "--rm", "--network", "host", "--pull", "never", image]
}

fn of_linkspan(mut names: Vec<String>) -> Vec<String> {
    names.retain(|name| name.starts_with("linkspan-"));
    names
}
