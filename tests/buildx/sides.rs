//! The two ways to the builder, and how their results are made comparable.

use std::{
    collections::BTreeMap,
    fmt::Debug,
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    path::Path,
};

use serde_json::Value;

use crate::common::{Builder, Context, Linkspan, Output, Stack};

/// The builder itself, and a door in front of it.
pub(crate) struct Sides<'a> {
    pub(crate) stack: &'a Stack,
    pub(crate) linkspan: Linkspan,
    through: Builder<'a>,
    direct: Builder<'a>,
}

/// One of the two ways, as a test's closure meets it.
pub(crate) struct Side<'a> {
    pub(crate) stack: &'a Stack,
    pub(crate) builder: &'a Builder<'a>,
    /// `through` or `direct`: for names that must differ between the two.
    pub(crate) name: &'static str,
}

impl<'a> Sides<'a> {
    #[track_caller]
    pub(crate) fn of(stack: &'a Stack) -> Self {
        let linkspan = Linkspan::docker(stack);
        let through = stack.builder(&linkspan.address());
        Self { stack, linkspan, through, direct: stack.builder(stack.buildkit_host()) }
    }

    pub(crate) fn through(&self) -> Side<'_> {
        Side { stack: self.stack, builder: &self.through, name: "through" }
    }

    pub(crate) fn direct(&self) -> Side<'_> {
        Side { stack: self.stack, builder: &self.direct, name: "direct" }
    }

    /// Runs `test` on both sides and wants equal results. Through Linkspan first: what
    /// the engine holds then has not come by the tar path.
    #[track_caller]
    pub(crate) fn compare<T: PartialEq + Debug>(&self, test: impl Fn(&Side<'_>) -> T) -> T {
        let through = test(&self.through());
        let direct = test(&self.direct());
        assert_eq!(through, direct, "left: through Linkspan; right: without it\n{}", self.linkspan.log());
        through
    }
}

impl Side<'_> {
    /// A name that only this side uses.
    pub(crate) fn tag(&self, name: &str) -> String {
        format!("{name}-{}:1", self.name)
    }

    /// Builds with `--load` under [`Side::tag`] of `name`, and returns the digest of the image record.
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

    /// A direct export sends no tar; without Linkspan there is one, which shows that this can fail.
    #[track_caller]
    pub(crate) fn check_way(&self, output: &Output) {
        let tar = output.stderr.contains("sending tarball");
        assert_eq!(tar, self.name == "direct", "{}: {output}", self.name);
    }

    /// The digest of the image record that Docker knows as `tag`.
    #[track_caller]
    pub(crate) fn digest(&self, tag: &str) -> String {
        let name = format!("docker.io/library/{tag}");
        self.stack.image(&name).unwrap_or_else(|| panic!("no record {name} among {:?}", self.stack.images("moby")))
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
pub(crate) fn said(output: &Output) -> Vec<String> {
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
    let mut found = BTreeMap::new();
    let mut open = vec![root.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let kind = fs::symlink_metadata(&path).unwrap().file_type();
            let content = if kind.is_symlink() {
                format!("-> {}", fs::read_link(&path).unwrap().display())
            } else if kind.is_dir() {
                open.push(path.clone());
                "a folder".to_owned()
            } else {
                content(fs::read(&path).unwrap())
            };
            found.insert(path.strip_prefix(root).unwrap().display().to_string(), content);
        }
    }
    found
}

fn content(bytes: Vec<u8>) -> String {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    let summary = format!("{} bytes, hash {:x}", bytes.len(), hasher.finish());
    String::from_utf8(bytes).ok().filter(|text| text.len() < 2000).unwrap_or(summary)
}
