//! Our names are dockerd's names: the table of the unit tests, held against the engine itself.

use crate::common::Stack;
use crate::fixture::{Image, Layer, docker, export, names};

/// The rows of the table: `accepted name canonical familiar` or `refused name reason`.
fn rows() -> impl Iterator<Item = Vec<&'static str>> {
    let table = include_str!("../data/references.txt").lines();
    table.filter(|line| !line.is_empty() && !line.starts_with('#')).map(|line| line.split('\t').collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_engine_accepts_and_refuses_the_names_that_we_do() {
    let stack = Stack::shared();
    let engine = docker(stack).await;
    let image = Image::new(&[Layer::new().file("names", "of one image").tar()]);
    export(&*engine, &image, &names(&["names:given"])).await.unwrap();
    let target = image.root.digest.to_string();
    let mut counts = (0, 0);
    for row in rows() {
        match row[..] {
            // A tag cannot be made from a name with a digest; such names are only looked up.
            ["accepted", name, ..] if name.contains('@') => {
                let said = stack.docker(["image", "inspect", "--", name]).fails().stderr;
                assert!(said.to_lowercase().contains("no such image"), "{name}: {said}");
                counts.0 += 1;
            }
            ["accepted", name, canonical, _] => {
                stack.docker(["tag", "--", "names:given", name]).ok();
                assert_eq!(stack.image(canonical), Some(target.clone()), "{name}");
                counts.0 += 1;
            }
            ["refused", name, _] => {
                let said = stack.docker(["tag", "--", "names:given", name]).fails().stderr;
                assert!(!said.to_lowercase().contains("no such image"), "{name}: {said}");
                counts.1 += 1;
            }
            _ => panic!("not a row: {row:?}"),
        }
    }
    assert!(counts.0 > 50 && counts.1 > 50, "{counts:?}");
}
