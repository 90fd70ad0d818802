//! Connections of clients, and who is at their other end.

mod connection;
mod principal;

pub use connection::Connection;
pub use principal::Principal;
