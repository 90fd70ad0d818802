//! Resolves the folder of a member through the symbolic links of the image, without leaving it.

use super::{Refused, Tree};
use crate::output::member::Body;
use crate::output::rootfs::limits::LINKS;
use crate::output::rootfs::name::{self, Key, shown};

impl Tree {
    /// The folder that `key` resolves to; it need not exist. Links are resolved as by continuity's `fs.RootPath`: `..` stops
    /// at the root, and a missing part is kept as written.
    pub(super) fn resolve(&mut self, key: &[u8]) -> Result<Key, Refused> {
        if key.is_empty() || self.body(key) == Some(&Body::Folder) {
            return Ok(key.to_vec());
        }
        let (mut found, mut links, mut steps) = (Key::new(), 0, 0);
        // The next part is the last one.
        let mut parts: Vec<&[u8]> = key.rsplit(|&byte| byte == 0).collect();
        let outcome = loop {
            let Some(part) = parts.pop() else { break Ok(()) };
            steps += 1;
            match part {
                b"" | b"." => continue,
                b".." => {
                    found.truncate(name::parent(&found).len());
                    continue;
                }
                _ => {}
            }
            let length = found.len();
            if let Err(reason) = name::push(&mut found, part) {
                break Err(reason);
            }
            match self.body(&found) {
                None | Some(Body::Folder) => {}
                Some(Body::Symlink { target }) => {
                    links += 1;
                    if links > LINKS {
                        break Err(format!("`{}` leads through more than {LINKS} symbolic links", shown(key)));
                    }
                    found.truncate(if target.starts_with(b"/") { 0 } else { length });
                    parts.extend(target.rsplit(|&byte| byte == b'/'));
                    steps += target.len() as u64 / 2;
                }
                Some(_) => {
                    break Err(format!("`{}` is in `{}`, which is no folder", shown(key), shown(&found)));
                }
            }
        };
        self.spend(steps)?;
        Ok(outcome.map(|()| found)?)
    }
}
