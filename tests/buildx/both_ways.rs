//! The two ways to the builder, and how their results are made comparable.

use std::{
    collections::BTreeMap,
    fmt::Debug,
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    ops::Deref,
    path::Path,
};

use serde_json::Value;

use crate::common::{
    Builder, Context, Linkspan, Output, Stack,
    both_ways::{self, Way},
};

/// The builder itself, and a door in front of it.
pub(crate) struct BothWays<'a> {
    pub(crate) stack: &'a Stack,
    pub(crate) linkspan: Linkspan,
    through: Builder<'a>,
    direct: Builder<'a>,
}

/// One of the two ways, as a test's closure meets it.
pub(crate) struct Side<'a> {
    way: Way<'a>,
    pub(crate) builder: &'a Builder<'a>,
}

impl<'a> Deref for Side<'a> {
    type Target = Way<'a>;

    fn deref(&self) -> &Way<'a> {
        &self.way
    }
}

impl<'a> BothWays<'a> {
    #[track_caller]
    pub(crate) fn of(stack: &'a Stack) -> Self {
        let linkspan = Linkspan::docker(stack);
        let through = stack.builder(&linkspan.address());
        Self { stack, linkspan, through, direct: stack.builder(stack.buildkit_host()) }
    }

    pub(crate) fn through(&self) -> Side<'_> {
        Side { way: Way::through(self.stack), builder: &self.through }
    }

    pub(crate) fn direct(&self) -> Side<'_> {
        Side { way: Way::direct(self.stack), builder: &self.direct }
    }

    #[track_caller]
    pub(crate) fn compare<T: PartialEq + Debug>(&self, test: impl Fn(&Side<'_>) -> T) -> T {
        both_ways::compare(&self.linkspan, &self.through(), &self.direct(), test)
    }
}

impl Side<'_> {
    /// Builds with `--load` under [`Way::tag`] of `name`, and returns the digest of the image record.
    ///
    /// # Panics
    /// When it fails, or when the bytes went the way they should not on this side.
    #[track_caller]
    pub(crate) fn load(&self, context: &Context, name: &str, args: &[&str]) -> String {
        let tag = self.tag(name);
        let output = self.builder.build(context.path(), ["--load", "-t", &tag]).args(args).ok();
        self.check_way(&output);
        self.digest(&tag)
    }

    /// What the image says when it runs in dockerd.
    #[track_caller]
    pub(crate) fn run_image(&self, tag: &str, command: &[&str]) -> String {
        self.stack.docker(["run", "--rm", "--network", "host", tag]).args(command).ok().stdout
    }

    /// A JSON document in dockerd's content store.
    #[track_caller]
    pub(crate) fn document(&self, digest: &str) -> Value {
        serde_json::from_str(&self.stack.ctr("moby", ["content", "get", digest]).ok().stdout).unwrap()
    }
}

/// Errors and warnings of a plain progress output: without the steps, the times and the internal references.
pub(crate) fn messages(output: &Output) -> Vec<String> {
    let word = |word: &str| match word {
        _ if word.contains("::") => "REFERENCE".to_owned(),
        _ if word.contains('.') && word.parse::<f64>().is_ok() => "TIME".to_owned(),
        _ => word.to_owned(),
    };
    let line = |line: &str| line.split(' ').map(word).collect::<Vec<_>>().join(" ");
    // buildx's HTTP/2 server logs the end of its session when a build fails early, or does not, as the race goes.
    let noise =
        |line: &str| line.is_empty() || line.starts_with('#') || line.contains("http2: server connection error");
    output.stderr.lines().filter(|line| !noise(line)).map(line).collect()
}

/// A `--metadata-file`, without what differs between any two builds.
#[track_caller]
pub(crate) fn metadata(path: &Path) -> Value {
    let mut value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    forget_the_moment(&mut value);
    value
}

/// Removes references of builds, ids of sessions and times from a document.
pub(crate) fn forget_the_moment(value: &mut Value) {
    const MOMENTARY: [&str; 6] = [
        "buildx.build.ref",
        "org.opencontainers.image.created",
        "invocationId",
        "startedOn",
        "finishedOn",
        // Digests of steps, which contain the id of the client's session.
        "digestMapping",
    ];
    match value {
        Value::Object(fields) => {
            let momentary = |key: &str| MOMENTARY.contains(&key) || key.starts_with("local-sessionid:");
            fields.retain(|key, _| !momentary(key));
            fields.values_mut().for_each(forget_the_moment);
        }
        Value::Array(items) => items.iter_mut().for_each(forget_the_moment),
        _ => {}
    }
}

/// Everything below a folder: relative path to what is there, large files by their size and a hash.
#[track_caller]
pub(crate) fn tree(root: &Path) -> BTreeMap<String, String> {
    both_ways::tree(root).into_iter().map(|(path, bytes)| (path, content(bytes))).collect()
}

fn content(bytes: Vec<u8>) -> String {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    let summary = format!("{} bytes, hash {:x}", bytes.len(), hasher.finish());
    String::from_utf8(bytes).ok().filter(|text| text.len() < 2000).unwrap_or(summary)
}
