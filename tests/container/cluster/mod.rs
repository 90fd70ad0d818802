//! Clusters whose nodes are containers, as kind makes them: node containers that run the real containerd.

mod by_daemon;
mod by_exec;
mod exports;
mod failures;
mod loads;
mod nodes;
