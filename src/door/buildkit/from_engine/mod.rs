//! Images of builds that come from the engine: `serve --from-engine PATTERN`.
//!
//! A builder of v0.27 and later asks the session that `SolveRequest.SourcePolicySession` names about every source of a build
//! before it resolves it (BuildKit `solver/llbsolver/policy.go`). The session is split, and [`EngineImages`] responds: an image
//! whose name matches, and of which the engine has the platform whole, becomes an `oci-layout` source with the engine's root
//! digest, whose content store is served in the same session. A client that has a policy of its own is asked first, and only
//! what it allows is replaced. Cache keys follow from the root's digest and the config, so they are those of the same image from
//! a registry.

mod check_policy;
mod context;
mod engine_image;
mod engine_images;
mod session_images;

pub(super) use engine_images::EngineImages;
pub(super) use session_images::SessionImages;

/// How the ids of the engine's stores begin in a source's attributes.
const STORE_PREFIX: &str = "linkspan:";
