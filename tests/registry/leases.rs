//! What is read stays until it has been read.

use crate::common::{Stack, until};
use crate::fixture::{Image, Layer, export, names};
use crate::served::Served;

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_is_removed_while_it_is_pulled_can_be_pulled_to_its_end() {
    let stack = Stack::shared();
    let namespace = "registry-leases";
    let mut served = Served::containerd(namespace, &[]).await;
    let image = Image::new(&[Layer::busybox().tar(), Layer::new().file("a", "read under a lease").tar()]);
    export(&*served.engine, &image, &names(&["leased:1"])).await.unwrap();
    assert_eq!(stack.linkspan_leases(namespace), Vec::<String>::new());
    assert_eq!(served.head("/v2/leased/manifests/1").status, 200);
    assert_eq!(stack.linkspan_leases(namespace), Vec::<String>::new(), "to look is not to read");
    assert_eq!(served.get("/v2/leased/manifests/1").status, 200);
    assert_eq!(stack.linkspan_leases(namespace).len(), 1);

    stack.ctr(namespace, ["images", "rm", "docker.io/library/leased:1"]).ok();
    stack.collect_garbage(namespace);
    assert_eq!(served.get("/v2/leased/manifests/1").status, 404, "its name is gone");
    for blob in image.layers.iter().chain([&image.config, &image.root]) {
        let got = served.get(&format!("/v2/leased/blobs/{}", blob.digest));
        assert_eq!(got.status, 200);
        assert!(got.body == image.blobs[&blob.digest]);
    }
    // One lease for all that belongs to one image.
    assert_eq!(stack.linkspan_leases(namespace).len(), 1);

    assert!(served.linkspan.terminate().success(), "{}", served.linkspan.log());
    stack.until_released(namespace);
    stack.collect_garbage(namespace);
    let layer = image.layers[1].digest.to_string();
    until("the image to be collected", || stack.blobs(namespace), |blobs| !blobs.contains(&layer));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_alone_is_leased_while_it_is_read() {
    let stack = Stack::shared();
    let namespace = "registry-lease-blob";
    let mut served = Served::containerd(namespace, &[]).await;
    let image = Image::new(&[Layer::new().file("a", "a blob alone").tar()]);
    export(&*served.engine, &image, &names(&["leased:1"])).await.unwrap();
    let target = format!("/v2/leased/blobs/{}", image.layers[0].digest);
    for _ in 0..3 {
        assert_eq!(served.get(&target).status, 200);
    }
    assert_eq!(stack.linkspan_leases(namespace).len(), 1, "the second reader joins the first one's lease");
    assert!(served.linkspan.terminate().success(), "{}", served.linkspan.log());
    stack.until_released(namespace);
}
