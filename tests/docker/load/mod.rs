//! `docker load` through the door: the same archive goes to dockerd directly and through Linkspan, and what dockerd has
//! and says afterwards is compared.

mod archive;
mod cold;
mod corpus;
mod corpus_results;
mod forms;
mod hostile;
mod lifetime;
mod meter;
mod named;
mod policy;
mod two_engines;
