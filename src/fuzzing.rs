//! What parsers of bytes from outside hold to be true of any bytes; `tests/fuzz` looks for some of which it is not.

pub use crate::door::buildkit::fuzz::solve;
pub use crate::door::docker::load_fuzz::filter as archive_filter;
pub use crate::engine::layer_fuzz::entries as layer_entries;
pub use crate::engine::layout_fuzz::index as layout_index;
pub use crate::http1::fuzz::{body as http1_body, head as http1_head};
pub use crate::image::fuzz::{cache_document, document, reference};
pub use crate::source::archive::fuzz::members as tar_members;
pub use crate::tunnel::fuzz::frames as stdcopy;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    type Target = (&'static str, fn(&[u8]));

    /// Inputs that were found, and those that the search begins with.
    #[test]
    fn the_corpus_holds() {
        let targets: [Target; 11] = [
            ("archive_filter", archive_filter),
            ("cache_document", cache_document),
            ("document", document),
            ("http1_body", http1_body),
            ("http1_head", http1_head),
            ("layer_entries", layer_entries),
            ("layout_index", layout_index),
            ("reference", reference),
            ("solve", solve),
            ("stdcopy", stdcopy),
            ("tar_members", tar_members),
        ];
        for (name, target) in targets {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(name);
            let mut files: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
            files.sort();
            assert!(!files.is_empty(), "{} is empty", folder.display());
            for file in files {
                println!("{}", file.display());
                target(&fs::read(file).unwrap());
            }
        }
    }
}
