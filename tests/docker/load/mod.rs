//! `docker load` through the door: the same archive goes to dockerd directly and through Linkspan, and what dockerd has
//! and says afterwards is compared.

mod archive;
mod cold;
mod corpus;
mod forms;
mod hostile;
mod lifetime;
mod meter;
mod named;
mod policy;
mod same;
mod two_engines;
