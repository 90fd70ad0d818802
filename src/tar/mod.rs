//! The parts of the tar format that archives of images need, on top of `tar-core`.

mod name;
mod number;
mod write;

pub(crate) use name::{OPAQUE_WHITEOUT, WHITEOUT_PREFIX, clean, text};
pub(crate) use number::{binary as binary_number, binary_time, check_numbers, octal, plain_octal};
pub(crate) use write::{BLOCK, END, folder, link, member, padding, program};
