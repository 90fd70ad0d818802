//! The same as plainly as it can be said: a list of paths, searched from end to end.

/// What a path stands for: a number in `things`.
#[derive(Debug, Default)]
pub(super) struct Model {
    /// With the layer that said so.
    names: Vec<(Vec<String>, usize, u32)>,
    things: Vec<Thing>,
}

#[derive(Debug, Clone)]
struct Thing {
    kind: Kind,
    uid: u32,
}

#[derive(Debug, Clone, PartialEq)]
enum Kind {
    Folder,
    File(u32),
    Symlink(String),
}

impl Model {
    fn find(&self, path: &[String]) -> Option<usize> {
        self.names.iter().find(|(name, ..)| name == path).map(|(_, thing, _)| *thing)
    }

    fn remove(&mut self, path: &[String]) {
        self.names.retain(|(name, ..)| !name.starts_with(path));
    }

    fn walk(&self, path: &[String], links: u32) -> Option<Vec<String>> {
        let mut found: Vec<String> = Vec::new();
        for (at, part) in path.iter().enumerate() {
            match part.as_str() {
                "" | "." => continue,
                ".." => {
                    found.pop();
                    continue;
                }
                _ => {}
            }
            found.push(part.clone());
            match self.find(&found).map(|thing| &self.things[thing].kind) {
                None | Some(Kind::Folder) => {}
                Some(Kind::File(_)) => return None,
                Some(Kind::Symlink(target)) => {
                    found.pop();
                    if target.starts_with('/') {
                        found.clear();
                    }
                    found.extend(target.split('/').map(str::to_owned));
                    found.extend_from_slice(&path[at + 1..]);
                    return if links == 255 { None } else { self.walk(&found, links + 1) };
                }
            }
        }
        Some(found)
    }

    fn new_thing(&mut self, kind: Kind, uid: u32) -> usize {
        self.things.push(Thing { kind, uid });
        self.things.len() - 1
    }

    /// `None` if it is refused. Whiteouts come first in a layer, so that they remove whatever is there.
    pub(super) fn apply(&mut self, text: &str, number: u32) -> Option<()> {
        let (path, what) = match text.find(['>', '=']) {
            Some(at) => (&text[..at], Some(&text[at..])),
            None => (text, None),
        };
        let layer = (number - 1) / 100;
        let is_folder = path.ends_with('/');
        let parts: Vec<_> = path.trim_end_matches('/').split('/').map(str::to_owned).collect();
        let (base, folder) = parts.split_last()?;
        let mut path = self.walk(folder, 0)?;
        for length in 1..=path.len() {
            if self.find(&path[..length]).is_none() {
                let thing = self.new_thing(Kind::Folder, 0);
                self.names.push((path[..length].to_vec(), thing, layer));
            }
        }
        if base == ".wh..wh..opq" {
            self.names.retain(|(name, ..)| !(name.starts_with(&path) && name.len() > path.len()));
            return Some(());
        }
        if let Some(hidden) = base.strip_prefix(".wh.") {
            path.push(hidden.to_owned());
            self.remove(&path);
            return Some(());
        }
        path.push(base.clone());
        if is_folder
            && let Some(thing) = self.find(&path)
            && self.things[thing].kind == Kind::Folder
        {
            self.things[thing].uid = number;
            return Some(());
        }
        self.remove(&path);
        let thing = match what.map(|what| what.split_at(1)) {
            Some((">", target)) => self.new_thing(Kind::Symlink(target.to_owned()), number),
            Some((_, target)) => {
                let parts: Vec<_> = target.split('/').map(str::to_owned).collect();
                let (base, folder) = parts.split_last()?;
                let mut target = self.walk(folder, 0)?;
                target.push(base.clone());
                let is_here = |(name, _, from): &&(Vec<String>, usize, u32)| *name == target && *from == layer;
                let thing = self.names.iter().find(is_here)?.1;
                if self.things[thing].kind == Kind::Folder {
                    return None;
                }
                self.things[thing].uid = number;
                thing
            }
            None if is_folder => self.new_thing(Kind::Folder, number),
            None => self.new_thing(Kind::File(number), number),
        };
        self.names.push((path, thing, layer));
        Some(())
    }

    pub(super) fn listed(mut self) -> Vec<String> {
        self.names.sort();
        let mut listed = Vec::new();
        for (at, (path, thing, _)) in self.names.iter().enumerate() {
            let Thing { kind, uid } = &self.things[*thing];
            let path = path.join("/");
            let first = self.names[..at].iter().find(|(_, other, _)| other == thing);
            listed.push(match (kind, first) {
                (_, Some((first, ..))) => format!("{path}={} {uid}", first.join("/")),
                (Kind::Folder, _) => format!("{path}/ {uid}"),
                (Kind::File(size), _) => format!("{path}:{size} {uid}"),
                (Kind::Symlink(target), _) => format!("{path}>{target} {uid}"),
            });
        }
        listed
    }
}
