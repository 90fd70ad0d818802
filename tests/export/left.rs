//! Outputs that are left in folders of the server.
