//! What is done twice, through Linkspan and without it, and compared.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::fs;
use std::ops::Deref;
use std::path::Path;

use super::{Linkspan, Output, Stack};

/// One of the two ways to an engine or a builder.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Way<'a> {
    pub(crate) stack: &'a Stack,
    /// `through` or `direct`: for names that must differ between the two.
    pub(crate) name: &'static str,
}

impl<'a> Way<'a> {
    pub(crate) fn through(stack: &'a Stack) -> Self {
        Self { stack, name: "through" }
    }

    pub(crate) fn direct(stack: &'a Stack) -> Self {
        Self { stack, name: "direct" }
    }

    /// A name that only this way uses.
    pub(crate) fn tag(&self, name: &str) -> String {
        format!("{name}-{}:1", self.name)
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
}

/// Runs `test` both ways and wants equal results. Through Linkspan first: what the engine holds then has not come by the
/// tar path.
#[track_caller]
pub(crate) fn compare<'a, S: Deref<Target = Way<'a>>, T: PartialEq + Debug>(
    linkspan: &Linkspan,
    through: &S,
    direct: &S,
    test: impl Fn(&S) -> T,
) -> T {
    assert_eq!((through.name, direct.name), ("through", "direct"));
    let (through, direct) = (test(through), test(direct));
    assert_eq!(through, direct, "left: through Linkspan; right: without it\n{}", linkspan.log());
    through
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
