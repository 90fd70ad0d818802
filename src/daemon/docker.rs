//! The docker door, and the buildkit doors behind it: one for each builder in a container that is met there.

use std::sync::Arc;

use crate::config::KEEP_EXEC;
use crate::door::{buildkit, docker};
use crate::export::Exports;
use crate::net::Upstream;

/// A door to the engine behind `upstream`. What its builders export shares `exports` with the doors of other builders.
pub(super) fn door(upstream: Upstream, exports: &Arc<Exports>, plain_is_load: bool) -> docker::Door {
    let (exports, of_builders) = (Arc::clone(exports), Arc::clone(exports));
    let doors = move |builder, link| {
        let settings = buildkit::Settings { builder, link, plain_is_load };
        let door = Arc::new(buildkit::Door::new(settings, Arc::clone(&of_builders)));
        let serve: docker::Serve =
            Arc::new(move |upstream, client, drain| Box::pin(Arc::clone(&door).serve_over(upstream, client, drain)));
        serve
    };
    let builders = docker::BuilderSettings { doors: Box::new(doors), keep: KEEP_EXEC };
    docker::Door::new(docker::Settings { upstream, exports, builders: Some(builders) })
}
