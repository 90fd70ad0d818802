//! Layers that this process applies, compared with what containerd's diff service makes of them.

mod builders;
mod corpus;
mod hostile;
mod interrupted;
mod property;
mod reach;
mod real_files;
mod rootless;
mod writers;
