//! Generated layers.

use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use tokio::runtime::Handle;
use tokio::task::block_in_place;

use crate::common::Stack;
use crate::fixture::Image;
use crate::log;
use crate::trees::{Members, compare_images};

const CASES: u32 = 24;

#[derive(Debug, Clone)]
struct Member {
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
    let kind = prop_oneof![8 => Just(b'0'), 5 => Just(b'5'), 2 => Just(b'2'), 2 => Just(b'1'), 1 => Just(b'6'), 1 => Just(b'3')];
    let base = prop_oneof![
        20 => "[a-z]".prop_map(|name| name),
        3 => "[a-z]".prop_map(|name| format!(".wh.gone-{name}")),
        1 => Just(".wh..wh..opq".to_owned()),
    ];
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
    let name = (start, folder(), base, any::<bool>());
    (name, kind, target, 0..0o10000u32, (id.clone(), id), content, [time.clone(), time], xattr).prop_map(
        |((start, folder, base, is_folder), kind, target, mode, owner, length, times, xattr)| {
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
            Member { name, kind, target, mode, owner, content, times, xattr }
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
        layer.member(&member.name, member.kind, &member.target, member.mode, member.owner, &member.content)
    });
    layer.finish()
}

#[tokio::test(flavor = "multi_thread")]
async fn generated_layers_are_as_containerd_makes_them() {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    log::listen();
    let (layers, left, refused) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
    let config = Config { cases: CASES, max_shrink_iters: 40, failure_persistence: None, ..Config::default() };
    let chain = prop::collection::vec(prop::collection::vec(member(), 1..12), 1..4);
    let outcome = block_in_place(|| {
        TestRunner::new(config).run(&chain, |chain| {
            let blobs: Vec<_> = chain.iter().map(|members| layer(members)).collect();
            let image = Image::new(&blobs);
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
    eprintln!("{layers} layers, {left} left to containerd, {refused} images of {CASES} refused");
    assert!(
        left < layers / 2 && refused < CASES as usize * 2 / 3,
        "too few were compared: {left} of {layers}, {refused}"
    );
}
