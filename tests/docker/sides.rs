//! The two ways to dockerd.

use std::{collections::BTreeMap, fmt::Debug, fs, os::unix::net::UnixStream, path::Path, time::Duration};

use crate::common::{Linkspan, Output, Run, Stack};

/// dockerd's own socket, and a door in front of it.
pub(crate) struct Sides<'a> {
    pub(crate) stack: &'a Stack,
    pub(crate) linkspan: Linkspan,
}

/// One of the two ways, as a test's closure meets it.
pub(crate) struct Side<'a> {
    pub(crate) stack: &'a Stack,
    /// `unix:///…`.
    pub(crate) host: String,
    /// `through` or `direct`: for names that must differ between the two.
    pub(crate) name: &'static str,
}

impl<'a> Sides<'a> {
    #[track_caller]
    pub(crate) fn of(stack: &'a Stack) -> Self {
        Self { stack, linkspan: Linkspan::docker_door(stack) }
    }

    pub(crate) fn through(&self) -> Side<'_> {
        Side { stack: self.stack, host: self.linkspan.address(), name: "through" }
    }

    pub(crate) fn direct(&self) -> Side<'_> {
        Side { stack: self.stack, host: self.stack.docker_host().to_owned(), name: "direct" }
    }

    /// Runs `test` on both sides and wants equal results.
    #[track_caller]
    pub(crate) fn compare<T: PartialEq + Debug>(&self, test: impl Fn(&Side<'_>) -> T) -> T {
        let through = test(&self.through());
        let direct = test(&self.direct());
        assert_eq!(through, direct, "left: through Linkspan; right: without it\n{}", self.linkspan.log());
        through
    }
}

impl Side<'_> {
    pub(crate) fn docker<'s>(&self, args: impl IntoIterator<Item = &'s str>) -> Run {
        self.stack.docker(args).env("DOCKER_HOST", &self.host)
    }

    /// `docker run` with the arguments, in the base image, without a network of its own.
    pub(crate) fn run<'s>(&self, args: impl IntoIterator<Item = &'s str>) -> Run {
        self.docker(["run", "--network", "host"]).args(args)
    }

    /// A name that only this side uses.
    pub(crate) fn named(&self, name: &str) -> String {
        format!("{name}-{}", self.name)
    }

    /// What a command said and how it ended, without what differs between the sides by design.
    pub(crate) fn said(&self, output: &Output) -> (Option<i32>, String, String) {
        let clean = |text: &str| text.replace(&self.host, "HOST").replace(&format!("-{}", self.name), "-SIDE");
        (output.status.code(), clean(&output.stdout), clean(&output.stderr))
    }

    /// A connection of one's own. Reading from it fails after a minute instead of hanging.
    #[track_caller]
    pub(crate) fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(self.host.strip_prefix("unix://").unwrap()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream
    }
}

/// The base image, pulled once for both sides, by name.
#[track_caller]
pub(crate) fn base(stack: &Stack) -> &str {
    let name = stack.base_image();
    stack.docker(["pull", "--quiet", name]).ok();
    name
}

/// Removes a container when dropped, whatever has become of it.
pub(crate) struct Container<'a>(pub(crate) &'a Stack, pub(crate) String);

impl Drop for Container<'_> {
    fn drop(&mut self) {
        self.0.docker(["rm", "--force", &self.1]).output();
    }
}

/// Everything below a folder: relative path to what is there.
#[track_caller]
pub(crate) fn tree(root: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut open = vec![root.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let kind = fs::symlink_metadata(&path).unwrap().file_type();
            let content = if kind.is_symlink() {
                format!("-> {}", fs::read_link(&path).unwrap().display()).into_bytes()
            } else if kind.is_dir() {
                open.push(path.clone());
                b"a folder".to_vec()
            } else {
                fs::read(&path).unwrap()
            };
            found.insert(path.strip_prefix(root).unwrap().display().to_string(), content);
        }
    }
    found
}
