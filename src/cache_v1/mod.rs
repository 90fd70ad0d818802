//! The contract of the caching API, `linkspan.cache.v1`, as its server and its clients share it. `proto/README.md` is its
//! specification; descriptors, errors and their reasons are those of [`export_v1`](crate::export_v1).

pub(crate) mod features;
pub(crate) mod limits;
pub mod proto;
