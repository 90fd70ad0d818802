//! How much of an image to take: everything the source has, or the image of one platform.

use clap::Args;

use crate::image::{Descriptor, Graph, Platform};
use crate::source::{BlobLookup, Choice, ChoiceError, Part, choose, choose_one, part};

/// The flags that limit it.
#[derive(Debug, Args)]
pub(super) struct Extent {
    /// Take only the image for this platform, of an index of several
    #[arg(long, value_name = "OS/ARCH")]
    pub(super) platform: Option<Platform>,

    /// Take only the image for this machine's platform, or the only complete one, without the index that names it: for
    /// readers that need everything an index names (`ctr images import --all-platforms`, which kind uses)
    #[arg(long, conflicts_with = "platform")]
    pub(super) one_platform: bool,
}

/// The part that is taken.
#[derive(Debug)]
pub(super) struct SelectedPart {
    pub(super) root: Descriptor,
    /// The graph, if it is only a part of the root's.
    pub(super) graph: Option<Graph>,
    /// The beginning of a note about that part: `linux/amd64 is`.
    pub(super) note: Option<String>,
}

impl Extent {
    /// The part of `root` that was asked for and that the source has.
    pub(super) async fn take(&self, from: &dyn BlobLookup, root: &Descriptor) -> Result<SelectedPart, ChoiceError> {
        let Choice { root, .. } = match (&self.platform, self.one_platform) {
            (None, false) => match part(from, root).await? {
                Some(Part { graph, platforms }) => {
                    let verb = if platforms.len() == 1 { "is" } else { "are" };
                    let note = Some(format!("{} {verb}", platforms.join(", ")));
                    return Ok(SelectedPart { root: root.clone(), graph: Some(graph), note });
                }
                None => choose(from, root, None).await?,
            },
            (None, true) => choose_one(from, root).await?,
            (platform, _) => choose(from, root, platform.as_ref()).await?,
        };
        Ok(SelectedPart { root, graph: None, note: None })
    }
}
