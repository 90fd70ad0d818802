//! What an export costs: stores charge for requests, those that write and list more than those that read.

use bytes::Bytes;

use crate::common::{Minio, Stack};
use crate::faulty::{Fault, Faulty};
use crate::fixture::{Image, export, names};
use crate::uploads::noise;

/// One for what is condemned, one for the links of a repository.
const LISTS: usize = 2;

/// The kind of a request, as price lists have them.
fn kind(seen: &str) -> &'static str {
    let mut words = seen.split(' ');
    match (words.next().unwrap(), words.next().unwrap()) {
        ("GET", target) if target.contains("list-type=2") => "list",
        ("GET" | "HEAD", _) => "read",
        ("POST", target) if target.ends_with("?delete") => "delete",
        ("PUT" | "POST", _) => "write",
        ("DELETE", _) => "delete",
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_takes_a_few_requests_and_those_of_its_new_blobs() {
    let minio = Minio::start(Stack::shared());
    let bucket = minio.bucket();
    let proxy = Faulty::start(&bucket, |_, _| Fault::Pass).await;
    let engine = proxy.bucket(&bucket).engine().await.unwrap().engine;
    let mut layers: Vec<Bytes> = (0..10).map(|seed| noise(1, seed + 1)).collect();
    let spend = async |layers: &[Bytes]| {
        let before = proxy.seen().len();
        export(&*engine, &Image::new(layers), &names(&["costs:1"])).await.unwrap();
        let seen = proxy.seen();
        let count = |what| seen[before..].iter().filter(|line| kind(line) == what).count();
        [count("read"), count("write"), count("list")]
    };
    // As proto/object-store.md says: a document and its layers, of which some are new.
    assert_eq!(spend(&layers).await, [12 + 10 * 2 + 1 + 1, 4 + 10 * 2 + 2 + 1, LISTS]);
    assert_eq!(spend(&layers).await, [12 + 2, 4, LISTS]);
    layers[9] = noise(1, 99);
    assert_eq!(spend(&layers).await, [16, 9, LISTS]);
    layers[9] = noise(20, 100);
    assert_eq!(spend(&layers).await, [16, 9 + 2 + 4, LISTS]);
}
