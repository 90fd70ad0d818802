//! Our own applier, held against containerd's.

mod corpus;
mod interrupted;

mod property;
mod reach;
