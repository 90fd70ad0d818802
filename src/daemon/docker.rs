//! The docker door, and the buildkit doors behind it: one for each builder in a container that its clients use.

use std::sync::Arc;

use super::builder::KEEP_EXEC;
use crate::build_outputs::{OutputOptions, SlowLoads};
use crate::caches::Caches;
use crate::door::{buildkit, docker};
use crate::export::Exports;
use crate::net::Upstream;

/// A door to the engine behind `upstream`. Its builders share `exports` with the doors of other builders.
pub(super) fn door(
    upstream: Upstream,
    exports: &Arc<Exports>,
    caches: Option<Arc<Caches>>,
    outputs: OutputOptions,
    slow_loads: &SlowLoads,
    from_engine: &[String],
) -> docker::Door {
    let (exports, of_builders, slow_loads) = (Arc::clone(exports), Arc::clone(exports), slow_loads.clone());
    let from_engine = from_engine.to_vec();
    let services = move |builder, connections| {
        let settings = buildkit::Settings { builder, connections, outputs };
        let door = buildkit::Door::new(settings, Arc::clone(&of_builders)).with_caches(caches.clone());
        let door = door.with_engine_images(&from_engine);
        Arc::new(door.with_slow_loads(slow_loads.clone())) as _
    };
    let builders = docker::BuilderSettings { services: Box::new(services), keep: KEEP_EXEC };
    docker::Door::new(docker::Settings { upstream, exports, builders: Some(builders) })
}
