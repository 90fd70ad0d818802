//! How much of an image is taken: all that is there, or the image of one platform.

use clap::Args;

use crate::image::{Descriptor, Graph, Platform};
use crate::source::{BlobLookup, Choice, ChoiceError, Part, choose, choose_one, part};

/// The flags that ask for less than all of it.
#[derive(Debug, Args)]
pub(super) struct Extent {
    /// Take only the image for this platform, of an index of several
    #[arg(long, value_name = "OS/ARCH")]
    pub(super) platform: Option<Platform>,

    /// Take only the image for this machine's platform, or the only one that is there, and not the index that names it:
    /// for readers that need everything an index names (`ctr images import --all-platforms`, which kind uses)
    #[arg(long, conflicts_with = "platform")]
    pub(super) one_platform: bool,
}

/// What is taken.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) root: Descriptor,
    /// All of it, where that is a part of what the root names.
    pub(super) graph: Option<Graph>,
    /// Then what to say of it: `linux/amd64 is`.
    pub(super) note: Option<String>,
}

impl Extent {
    /// What is there of `root`, as far as it was asked for.
    pub(super) async fn take(&self, from: &dyn BlobLookup, root: &Descriptor) -> Result<Taken, ChoiceError> {
        let Choice { root, .. } = match (&self.platform, self.one_platform) {
            (None, false) => match part(from, root).await? {
                Some(Part { graph, platforms }) => {
                    let verb = if platforms.len() == 1 { "is" } else { "are" };
                    let note = Some(format!("{} {verb}", platforms.join(", ")));
                    return Ok(Taken { root: root.clone(), graph: Some(graph), note });
                }
                None => choose(from, root, None).await?,
            },
            (None, true) => choose_one(from, root).await?,
            (platform, _) => choose(from, root, platform.as_ref()).await?,
        };
        Ok(Taken { root, graph: None, note: None })
    }
}
