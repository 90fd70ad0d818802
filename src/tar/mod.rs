//! The tar format, as far as archives of images need it: plain files, read by `tar-core` and written here.

mod name;
mod number;
mod write;

pub(crate) use name::clean;
pub(crate) use number::{binary_time, check_numbers};
pub(crate) use write::{BLOCK, END, folder, member, padding};
