use std::fs;

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::output::items::Item;
use crate::output::member::{Body, Member, Meta};
use crate::source::SourceError;

fn folders() -> (tempfile::TempDir, Folders) {
    let root = tempfile::tempdir().unwrap();
    let folders = Folders::new(vec![root.path().to_owned()]);
    (root, folders)
}

fn left(root: &tempfile::TempDir) -> Vec<String> {
    fs::read_dir(root.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn member(path: &str, body: Body) -> Item {
    Item::Member(Member { path: path.into(), body, meta: Meta::FOLDER })
}

fn failing() -> SourceError {
    SourceError::Read {
        name: "test".to_owned(),
        digest: crate::image::Digest::sha256(b""),
        reason: "broken".to_owned(),
    }
}

#[test]
fn the_nearest_folder_counts() {
    let folders = Folders::new(vec!["/srv/a".into(), "/srv/a/b".into(), "/c".into()]);
    for (dest, root, path) in [
        ("x", "/srv/a", "/srv/a/x"),
        ("./x//y/", "/srv/a", "/srv/a/x/y"),
        ("/srv/a/b/x", "/srv/a/b", "/srv/a/b/x"),
        ("/srv/a/bx", "/srv/a", "/srv/a/bx"),
        ("/c/x", "/c", "/c/x"),
    ] {
        let found = folders.dest(dest).unwrap();
        assert_eq!((found.root.as_path(), found.path().as_path()), (Path::new(root), Path::new(path)), "{dest}");
    }
    for dest in ["/srv", "/srv/ab", "/cx/y"] {
        assert!(matches!(folders.dest(dest), Err(FolderError::Outside { .. })), "{dest}");
    }
    for dest in ["", ".", "/c", "..", "x/../y", "/c/../srv/a", ".linkspan-x"] {
        assert!(matches!(folders.dest(dest), Err(FolderError::Path { .. })), "{dest}");
    }
    assert!(matches!(Folders::default().dest("x"), Err(FolderError::NotAllowed)));
}

#[tokio::test]
async fn what_fails_or_is_given_up_leaves_nothing() {
    let (root, folders) = folders();
    let stage = || Stage::new(folders.dest("a/b").unwrap(), "me").unwrap().unwrap();
    let open = CancellationToken::new();
    let broken = stream::iter([Ok(Bytes::from_static(b"half")), Err(failing())]).boxed();
    let error = stage().write_file(broken, &open).await.unwrap_err();
    assert!(matches!(error, FolderError::Source(_)), "{error}");
    let items =
        [member("d", Body::Folder), member("d/f", Body::File { size: 4 }), Item::Data(Bytes::from_static(b"half"))];
    let endless = stream::iter(items.map(Ok)).chain(stream::pending()).boxed();
    let given_up = open.child_token();
    let writing = stage().write_folder(endless, &given_up);
    let (error, ()) = tokio::join!(writing, async { given_up.cancel() });
    assert!(matches!(error, Err(FolderError::Cancelled)), "{error:?}");
    // A folder that is not there, a name that is: no plan has such members.
    for items in [vec![member("d/f", Body::Fifo)], vec![member("d", Body::Fifo), member("d", Body::Fifo)]] {
        let items = stream::iter(items.into_iter().map(Ok)).boxed();
        let error = stage().write_folder(items, &open).await.unwrap_err();
        assert!(error.to_string().contains("/a/b/d"), "{error}");
    }
    assert_eq!(left(&root), Vec::<String>::new());
}

#[tokio::test]
async fn a_name_is_taken_once() {
    let (root, folders) = folders();
    let dest = || folders.dest("a/b").unwrap();
    let open = CancellationToken::new();
    let written = |owner: &'static str, content: &'static [u8]| {
        let stage = Stage::new(dest(), owner).unwrap().unwrap();
        let chunks = stream::iter([Ok(Bytes::from_static(content))]).boxed();
        stage.write_file(chunks, &open)
    };
    let (first, second) = (written("first", b"1").await.unwrap(), written("second", b"2").await.unwrap());
    // Both are unfinished, and nobody takes them for what a crash left.
    folders.sweep();
    first.commit("first").unwrap();
    assert!(matches!(second.commit("second"), Err(FolderError::Taken { .. })));
    assert_eq!((left(&root), fs::read(root.path().join("a/b")).unwrap()), (vec!["a".to_owned()], b"1".to_vec()));
    assert!(Stage::new(dest(), "first").unwrap().is_none(), "it is there already");
    assert!(matches!(Stage::new(dest(), "second"), Err(FolderError::Taken { .. })));
}

#[tokio::test]
async fn attributes_that_the_system_does_not_take_are_left_out_and_reported() {
    let (root, folders) = folders();
    let stage = Stage::new(folders.dest("a").unwrap(), "owner").unwrap().unwrap();
    // Neither is one that anybody may set: no value of a capability, and no kind that there is.
    let with = |path: &str, keys: &[&str]| {
        let Item::Member(mut member) = member(path, Body::File { size: 0 }) else { panic!("a member") };
        let xattrs: Vec<_> = keys.iter().map(|&key| (key.into(), b"x"[..].into())).collect();
        member.meta.xattrs = Some(xattrs.into());
        Ok(Item::Member(member))
    };
    let items =
        [with("f", &["security.capability", "nonsense.x"]), with("g", &["security.capability"]), with("h", &[])];
    let (stage, left_out) = stage.write_folder(stream::iter(items).boxed(), &CancellationToken::new()).await.unwrap();
    stage.commit("owner").unwrap();
    let sentences: Vec<_> = left_out.sentences().collect();
    assert!(sentences[0].contains("nonsense.x: left out of one file, such as `f`"), "{sentences:?}");
    assert!(sentences[1].contains("security.capability: left out of 2 files, such as `f`"), "{sentences:?}");
    assert_eq!(left(&root), ["a"]);
    assert!(["f", "g", "h"].iter().all(|name| root.path().join("a").join(name).exists()));
}

/// ext4 has room for a block of attributes, and says of a larger one that the disk is full.
#[tokio::test]
async fn attributes_that_do_not_fit_beside_the_inode_are_left_out() {
    let (root, folders) = folders();
    let (key, value) = ("user.large", [b'x'; 60_000]);
    let probe = root.path().join("probe");
    fs::write(&probe, "").unwrap();
    let fits = rustix::fs::setxattr(&probe, key, &value, rustix::fs::XattrFlags::empty()).is_ok();
    let stage = Stage::new(folders.dest("a").unwrap(), "owner").unwrap().unwrap();
    let Item::Member(mut member) = member("f", Body::File { size: 0 }) else { panic!("a member") };
    member.meta.xattrs = Some([(key.into(), value[..].into())].into());
    let items = stream::iter([Ok(Item::Member(member))]).boxed();
    let (stage, left_out) = stage.write_folder(items, &CancellationToken::new()).await.unwrap();
    stage.commit("owner").unwrap();
    assert_eq!(left_out.sentences().any(|sentence| sentence.contains(key)), !fits);
    assert!(root.path().join("a/f").exists());
}
