//! Plans the order of the entries.
//!
//! Each layer is read twice: a later layer may replace or remove any file, so the first pass keeps names only, and the second
//! pass emits contents. Keeping the contents of the first pass would need as much disk as the image.
//!
//! Entries without content (folders, links, devices, empty files) come first, in the order of a walk, from memory. Files
//! follow, layer by layer in the order of the layer, each followed by its further names. So every folder precedes its entries,
//! every hard link follows its file, and the second pass reads each layer once.

use std::collections::HashMap;

use super::layer::Layer;
use super::limits::{Budget, Limits};
use super::name;
use super::tree::{EntryOrigin, Inode, Refused, Tree};
use super::{Image, LayerFiles, RootfsError, StoredFile};
use crate::image::{Descriptor, Digest, Hasher};
use crate::output::items::archived_size;
use crate::output::member::{Body, Member, Meta, Mtime};
use crate::source::Source;

/// What the plan has used of the limits.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cost {
    pub(super) names: usize,
    pub(super) text_bytes: usize,
    pub(super) members: u32,
    pub(super) budget: Budget,
}

impl Cost {
    pub(super) fn new(limits: Limits) -> Self {
        Self { names: 0, text_bytes: 0, members: 0, budget: Budget::new(limits.bytes) }
    }
}

/// Reads layers and applies them, lowest first.
pub(super) async fn lay(
    source: &dyn Source,
    layers: &[(&Descriptor, &Digest)],
    limits: Limits,
    cost: &mut Cost,
) -> Result<Tree, RootfsError> {
    let mut tree = Tree::new(Limits {
        names: limits.names.saturating_sub(cost.names),
        text_bytes: limits.text_bytes.saturating_sub(cost.text_bytes),
        ..limits
    });
    for (at, (blob, diff_id)) in (0..).zip(layers) {
        // Hashing costs a fifth of inflating, and an engine would refuse the image as well.
        let mut layer = Layer::open(source, blob, cost.budget, Some(Hasher::new(diff_id.algorithm()))).await?;
        let mut origin = EntryOrigin { layer: at, ordinal: 0 };
        while let Some(member) = layer.next().await? {
            cost.members += 1;
            if cost.members > limits.members {
                return Err(RootfsError::Limit { what: "the members of all layers", limit: limits.members.into() });
            }
            tree.apply(member, origin).map_err(|refused| match refused {
                Refused::Member(reason) => layer.wrong(reason),
                Refused::Limit(error) => error,
            })?;
            origin.ordinal += 1;
        }
        cost.budget = layer.finish(diff_id).await?;
    }
    Ok(tree)
}

/// The entries of `tree` in order, below `folder` (or at the root). With `epoch` every entry has that time. The entries count
/// against `limits` again: names grow by `folder`, and hard links need their targets.
pub(super) fn order(
    tree: Tree,
    layers: &[(&Descriptor, &Digest)],
    folder: Option<&[u8]>,
    epoch: Option<u64>,
    limits: Limits,
    cost: &mut Cost,
) -> Result<Image, RootfsError> {
    let full = |key: &[u8]| match folder {
        Some(folder) => [folder, b"/", &name::path(key)].concat(),
        None => name::path(key),
    };
    let (names, mut inodes) = tree.into_parts();
    if let Some(time) = time(epoch) {
        inodes.iter_mut().for_each(|inode| inode.meta.mtime = time);
    }
    let mut head: Vec<Member> = folder
        .map(|folder| Member {
            path: folder.to_vec(),
            body: Body::Folder,
            meta: Meta { mtime: time(epoch).unwrap_or_default(), ..Meta::FOLDER },
        })
        .into_iter()
        .collect();
    let mut files: Vec<LayerFiles> =
        layers.iter().map(|(blob, _)| LayerFiles { blob: (*blob).clone(), files: Vec::new(), size: 0 }).collect();
    // The first name of each inode.
    let mut first: HashMap<u32, FirstName> = HashMap::new();
    for (key, at) in names {
        let inode = &inodes[at as usize];
        let Inode { names, body, meta, origin } = inode;
        let path = full(&key);
        let found = first.get(&at);
        cost.names += 1;
        // As in the tree, attributes count once for all names of an inode.
        cost.text_bytes += path.len();
        cost.text_bytes += match found {
            None => inode.text_bytes(),
            Some(FirstName::Head(target)) => target.len(),
            Some(FirstName::File(_)) => 0,
        };
        limits.check_text(cost.text_bytes)?;
        match found {
            Some(FirstName::Head(target)) => {
                let body = Body::Link { target: target.clone() };
                head.push(Member { path, body, meta: meta.clone() });
                continue;
            }
            Some(FirstName::File(number)) => {
                files[origin.layer as usize].files[*number].links.push(path.into());
                continue;
            }
            None => {}
        }
        let is_content = matches!(body, Body::File { size } if *size > 0);
        if *names > 1 {
            let number = files[origin.layer as usize].files.len();
            first.insert(at, if is_content { FirstName::File(number) } else { FirstName::Head(path.clone().into()) });
        }
        let member = Member { path, body: body.clone(), meta: meta.clone() };
        if is_content {
            let file = StoredFile { ordinal: origin.ordinal, member, links: Vec::new() };
            files[origin.layer as usize].files.push(file);
        } else {
            head.push(member);
        }
    }
    files.retain(|layer| !layer.files.is_empty());
    Ok(Image { head, head_size: 0, layers: files })
}

fn time(epoch: Option<u64>) -> Option<Mtime> {
    epoch.map(|seconds| Mtime { seconds, nanos: 0 })
}

/// The first name of an inode that has several.
enum FirstName {
    Head(Box<[u8]>),
    /// The number of a file in its layer.
    File(usize),
}

impl Image {
    /// Sorts the files of each layer by their position and sums up the size of the archive.
    pub(super) fn measured(mut self) -> Result<Self, RootfsError> {
        for layer in &mut self.layers {
            layer.files.sort_unstable_by_key(|file| file.ordinal);
            for file in &layer.files {
                for member in std::iter::once(file.member.clone()).chain(file.links()) {
                    layer.size = layer.size.saturating_add(size(&member)?);
                }
            }
        }
        for member in &self.head {
            self.head_size += size(member)?;
        }
        Ok(self)
    }
}

fn size(member: &Member) -> Result<u64, RootfsError> {
    archived_size(member).map_err(|error| RootfsError::UnrepresentablePath {
        path: String::from_utf8_lossy(&member.path).into_owned(),
        reason: error.to_string(),
    })
}
