//! Builds that go to a layout: no engine takes part.

use crate::common::{Context, Linkspan, Run, Stack, text};
use crate::{layout, listed};

#[tokio::test(flavor = "multi_thread")]
async fn a_build_goes_to_a_layout() {
    let stack = Stack::shared();
    let folder = tempfile::tempdir().unwrap();
    let linkspan =
        Linkspan::start(stack, &["--engine", "layout", "--layout", text(folder.path())], &[stack.buildkit_host()]);
    let builder = stack.builder(&linkspan.address());
    let context = Context::new("FROM scratch\nCOPY a b /\n").file("a", "1").noise("b", 3 << 20, 7);
    let mut first = None;
    for _ in 0..2 {
        builder.build(context.path(), ["-o", "type=linkspan,name=built:1", "--provenance", "false"]).ok();
        let found = listed(&*layout(folder.path()).await).await;
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].0, "docker.io/library/built:1");
        let from = format!("oci:{}:1", text(folder.path()));
        let digest = Run::new("skopeo").args(["inspect", "--format", "{{.Digest}}", &from]).ok().stdout;
        assert_eq!(digest.trim(), found[0].1);
        let index = std::fs::read_to_string(folder.path().join("index.json")).unwrap();
        // The builder's own exporter writes it, too; an image that is there already keeps the time that it has.
        assert!(index.contains(r#""org.opencontainers.image.created":"20"#), "{index}");
        assert_eq!(*first.get_or_insert(index.clone()), index);
    }
    assert!(linkspan.log().contains("engine layout 1.0.0"), "{}", linkspan.log());
}
