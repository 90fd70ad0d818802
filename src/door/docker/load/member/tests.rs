use proptest::prelude::*;

use super::super::fixture::{Tar, header, seal};
use super::*;

fn strange(block: [u8; BLOCK]) -> bool {
    matches!(read(&block), Read::Strange(_))
}

#[test]
fn a_folder_is_read() {
    let tar = Tar::default().member(b'5', "blobs/", b"");
    assert_eq!(read(&tar.0), Read::Member(Member { head: BLOCK, size: 0, file: None, link: None, plain: false }));
    let mut oldest = header(0, "blobs/", 0);
    oldest[257..265].fill(0);
    seal(&mut oldest);
    assert_eq!(read(&oldest), Read::Member(Member { head: BLOCK, size: 0, file: None, link: None, plain: false }));
}

#[test]
fn what_is_missing_is_requested() {
    let tar = Tar::default().pax(&[("mtime", "1")], "file", b"x").0;
    assert_eq!(read(&tar[..1]), Read::More(BLOCK));
    assert_eq!(read(&tar[..BLOCK]), Read::More(2 * BLOCK));
    assert_eq!(read(&tar[..2 * BLOCK]), Read::More(3 * BLOCK));
    let file = Some(b"file".to_vec());
    assert_eq!(read(&tar), Read::Member(Member { head: 3 * BLOCK, size: 1, file, link: None, plain: true }));
    assert_eq!(read(&[0; BLOCK]), Read::Zeros);
}

#[test]
fn a_wrong_checksum_is_strange() {
    let mut block = header(b'0', "file", 1);
    block[0] ^= 1;
    assert!(strange(block));
}

#[test]
fn sizes_that_readers_disagree_about_are_strange() {
    let spellings: [&[u8; 12]; 8] = [
        b"\x00\x000000000012",
        b"0000000 012\0",
        b"00000000128\0",
        b"-0000000012\0",
        b"+0000000012\0",
        b"           \0",
        b"\x80\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
    ];
    for size in spellings {
        let mut block = header(b'0', "file", 0);
        block[124..136].copy_from_slice(size);
        seal(&mut block);
        assert!(strange(block), "{}", size.escape_ascii());
    }
    for (text, value) in [(b"00000000012\0", 10), (b"00000000012 ", 10), (b"        012\0", 10)] {
        let mut block = header(b'0', "file", 0);
        block[124..136].copy_from_slice(text);
        seal(&mut block);
        let Read::Member(member) = read(&block) else { panic!("{}", text.escape_ascii()) };
        assert_eq!(member.size, value);
    }
    let mut block = header(b'0', "file", 0);
    block[124..136].copy_from_slice(b"\x80\0\0\0\0\0\0\x02\0\0\0\x01");
    seal(&mut block);
    let Read::Member(member) = read(&block) else { panic!("8 GiB and one byte") };
    assert_eq!(member.size, (8 << 30) + 1);
}

#[test]
fn records_are_read_by_their_lengths() {
    let all = |text: &[u8]| -> Option<Vec<(String, Vec<u8>)>> {
        Records(text).map(|record| record.map(|(key, value)| (key.to_owned(), value.to_vec()))).collect()
    };
    assert_eq!(all(b"6 a=b\n9 cd=efg\n"), Some(vec![("a".into(), b"b".to_vec()), ("cd".into(), b"efg".to_vec())]));
    let malformed: [&[u8]; 10] = [
        b"5 a=b\n",
        b"7 a=b\n",
        b"+6 a=b\n",
        b"06 a=b\n",
        b"6  a=b\n",
        b"6 a b\n",
        b"5 =b\n",
        b"8 a=b\nc\n",
        b"6 a=bc",
        b"99999999999999999999 a=b\n",
    ];
    for text in malformed {
        assert_eq!(all(text), None, "{}", text.escape_ascii());
    }
}

#[test]
fn names_are_cleaned_as_go_does() {
    let cases = [
        ("a/b", "a/b"),
        ("./a//b/./c/", "a/b/c"),
        ("a/../b", "b"),
        ("../a", "../a"),
        ("../../a", "../../a"),
        ("a/../../b", "../b"),
        ("/../a", "/a"),
        ("/", "/"),
        ("", "."),
        (".", "."),
        ("a/..", "."),
    ];
    for (name, cleaned) in cases {
        assert_eq!(clean(name.as_bytes()), cleaned.as_bytes(), "{name}");
    }
}

proptest! {
    #[test]
    fn no_bytes_are_too_much(bytes in proptest::collection::vec(any::<u8>(), 0..2048)) {
        read(&bytes);
    }

    #[test]
    fn no_record_is_too_much(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        read(&Tar::default().member(b'x', "x", &bytes).file("file", b"").0);
    }
}
