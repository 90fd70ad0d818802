//! Generated layers.

use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use linkspan::image::{Digest, Platform};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use tokio::runtime::Handle;
use tokio::task::block_in_place;

use crate::common::Stack;
use crate::fixture::{Image, compress};
use crate::log;
use crate::trees::{Members, compare_images, gnu};

/// The variable `PROPTEST_CASES` asks for more.
const CASES: u32 = 32;

/// How a member's header is written.
#[derive(Debug, Clone, Copy)]
enum Form {
    Posix,
    /// The GNU format, with long names in members of their own.
    Gnu,
    /// Numbers are binary.
    Binary,
    /// The type of files and folders is that of the oldest format.
    Old,
}

#[derive(Debug, Clone)]
struct Member {
    form: Form,
    name: String,
    kind: u8,
    target: String,
    mode: u32,
    owner: (u32, u32),
    content: Vec<u8>,
    times: [Option<i64>; 2],
    xattr: Option<(String, Vec<u8>)>,
}

/// Folders have few names, so that entries fill, replace and link each other often; a layer that containerd refuses shows less.
fn folder() -> impl Strategy<Value = String> {
    let part = prop_oneof![30 => "[A-F]", 4 => "[A-B]{100,130}", 1 => Just("..".to_owned()), 2 => Just(".".to_owned())];
    prop::collection::vec(part, 0..4).prop_map(|parts| parts.join("/"))
}

fn member() -> impl Strategy<Value = Member> {
    let kind = prop_oneof![
        8 => Just(b'0'), 5 => Just(b'5'), 2 => Just(b'2'), 2 => Just(b'1'), 1 => Just(b'6'), 1 => Just(b'3'), 1 => Just(b'4'),
    ];
    // Some of them come again, and replace what was there.
    let base = prop_oneof![
        20 => "[a-z]".prop_map(|name| name),
        1 => "[a-z]{120,255}".prop_map(|name| name),
        1 => "\\PC{1,20}".prop_map(|name| name.replace(['/', '\0'], "-")),
        3 => "[a-z]".prop_map(|name| format!(".wh.gone-{name}")),
        1 => "[a-c]".prop_map(|name| format!(".wh.{name}")),
        1 => Just(".wh..wh..opq".to_owned()),
    ];
    let form = prop_oneof![4 => Just(Form::Posix), 2 => Just(Form::Gnu), 1 => Just(Form::Binary), 1 => Just(Form::Old)];
    let start = prop_oneof![6 => Just(""), 1 => Just("/"), 1 => Just("./")];
    let id = prop_oneof![4 => Just(0), 1 => 0..70_000u32, 1 => 3_000_000_000..4_294_967_295u32];
    let time = prop_oneof![
        3 => Just(None),
        1 => (-5_000_000_000..20_000_000_000_000_000_000i128).prop_map(|time| i64::try_from(time).ok()),
    ];
    let xattr = prop_oneof![
        6 => Just(None),
        1 => prop::collection::vec(any::<u8>(), 1..40).prop_map(|value| Some(("user.x".to_owned(), value))),
    ];
    // None leads through another, or containerd may refuse the layers above.
    let target = prop_oneof![2 => "[EF]", 2 => "/[EF]", 1 => "\\.\\./[EF]", 1 => "[EF]/G"];
    let content = prop_oneof![4 => Just(0), 4 => 1..2000usize, 1 => 250_000..600_000usize];
    let name = (start, folder(), base, any::<bool>(), form);
    (name, kind, target, 0..0o10000u32, (id.clone(), id), content, [time.clone(), time], xattr).prop_map(
        |((start, folder, base, is_folder, form), kind, target, mode, owner, length, times, xattr)| {
            let folder = if folder.is_empty() { folder } else { format!("{folder}/") };
            let name = match kind {
                b'5' => format!("{start}{folder}"),
                // Names may lead through it.
                b'2' if is_folder => format!("{start}{}", folder.trim_end_matches('/').replace(['E', 'F'], "A")),
                _ => format!("{start}{folder}{base}"),
            };
            let name = if name.is_empty() { "nameless".to_owned() } else { name };
            let content = if kind == b'0' { vec![b'x'; length] } else { Vec::new() };
            let xattr = xattr.filter(|_| matches!(kind, b'0' | b'5'));
            Member { form, name, kind, target, mode, owner, content, times, xattr }
        },
    )
}

/// The members as they are, but hard links to earlier files, where there are any.
fn linked(members: &[Member]) -> Vec<Member> {
    let mut files: Vec<String> = Vec::new();
    let mut linked = members.to_vec();
    for member in &mut linked {
        match member.kind {
            b'0' => files.push(member.name.clone()),
            b'1' => match files.get(member.mode as usize % files.len().max(1)) {
                Some(file) => member.target.clone_from(file),
                None => member.kind = b'6',
            },
            b'2' => {}
            _ => member.target.clear(),
        }
    }
    linked
}

/// Writes the numbers of a header as binary ones.
fn binary(header: &mut [u8]) {
    for field in [100..108, 108..116, 116..124, 124..136, 136..148] {
        // What is too large for it is in the extended header.
        let digits = String::from_utf8_lossy(&header[field.clone()]);
        let Ok(number) = u64::from_str_radix(digits.trim_matches(['\0', ' ']), 8) else { continue };
        let (high, low) = header[field].split_at_mut_checked(4).unwrap();
        let low_length = low.len();
        high.copy_from_slice(&[0x80, 0, 0, 0]);
        low.copy_from_slice(&number.to_be_bytes()[8 - low_length..]);
    }
}

fn layer(members: &[Member]) -> Bytes {
    let layer = linked(members).iter().fold(Members::at(1_000_000_000), |mut layer, member| {
        for (key, time) in ["mtime", "atime"].iter().zip(member.times) {
            if let Some(time) = time {
                let sign = if time < 0 { "-" } else { "" };
                let (seconds, nanos) = (time.unsigned_abs() / 1_000_000_000, time.unsigned_abs() % 1_000_000_000);
                layer = layer.record(key, format!("{sign}{seconds}.{nanos:09}"));
            }
        }
        if let Some((key, value)) = &member.xattr {
            layer = layer.xattr(key, value);
        }
        let Member { name, kind, target, mode, owner, content, .. } = member;
        match member.form {
            Form::Posix => layer.member(name, *kind, target, *mode, *owner, content),
            Form::Gnu => {
                let (layer, name) =
                    if name.len() > 100 { (layer.gnu_long(b'L', name), "cut") } else { (layer, &**name) };
                layer.patched(name, *kind, target, *mode, *owner, content, gnu)
            }
            Form::Binary => layer.patched(name, *kind, target, *mode, *owner, content, binary),
            Form::Old => layer.patched(name, *kind, target, *mode, *owner, content, |header| {
                if matches!(header[156], b'0' | b'5') {
                    header[156] = 0;
                }
            }),
        }
    });
    layer.finish()
}

#[tokio::test(flavor = "multi_thread")]
async fn generated_layers_are_as_containerd_makes_them() {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    log::listen();
    let (layers, left, refused) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
    let cases = if std::env::var_os("PROPTEST_CASES").is_some() { Config::default().cases } else { CASES };
    let config = Config { cases, max_shrink_iters: 40, failure_persistence: None, ..Config::default() };
    let compressions = prop::sample::select(vec!["", "+gzip", "+zstd"]);
    let chain = prop::collection::vec((prop::collection::vec(member(), 1..12), compressions), 1..4);
    let outcome = block_in_place(|| {
        TestRunner::new(config).run(&chain, |chain| {
            let plain: Vec<_> = chain.iter().map(|(members, _)| layer(members)).collect();
            let diff_ids: Vec<_> = plain.iter().map(|plain| Digest::sha256(plain)).collect();
            let blobs: Vec<_> =
                chain.iter().zip(plain).map(|((_, kind), plain)| (*kind, compress(kind, plain))).collect();
            let image = Image::compressed(&blobs, &diff_ids, &Platform::host().architecture);
            let name = format!("generated-{}", NEXT.fetch_add(1, Ordering::Relaxed));
            let compared = Handle::current().block_on(compare_images(Stack::shared(), &name, &image));
            layers.fetch_add(blobs.len(), Ordering::Relaxed);
            let by_containerd = image.layers.iter().filter(|layer| log::left(&layer.digest).is_some()).count();
            left.fetch_add(by_containerd, Ordering::Relaxed);
            refused.fetch_add(usize::from(compared.is_err()), Ordering::Relaxed);
            Ok(())
        })
    });
    outcome.unwrap();
    let [layers, left, refused] = [layers, left, refused].map(AtomicUsize::into_inner);
    eprintln!("{layers} layers, {left} left to containerd, {refused} images of {cases} refused");
    assert!(
        left < layers / 2 && refused < cases as usize * 2 / 3,
        "too few were compared: {left} of {layers}, {refused}"
    );
}
