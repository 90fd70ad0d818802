//! Images to build.

use crate::common::{Context, Stack};

/// An image that no other test has: a base, a layer of several messages, and a small one.
pub(crate) struct Application {
    pub(crate) context: Context,
    /// What it prints.
    pub(crate) who: String,
}

impl Application {
    /// The same for the same `name`.
    pub(crate) fn new(name: &str) -> Self {
        Self::sized(name, 3_500_000)
    }

    /// With a big layer of `size` bytes.
    pub(crate) fn sized(name: &str, size: usize) -> Self {
        let who = format!("application {name}\n");
        let seed = name.bytes().fold(1, |seed: u64, byte| seed.wrapping_mul(31).wrapping_add(byte.into()));
        Self { context: application(Stack::shared(), size, seed, &who), who }
    }
}

/// An image of the base image of `stack`, a layer of `size` bytes and a small one with `who` in it, which it prints.
pub(crate) fn application(stack: &Stack, size: usize, seed: u64, who: &str) -> Context {
    let base = stack.base_image();
    Context::new(&format!("FROM {base}\nCOPY big /big\nCOPY who /who\nCMD [\"cat\", \"/who\"]\n"))
        .noise("big", size, seed)
        .file("who", who)
}
