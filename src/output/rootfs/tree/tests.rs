mod model;

use proptest::prelude::*;

use super::*;
use crate::output::member::Mtime;
use model::Model;

/// What a test says of a member: `a/` a folder, `a` a file, `a>b` a symbolic link, `a=b` a hard link. The number tells
/// members apart.
fn member(text: &str, number: u32) -> Member {
    let meta = Meta { mode: 0o644, uid: number, gid: 0, mtime: Mtime::default(), xattrs: None };
    let (path, body) = if let Some((path, target)) = text.split_once('>') {
        (path, Body::Symlink { target: target.as_bytes().into() })
    } else if let Some((path, target)) = text.split_once('=') {
        (path, Body::Link { target: target.as_bytes().into() })
    } else if let Some(path) = text.strip_suffix('/') {
        (path, Body::Folder)
    } else {
        (text, Body::File { size: number.into() })
    };
    Member { path: path.as_bytes().to_vec(), body, meta }
}

/// Lays layers over each other; the number of a member is 100 times its layer plus its position, from 1 on.
fn lay(layers: &[&[&str]], limits: Limits) -> Result<Vec<String>, String> {
    let mut tree = Tree::new(limits);
    for (layer, members) in (0..).zip(layers) {
        for (ordinal, text) in (0..).zip(members.iter()) {
            let origin = EntryOrigin { layer, ordinal };
            tree.apply(member(text, layer * 100 + ordinal + 1), origin).map_err(|refused| match refused {
                Refused::Member(reason) => reason,
                Refused::Limit(error) => error.to_string(),
            })?;
        }
    }
    Ok(listed(tree))
}

/// Each name with what it stands for and the number of its owner; names of one thing show its first one.
fn listed(tree: Tree) -> Vec<String> {
    let text_bytes = tree.text_bytes;
    let (names, inodes) = tree.into_parts();
    let (mut listed, mut first, mut counted) = (Vec::new(), std::collections::HashMap::new(), 0);
    for (key, at) in names {
        let (inode, path) = (&inodes[at as usize], shown(&key));
        counted += key.len() + if first.contains_key(&at) { 0 } else { inode.text_bytes() };
        let uid = inode.meta.uid;
        let other = first.entry(at).or_insert_with(|| path.clone());
        listed.push(match &inode.body {
            _ if *other != path => format!("{path}={other} {uid}"),
            Body::Folder => format!("{path}/ {uid}"),
            Body::Symlink { target } => format!("{path}>{} {uid}", String::from_utf8_lossy(target)),
            Body::File { size } => format!("{path}:{size} {uid}"),
            _ => format!("{path} {uid}"),
        });
    }
    assert_eq!(text_bytes, counted, "what is counted is what is there");
    listed
}

#[track_caller]
fn check(layers: &[&[&str]], expected: &[&str]) {
    assert_eq!(lay(layers, Limits::default()).unwrap(), expected);
}

#[test]
fn later_layers_win() {
    check(&[&["a/", "a/x", "b"], &["a/", "b"]], &["a/ 101", "a/x:2 2", "b:102 102"]);
    check(&[&["d/x", "d/y/z"], &["d"]], &["d:101 101"]);
    check(&[&["d"], &["d/", "d/x"]], &["d/ 101", "d/x:102 102"]);
    check(&[&["r/", "r/x", "s>r"], &["s/", "s/x"]], &["r/ 1", "r/x:2 2", "s/ 101", "s/x:102 102"]);
    // Folders that nobody describes belong to root.
    check(&[&["a/b/c"]], &["a/ 0", "a/b/ 0", "a/b/c:1 1"]);
}

#[test]
fn whiteouts_are_about_lower_layers_wherever_they_stand() {
    check(&[&["a", "b"], &[".wh.a"]], &["b:2 2"]);
    check(&[&["a"], &["a", ".wh.a"]], &["a:101 101"]);
    check(&[&["a"], &[".wh.a", "a"]], &["a:102 102"]);
    check(&[&["d/", "d/x"], &["d/y", ".wh.d"]], &["d/ 0", "d/y:101 101"]);
    check(&[&["d/", "d/x"], &["d/y", "d/.wh..wh..opq"]], &["d/ 1", "d/y:101 101"]);
    check(&[&["d/", "d/x/", "d/x/y"], &["d/.wh..wh..opq", "d/x/z"]], &["d/ 1", "d/x/ 0", "d/x/z:102 102"]);
    check(&[&["a", "ab", "a!"], &[".wh.a"]], &["a!:3 3", "ab:2 2"]);
    check(&[&["a", "b/c"], &[".wh..wh..opq", "x"]], &["x:102 102"]);
    // Nothing is there, and AUFS's own.
    check(&[&["a"], &[".wh.x", ".wh..wh.plnk"]], &["a:1 1"]);
    for name in [".wh.", ".wh..", ".wh..."] {
        assert!(lay(&[&["a"], &[name]], Limits::default()).unwrap_err().contains("no whiteout"), "{name}");
    }
}

#[test]
fn hard_links_keep_what_was_replaced() {
    check(&[&["a", "b=a"], &["a"]], &["a:101 101", "b:1 2"]);
    check(&[&["a", "b=a", "c=b"], &[".wh.a", "c", "d=c"]], &["b:1 3", "c:102 103", "d=c 103"]);
    check(&[&["a", "b=a"], &["a", "c=a"]], &["a:101 102", "b:1 2", "c=a 102"]);
    // Links to links that are no files.
    check(&[&["s>nowhere", "t=s"]], &["s>nowhere 2", "t=s 2"]);
    for (layers, reason) in [
        (&[&["b=a"][..]][..], "which is not there"),
        (&[&["a/", "b=a"]], "to the folder `a`"),
        (&[&["a", "a=a"]], "which is not there"),
        (&[&["a"], &[".wh.a", "b=a"]], "which is not there"),
        (&[&["b=../a"]], "leads out"),
        (&[&["a"], &["b=a"]], "which is in a lower layer"),
        (&[&["a", "b=a"], &[".wh.a", "c=b"]], "which is in a lower layer"),
    ] {
        let error = lay(layers, Limits::default()).unwrap_err();
        assert!(error.contains(reason), "{layers:?}: {error}");
    }
}

#[test]
fn parents_are_found_through_links_that_stay_inside() {
    check(&[&["usr/lib/", "lib>usr/lib"], &["lib/x"]], &["lib>usr/lib 2", "usr/ 0", "usr/lib/ 1", "usr/lib/x:101 101"]);
    check(&[&["l>/usr", "l/x"]], &["l>/usr 1", "usr/ 0", "usr/x:2 2"]);
    check(&[&["l>../../..", "l/x"]], &["l>../../.. 1", "x:2 2"]);
    check(&[&["l>d", "d/x", "h=l/x"]], &["d/ 0", "d/x:2 3", "h=d/x 3", "l>d 1"]);
    check(&[&["l>d", "d/x"], &["l/.wh.x"]], &["d/ 0", "l>d 1"]);
    for (layers, reason) in [
        (&[&["f", "f/x"][..]][..], "which is no folder"),
        (&[&["l>l", "l/x"]], "more than 255 symbolic links"),
        (&[&["../x"]], "leads out of the image"),
        (&[&["a/../../x"]], "leads out of the image"),
    ] {
        let error = lay(layers, Limits::default()).unwrap_err();
        assert!(error.contains(reason), "{layers:?}: {error}");
    }
}

#[test]
fn attributes_of_a_hard_link_are_added() {
    let with = |text, key: &str, value: &str| {
        let mut member = member(text, 1);
        member.meta.xattrs = Some([(key.into(), value.as_bytes().into())].into());
        member
    };
    let mut tree = Tree::new(Limits::default());
    for (ordinal, member) in (0..).zip([with("a", "x", "1"), with("b=a", "y", "2"), with("c=a", "x", "3")]) {
        tree.apply(member, EntryOrigin { layer: 0, ordinal }).unwrap();
    }
    let (_, inodes) = tree.into_parts();
    let xattrs: Vec<_> = inodes[0].meta.xattrs.iter().flat_map(|xattrs| xattrs.iter()).collect();
    assert_eq!(xattrs, [&("y".into(), b"2"[..].into()), &("x".into(), b"3"[..].into())]);
}

#[test]
fn what_would_take_too_much_is_refused() {
    let limits = Limits { names: 2, ..Limits::default() };
    assert_eq!(lay(&[&["a", "b"], &[".wh.a", "c"]], limits).unwrap().len(), 2);
    assert!(lay(&[&["a", "b", "c"]], limits).unwrap_err().contains("the files of the image"));
    let limits = Limits { text_bytes: 8, ..Limits::default() };
    assert_eq!(lay(&[&["a>bcdefg"], &["a>bcdefgh"], &["a", "bcd"]], limits).unwrap().len(), 2);
    assert!(lay(&[&["a>bcdefghi"]], limits).unwrap_err().contains("link targets"));
    let limits = Limits { steps: 100, ..Limits::default() };
    let names: Vec<_> = (0..90).map(|number| format!("d/{number}")).collect();
    let mut members: Vec<_> = names.iter().map(String::as_str).chain(["d/.wh..wh..opq"]).collect();
    lay(&[&members], limits).unwrap();
    members.push("d/.wh..wh..opq");
    assert!(lay(&[&members], limits).unwrap_err().contains("the steps"));
}

/// Names over so few parts that they often meet.
fn name() -> impl Strategy<Value = String> {
    proptest::collection::vec(prop::sample::select(vec!["a", "b", "c", "s"]), 1..4).prop_map(|parts| parts.join("/"))
}

fn whiteout() -> impl Strategy<Value = String> {
    (name(), any::<bool>()).prop_map(|(name, opaque)| match name.rsplit_once('/') {
        Some((folder, _)) if opaque => format!("{folder}/.wh..wh..opq"),
        Some((folder, base)) => format!("{folder}/.wh.{base}"),
        None => format!(".wh.{name}"),
    })
}

fn plain() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => name(),
        3 => name().prop_map(|name| format!("{name}/")),
        2 => (name(), name()).prop_map(|(name, target)| format!("{name}={target}")),
    ]
}

fn any_member() -> impl Strategy<Value = String> {
    prop_oneof![
        8 => plain(),
        1 => (name(), prop::sample::select(vec!["a", "/b", "../c", "a/b"])).prop_map(|(name, to)| format!("{name}>{to}")),
    ]
}

/// Whether it is a folder that no layer describes and nothing is in.
fn is_bare(name: &str, all: &[String]) -> bool {
    name.strip_suffix(" 0").is_some_and(|folder| !all.iter().any(|other| other != name && other.starts_with(folder)))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn it_is_what_plain_files_would_become(
        layers in proptest::collection::vec(
            (proptest::collection::vec(whiteout(), 0..2), proptest::collection::vec(any_member(), 0..6))
                .prop_map(|(whiteouts, members)| [whiteouts, members].concat()),
            1..5,
        )
    ) {
        let (mut model, mut tree) = (Model::default(), Tree::new(Limits::default()));
        for (layer, members) in (0..).zip(&layers) {
            for (ordinal, text) in (0..).zip(members) {
                let number = layer * 100 + ordinal + 1;
                // What is refused is refused by both, and changes nothing that is there any more.
                let outcome = tree.apply(member(text, number), EntryOrigin { layer, ordinal });
                let expected = model.apply(text, number);
                prop_assert_eq!(outcome.is_ok(), expected.is_some(), "{} of {:?}", text, &layers);
            }
        }
        prop_assert_eq!(listed(tree), model.listed());
    }

    #[test]
    fn the_place_of_a_whiteout_does_not_matter(
        lower in proptest::collection::vec(plain(), 0..8),
        upper in proptest::collection::vec(plain(), 0..6),
        whiteouts in proptest::collection::vec(whiteout(), 1..4),
    ) {
        let first = [whiteouts.clone(), upper.clone()].concat();
        let last = [upper, whiteouts].concat();
        let numbered = |members: &[String]| -> Option<Vec<String>> {
            let mut tree = Tree::new(Limits::default());
            for text in &lower {
                // What does not fit is left out.
                let _ = tree.apply(member(text, 1), EntryOrigin::default());
            }
            for text in members {
                tree.apply(member(text, 2), EntryOrigin { layer: 1, ordinal: 0 }).ok()?;
            }
            let mut listed = listed(tree);
            // A folder that only a whiteout asked for is made where it stands.
            while let Some(at) = listed.iter().position(|name| is_bare(name, &listed)) {
                listed.remove(at);
            }
            Some(listed)
        };
        if let (Some(one), Some(other)) = (numbered(&first), numbered(&last)) {
            prop_assert_eq!(one, other);
        }
    }
}
