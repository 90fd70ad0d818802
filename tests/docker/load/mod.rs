//! `docker load` through the door: the same archive goes to dockerd directly and through Linkspan, and what dockerd has
//! and says afterwards is compared.

mod archive;
mod corpus;
mod forms;
mod hostile;
mod lasting;
mod meter;
mod named;
mod policy;
mod rig;
mod same;
