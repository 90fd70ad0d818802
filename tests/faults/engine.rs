//! An engine as a target of exports, and what must be true of it whatever has happened.

use std::{
    collections::HashSet,
    fs,
    sync::atomic::{AtomicUsize, Ordering},
};

use serde_json::Value;

use crate::common::{Output, Part, Run, Stack, full_name, until};

/// What [`Engine::prepare`] loads.
const EARLIER: &str = "earlier:1";

/// One of the engines of a stack.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Engine<'a> {
    pub(crate) stack: &'a Stack,
    pub(crate) kind: &'static str,
    pub(crate) namespace: &'static str,
}

impl<'a> Engine<'a> {
    pub(crate) fn docker(stack: &'a Stack) -> Self {
        Self { stack, kind: "docker", namespace: "moby" }
    }

    pub(crate) fn containerd(stack: &'a Stack) -> Self {
        Self { stack, kind: "containerd", namespace: "faults" }
    }

    pub(crate) fn both(stack: &'a Stack) -> [Self; 2] {
        [Self::docker(stack), Self::containerd(stack)]
    }

    /// The flags with which `linkspan serve` exports to it.
    pub(crate) fn args(&self) -> Vec<String> {
        self.args_behind(self.stack.docker_host(), self.stack.containerd_address())
    }

    /// The same with other sockets, which must lead to the same daemons.
    pub(crate) fn args_behind(&self, docker: &str, containerd: &str) -> Vec<String> {
        let mut args = vec!["--engine", self.kind, "--namespace", self.namespace, "--containerd-address", containerd];
        if self.kind == "docker" {
            args.extend(["--docker-host", docker]);
        }
        args.into_iter().map(str::to_owned).collect()
    }

    /// What a command in a container of the image prints, which must be something: `ctr` loses the words of a container that
    /// ends before its pipes were opened (containerd `client/task.go`, `Delete` cancels their copying).
    #[track_caller]
    pub(crate) fn stdout_of(&self, tag: &str, command: &[&str]) -> String {
        let output = || self.container(tag, command).ok().stdout;
        until("a container to be heard", output, |output| !output.is_empty())
    }

    fn container(&self, tag: &str, command: &[&str]) -> Run {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        if self.kind == "docker" {
            return self.stack.run_image(tag, command);
        }
        let id = format!("faults-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        self.stack.ctr(self.namespace, ["run", "--rm", &full_name(tag), &id]).args(command)
    }

    /// The digest that `tag` points to.
    pub(crate) fn digest(&self, tag: &str) -> Option<String> {
        self.stack.tagged(self.namespace, tag)
    }

    /// Removes an image under a tag.
    #[track_caller]
    pub(crate) fn remove(&self, tag: &str) {
        if self.kind == "docker" {
            self.stack.docker(["rmi", tag]).ok();
        } else {
            self.stack.ctr(self.namespace, ["images", "rm", &full_name(tag)]).ok();
        }
    }

    /// Puts an image there that everything must leave alone. It is not Linkspan that loads it.
    #[track_caller]
    pub(crate) fn prepare(&self, base: &str) {
        if self.kind == "docker" {
            self.stack.docker(["pull", "-q", base]).ok();
            self.stack.docker(["tag", base, EARLIER]).ok();
        } else {
            self.stack.ctr(self.namespace, ["images", "pull", "--plain-http", base]).ok();
            self.stack.ctr(self.namespace, ["images", "tag", base, &full_name(EARLIER)]).ok();
        }
    }

    /// What must be true at any time after an export, whether that failed or not: no lease, ingest or unfinished
    /// snapshot of ours is left, every image is whole, and what was there before still runs.
    #[track_caller]
    pub(crate) fn is_sound(&self) {
        self.nothing_is_left();
        self.images_are_sound();
    }

    /// Every image is whole, and what was there before still runs.
    #[track_caller]
    pub(crate) fn images_are_sound(&self) {
        self.every_image_is_whole();
        assert_eq!(self.stdout_of(EARLIER, &["echo", "still here"]), "still here\n");
    }

    /// Neither lease nor ingest nor unfinished snapshot of ours is left.
    #[track_caller]
    pub(crate) fn nothing_is_left(&self) {
        self.stack.until_released(self.namespace);
        until("our snapshots to go", || self.unfinished_snapshots(), Vec::is_empty);
    }

    /// Whether an export of ours is under way, or was left behind.
    pub(crate) fn leases(&self) -> Vec<String> {
        self.stack.linkspan_leases(self.namespace)
    }

    /// Snapshots that were prepared for a layer and not committed.
    pub(crate) fn unfinished_snapshots(&self) -> Vec<String> {
        let lines = self.stack.ctr(self.namespace, ["snapshots", "ls"]).ok().lines();
        lines.into_iter().filter(|line| line.starts_with("extract-")).collect()
    }

    /// Every blob of every image record is in the namespace, and its file has the digest it should have.
    #[track_caller]
    pub(crate) fn every_image_is_whole(&self) {
        let stored: HashSet<String> = self.stack.blobs(self.namespace).into_iter().collect();
        let mut open: Vec<_> = self.stack.images(self.namespace).into_iter().map(|(_, digest)| digest).collect();
        assert!(!open.is_empty(), "there is not even the image that was loaded first");
        let mut seen = HashSet::new();
        while let Some(digest) = open.pop() {
            assert!(stored.contains(&digest), "an image of namespace {} lacks {digest}", self.namespace);
            if seen.insert(digest.clone()) {
                open.extend(self.children(&digest));
            }
        }
        self.files_are_whole(&seen);
    }

    /// The file of each of these blobs has the digest that it should have.
    #[track_caller]
    pub(crate) fn files_are_whole<'s>(&self, digests: impl IntoIterator<Item = &'s String>) {
        let files: Vec<_> = digests.into_iter().map(|digest| self.stack.blob_file(digest)).collect();
        if files.is_empty() {
            return;
        }
        let sums = Run::new("sha256sum").args(files).ok().lines();
        for line in sums {
            let (sum, file) = line.split_once("  ").unwrap();
            assert!(file.ends_with(sum), "{file} has another digest: {sum}");
        }
    }

    /// What an index or a manifest needs; nothing for other blobs.
    fn children(&self, digest: &str) -> Vec<String> {
        let bytes = fs::read(self.stack.blob_file(digest)).unwrap();
        let Ok(document) = serde_json::from_slice::<Value>(&bytes) else { return Vec::new() };
        let list = |key: &str| document[key].as_array().cloned().unwrap_or_default();
        let children = [list("manifests"), list("layers"), vec![document["config"].clone()]].concat();
        children.iter().filter_map(|child| child["digest"].as_str()).map(str::to_owned).collect()
    }
}

/// The parts of a stack that has both engines; builder and registry are shared.
pub(crate) const ENGINES: [Part; 2] = [Part::Containerd, Part::Dockerd];

/// That `output` is a failure whose standard error has each of `words`.
#[track_caller]
pub(crate) fn assert_stderr_has(output: &Output, words: &[&str]) {
    assert_eq!(output.status.code(), Some(1), "{output}");
    for word in words {
        assert!(output.stderr.contains(word), "not said: {word}\n{output}");
    }
}
