//! Random archives: dockerd imports the same with the filter as without.

use proptest::prelude::*;

use super::*;

/// The parts of a random archive.
#[derive(Debug, Clone)]
enum Part {
    Blob(usize),
    Lie(usize, usize),
    Plain(usize),
    Dotted(usize),
    Folder,
    Layout,
    NoLayout,
    Link(usize),
    Pax(usize),
}

fn parts() -> impl Strategy<Value = Part> {
    let number = 0..6usize;
    prop_oneof![
        4 => number.clone().prop_map(Part::Blob),
        1 => (number.clone(), number.clone()).prop_map(|(name, content)| Part::Lie(name, content)),
        1 => number.clone().prop_map(Part::Plain),
        1 => number.clone().prop_map(Part::Dotted),
        1 => Just(Part::Folder),
        1 => Just(Part::Layout),
        1 => Just(Part::NoLayout),
        1 => number.clone().prop_map(Part::Link),
        1 => number.prop_map(Part::Pax),
    ]
}

/// Some contents have the same length.
fn content(number: usize) -> Vec<u8> {
    vec![number as u8; [0, 10, 10, 512, 512, 5000][number]]
}

fn archive(parts: &[Part]) -> Tar {
    parts.iter().fold(Tar::default(), |tar, part| match *part {
        Part::Blob(number) => tar.blob(&content(number)),
        Part::Lie(name, number) => tar.file(&blob_name(&content(name)), &content(number)),
        Part::Plain(number) => tar.file(&format!("file{number}"), &content(number)),
        Part::Dotted(number) => tar.file(&format!("./{}", blob_name(&content(number))), &content(number)),
        Part::Folder => tar.member(b'5', "blobs/", b""),
        Part::Layout => tar.layout(),
        Part::NoLayout => tar.file("oci-layout", b"{}"),
        Part::Link(number) => tar.member(b'2', &blob_name(&content(number)), b""),
        Part::Pax(number) => tar.pax(&[("mtime", "1.5")], &blob_name(&content(number)), &content(number)),
    })
}

fn is_an_oci_layout(import: &Import) -> bool {
    import.files.get("oci-layout").is_some_and(|text| text.len() > 2)
}

proptest! {
    #[test]
    fn docker_makes_the_same_of_what_it_gets(
        parts in proptest::collection::vec(parts(), 0..12),
        held in proptest::collection::hash_set(0..6usize, 0..6),
        fleeting in proptest::collection::hash_set(0..6usize, 0..3),
        chunk in 1..3000usize,
        has_end in any::<bool>(),
        stores in any::<bool>(),
    ) {
        let archive = if has_end { archive(&parts).end() } else { archive(&parts).0 };
        let contents: Vec<_> = held.iter().map(|&number| content(number)).collect();
        let fleeting = fleeting.iter().map(|&number| Digest::sha256(&content(number))).collect();
        let hold = Arc::new(Memory { fleeting, stores, ..Memory::of(contents.iter().map(Vec::as_slice)) });
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let filtered = runtime.block_on(filter_in(hold.clone(), &archive, chunk));
        let (mut direct, mut through) = (import(&archive), import(&filtered.bytes));
        prop_assert!(filtered.outcome.is_ok() && filtered.ended && through.complete);
        if !is_an_oci_layout(&direct) {
            // Files are compared by their names.
            prop_assert!(direct.files == through.files, "{:?}", parts);
        }
        prop_assert_eq!(is_an_oci_layout(&direct), is_an_oci_layout(&through));
        direct.stored.extend(contents.clone());
        through.stored.extend(contents);
        through.stored.extend(hold.new_blobs());
        prop_assert!(direct.stored == through.stored, "{:?}", parts);
    }
}
