//! Inline caches of the engine's images.

use crate::common::{Context, Linkspan, Stack};
use crate::fixture::{caches, docker};

#[tokio::test(flavor = "multi_thread")]
async fn an_image_with_an_inline_cache_offers_its_manifest_and_others_offer_nothing() {
    let stack = Stack::shared();
    let door = Linkspan::docker(stack);
    let builder = stack.builder(&door.address());
    let context = Context::new(&format!("FROM {}\nRUN echo inline > /inline\n", stack.base_image()));
    builder.build(context.path(), ["--load", "-t", "inline:yes", "--cache-to", "type=inline"]).ok();
    builder.build(context.path(), ["--load", "-t", "inline:no"]).ok();
    let caches = caches(&*docker(stack).await);
    let inline = async |name: &str| caches.inline(&name.parse().unwrap()).await.unwrap();
    let found = inline("inline:yes").await;
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].manifest.media_type.contains("manifest"), "{found:?}");
    assert_eq!(inline("inline:no").await, []);
    assert_eq!(inline("inline:absent").await, []);
}
