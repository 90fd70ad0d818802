//! Whiteouts: how a layer removes files of lower layers.
//!
//! A whiteout applies to lower layers only, wherever it is in its own (image-spec `layer.md`, "Whiteouts").

use std::ops::Bound;

use super::{Refused, Tree};
use crate::output::member::{Body, Meta};
use crate::output::rootfs::name::{self, is_below, shown};
use crate::tar::{OPAQUE_WHITEOUT, WHITEOUT_PREFIX};

impl Tree {
    /// Applies the whiteout `base` in `folder`, if it is one.
    pub(super) fn whiteout(&mut self, folder: &[u8], base: &[u8]) -> Result<bool, Refused> {
        let Some(hidden) = base.strip_prefix(WHITEOUT_PREFIX) else { return Ok(false) };
        if base == OPAQUE_WHITEOUT {
            let (low, high) = name::below(folder);
            self.hide(&low, &high)?;
            return Ok(true);
        }
        match hidden {
            b"" | b"." | b".." => {
                let what = format!("`{}` in `{}` is no whiteout", String::from_utf8_lossy(base), shown(folder));
                return Err(what.into());
            }
            // Metadata of AUFS, which no other file system uses.
            hidden if hidden.starts_with(WHITEOUT_PREFIX) => return Ok(true),
            _ => {}
        }
        let mut key = folder.to_vec();
        name::push(&mut key, hidden)?;
        let (_, high) = name::below(&key);
        self.hide(&key, &high)?;
        Ok(true)
    }

    /// Removes the entries of lower layers between two keys. A folder in which this layer has entries stays, without the
    /// lower layer's metadata.
    fn hide(&mut self, low: &[u8], high: &[u8]) -> Result<(), Refused> {
        let (mut hidden, mut bared) = (Vec::new(), Vec::new());
        let mut kept: Option<&[u8]> = None;
        let mut met = 0;
        // Backwards, so that the entries of a folder come before the folder.
        for (key, name) in self.names.range::<[u8], _>((Bound::Included(low), Bound::Excluded(high))).rev() {
            met += 1;
            // The entries below a folder follow it directly, so comparing with the last kept key is enough.
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
