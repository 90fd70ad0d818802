//! What a layer says is no longer there.
//!
//! A whiteout is about lower layers only, wherever in its layer it stands (image-spec `layer.md`, "Whiteouts").

use std::ops::Bound;

use super::{Refused, Tree};
use crate::output::member::{Body, Meta};
use crate::output::rootfs::name::{self, is_below, shown};

const PREFIX: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

impl Tree {
    /// Does what the name `base` in `folder` means, if it is a whiteout's.
    pub(super) fn whiteout(&mut self, folder: &[u8], base: &[u8]) -> Result<bool, Refused> {
        let Some(hidden) = base.strip_prefix(PREFIX) else { return Ok(false) };
        if base == OPAQUE {
            let (low, high) = name::below(folder);
            self.hide(&low, &high)?;
            return Ok(true);
        }
        match hidden {
            b"" | b"." | b".." => {
                let what = format!("`{}` in `{}` is no whiteout", String::from_utf8_lossy(base), shown(folder));
                return Err(what.into());
            }
            // AUFS's own, which no other file system has a use for.
            hidden if hidden.starts_with(PREFIX) => return Ok(true),
            _ => {}
        }
        let mut key = folder.to_vec();
        name::push(&mut key, hidden)?;
        let (_, high) = name::below(&key);
        self.hide(&key, &high)?;
        Ok(true)
    }

    /// Removes what lower layers put between two keys. A folder of theirs in which this layer has something stays, as one
    /// that no layer describes.
    fn hide(&mut self, low: &[u8], high: &[u8]) -> Result<(), Refused> {
        let (mut hidden, mut bared) = (Vec::new(), Vec::new());
        let mut kept: Option<&[u8]> = None;
        let mut met = 0;
        // Backwards, so that what is in a folder is met before the folder.
        for (key, name) in self.names.range::<[u8], _>((Bound::Included(low), Bound::Excluded(high))).rev() {
            met += 1;
            // What is below a folder follows it at once, so the key that was kept last tells.
            if name.layer == self.layer {
                kept = Some(key);
            } else if kept.is_some_and(|kept| is_below(kept, key)) {
                kept = Some(key);
                bared.push(name.inode);
            } else {
                hidden.push(key.clone());
            }
        }
        self.spend(met)?;
        for key in hidden {
            self.forget(&key);
        }
        for inode in bared {
            debug_assert!(self.inodes[inode as usize].body == Body::Folder);
            self.change(inode, Meta::FOLDER)?;
        }
        Ok(())
    }
}
