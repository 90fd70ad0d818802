//! What is done twice, through Linkspan and without it, and compared.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::fs;
use std::ops::Deref;
use std::path::Path;

use super::{Linkspan, Output, Stack};

/// A door, and the engine or builder behind it. `C` is what clients of either of them use.
#[derive(Debug)]
pub(crate) struct BothWays<'a, C> {
    pub(crate) stack: &'a Stack,
    pub(crate) linkspan: Linkspan,
    through: Side<'a, C>,
    direct: Side<'a, C>,
}

/// One of the two ways, as a test's closure gets it.
#[derive(Debug, Clone)]
pub(crate) struct Side<'a, C> {
    pub(crate) stack: &'a Stack,
    /// `through` or `direct`: for names that must differ between the two.
    pub(crate) name: &'static str,
    client: C,
}

impl<C> Deref for Side<'_, C> {
    type Target = C;

    fn deref(&self) -> &C {
        &self.client
    }
}

impl<'a, C> BothWays<'a, C> {
    /// The door of `linkspan`, and what is behind it at the address `direct`; `client` makes the client of an address.
    pub(crate) fn new(stack: &'a Stack, linkspan: Linkspan, direct: &str, client: impl Fn(&str) -> C) -> Self {
        let side = |name, address: &str| Side { stack, name, client: client(address) };
        let (through, direct) = (side("through", &linkspan.address()), side("direct", direct));
        Self { stack, linkspan, through, direct }
    }

    pub(crate) fn through(&self) -> &Side<'a, C> {
        &self.through
    }

    pub(crate) fn direct(&self) -> &Side<'a, C> {
        &self.direct
    }

    /// Runs `test` both ways and wants equal results. Through Linkspan first: what the engine holds then has not come by the
    /// tar path.
    #[track_caller]
    pub(crate) fn compare<T: PartialEq + Debug>(&self, test: impl Fn(&Side<'a, C>) -> T) -> T {
        let (through, direct) = (test(&self.through), test(&self.direct));
        assert_eq!(through, direct, "left: through Linkspan; right: without it\n{}", self.linkspan.log());
        through
    }
}

impl<C> Side<'_, C> {
    /// A name that only this side uses.
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
        let found = self.stack.tagged("moby", tag);
        found.unwrap_or_else(|| panic!("no record of {tag} among {:?}", self.stack.images("moby")))
    }

    /// The same, with other names.
    pub(crate) fn renamed(&self, name: &'static str) -> Self
    where
        C: Clone,
    {
        Self { name, ..self.clone() }
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
