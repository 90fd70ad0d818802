//! The two ways to the builder, and how their results are made comparable.

use std::{
    collections::BTreeMap,
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    path::Path,
};

use serde_json::Value;

use crate::common::{Builder, Context, Linkspan, Output, Stack, both_ways};

pub(crate) type BothWays<'a> = both_ways::BothWays<'a, Client<'a>>;
pub(crate) type Side<'a> = both_ways::Side<'a, Client<'a>>;

/// A client of the builder.
#[derive(Debug)]
pub(crate) struct Client<'a> {
    pub(crate) builder: Builder<'a>,
}

impl<'a> BothWays<'a> {
    #[track_caller]
    pub(crate) fn of(stack: &'a Stack) -> Self {
        let client = |address: &str| Client { builder: stack.builder(address) };
        Self::new(stack, Linkspan::docker(stack), stack.buildkit_host(), client)
    }
}

impl Side<'_> {
    /// Builds with `--load` under the tag of `name`, and returns the digest of the image record.
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

    /// What the image prints when it runs in dockerd.
    #[track_caller]
    pub(crate) fn run_image(&self, tag: &str, command: &[&str]) -> String {
        self.stack.run_image(tag, command).ok().stdout
    }

    /// A JSON document in dockerd's content store.
    #[track_caller]
    pub(crate) fn document(&self, digest: &str) -> Value {
        self.stack.document("moby", digest)
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
