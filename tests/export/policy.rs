//! Names that are not allowed, for every door.

use linkspan::engine::remote::{self, Daemon};
use linkspan::engine::{EngineError, Lifetime, Precondition};
use linkspan::export_v1::proto::references_client::ReferencesClient;
use linkspan::export_v1::proto::{
    CapabilitiesRequest, OpenRequest, PushBegin, PushRequest, Reason, ResolveRequest, push_request,
};
use linkspan::image::Digest;
use tonic::Code;

use crate::client::{descriptor, exporter, fields, reason, success, target};
use crate::common::{Context, Linkspan, Stack};
use crate::fixture::{Image, Layer, begin, names, origin, send};
use crate::server::Server;

#[tokio::test(flavor = "multi_thread")]
async fn only_allowed_names_are_set_and_none_moves() {
    let server = Server::containerd_with("policy", &["--allow-name", "docker.io/library/ci-*", "--deny-tag-move"]);
    let client = server.client().await;
    let policy = client.exports.clone().capabilities(CapabilitiesRequest {}).await.unwrap().into_inner().names.unwrap();
    assert_eq!((policy.allowed, policy.may_move), (vec!["docker.io/library/ci-*".to_owned()], false));
    let (one, other) =
        (Image::new(&[Layer::new().file("a", "1").tar()]), Image::new(&[Layer::new().file("a", "2").tar()]));
    let export = client.open(&["a", "b", "c"]).await;
    client.send(&export, &one).await;
    client.send(&export, &other).await;
    let targets = vec![
        target("a", &one, &["ci-1"]),
        target("b", &one, &["ci-2", "production"]),
        target("c", &other, &["ci-3", "ci-1"]),
    ];
    let results = client.commit(&export, targets).await.unwrap().results;
    assert!(results[0].error.is_none(), "{results:?}");
    let denied = results[1].error.clone().unwrap();
    assert_eq!((denied.reason(), denied.code), (Reason::NameDenied, Code::PermissionDenied as i32));
    assert_eq!(denied.metadata["allowed"], "docker.io/library/ci-*");
    assert_eq!(denied.violations[0].field, "docker.io/library/production:latest");
    let taken = results[2].error.clone().unwrap();
    assert_eq!((taken.reason(), taken.code), (Reason::NameTaken, Code::PermissionDenied as i32));
    assert_eq!(taken.metadata["current"], one.root.digest.to_string());
    let name = "docker.io/library/ci-1:latest".to_owned();
    assert_eq!(server.stack.images("policy"), [(name, one.root.digest.to_string())], "nothing half is visible");
    // The same image again is no move.
    let again = client.open(&["a"]).await;
    client.send(&again, &one).await;
    success(&client.commit(&again, vec![target("a", &one, &["ci-1"])]).await.unwrap());

    let mut early = exporter("a");
    early.attributes.insert("name".to_owned(), "production".to_owned());
    let request = OpenRequest { exporters: vec![early], ..OpenRequest::default() };
    let status = client.exports.clone().open(request).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::PermissionDenied, "NAME_DENIED"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_as_an_engine_sets_no_name_of_which_a_precondition_does_not_hold() {
    let (server, _) = Server::layout();
    let daemon = Daemon { address: server.linkspan.address().parse().unwrap(), tls: None, login: None };
    let engine = remote::connect(&daemon).await.unwrap().engine;
    let [old, new] = ["old", "new"].map(|content| Image::new(&[Layer::new().file("a", content).tar()]));
    let name = &names(&["registry.example/compared:1"])[0];
    let commit = async |image: &Image, expected: Vec<Option<Digest>>| {
        let lease = engine.lease(&origin(), Lifetime::Process).await.unwrap();
        let transaction = begin(&lease, image.graph()).await.unwrap();
        for blob in &transaction.plan().missing {
            send(&*transaction, blob, &image.blobs[&blob.digest]).await.unwrap();
        }
        let precondition = Precondition { name: name.clone(), expected };
        let prepared = transaction.prepare().await.unwrap();
        let outcome = prepared.commit(std::slice::from_ref(name), &[precondition]).await;
        lease.release().await.unwrap();
        outcome
    };
    let resolved = async || engine.resolve(name).await.unwrap();
    let moved = commit(&old, vec![Some(new.root.digest.clone())]).await.unwrap_err();
    assert!(matches!(moved, EngineError::NameMoved { current: None, .. }), "{moved}");
    assert_eq!(resolved().await, None);
    commit(&old, vec![None]).await.unwrap();
    let moved = commit(&new, vec![None]).await.unwrap_err();
    assert!(matches!(&moved, EngineError::NameMoved { current, .. } if *current == resolved().await), "{moved}");
    commit(&new, vec![Some(old.root.digest.clone())]).await.unwrap();
    assert_eq!(resolved().await, Some(new.root.digest.clone()));
}

#[test]
fn a_build_is_held_to_the_same_policy() {
    let stack = Stack::shared();
    let address = stack.containerd_address();
    let linkspan = Linkspan::start(
        stack,
        &[
            "--engine",
            "containerd",
            "--containerd-address",
            address,
            "--namespace",
            "policy-build",
            "--allow-name",
            "*/ci-*",
        ],
        &[stack.buildkit_host()],
    );
    let builder = stack.builder(&linkspan.address());
    let context = Context::new("FROM scratch\nCOPY a /a\n").file("a", "policy");
    let output = builder.build(context.path(), ["-o", "type=linkspan,name=production"]).fails();
    assert!(output.stderr.contains("`docker.io/library/production:latest` is not allowed here"), "{output}");
    assert_eq!(stack.images("policy-build"), []);
    builder.build(context.path(), ["-o", "type=linkspan,name=ci-1"]).ok();
    assert_eq!(stack.images("policy-build").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_image_calls_itself_is_no_name() {
    const NAME: &str = "docker.io/library/own-production:latest";
    let own = |key: &str| (key.to_owned(), NAME.to_owned());
    for (engine, server) in Server::each("own-name") {
        let client = server.client().await;
        let image = Image::new(&[Layer::new().file("own", engine).tar()]);
        let is_there = async || {
            let mut references = ReferencesClient::new(client.channel.clone());
            let request = ResolveRequest { reference: NAME.to_owned(), ..ResolveRequest::default() };
            references.resolve(request).await.is_ok()
        };
        let export = client.open(&["a"]).await;
        client.send(&export, &image).await;
        let mut annotated = target("a", &image, &[]);
        annotated.annotations.extend([own("io.containerd.image.name")]);
        let root = annotated.root.as_mut().unwrap();
        root.annotations.extend([own("org.opencontainers.image.ref.name"), own("kept")]);
        let results = client.commit(&export, vec![annotated]).await.unwrap();
        // The client gets the descriptor that it gave.
        let annotations = &success(&results).root.as_ref().unwrap().annotations;
        assert_eq!((annotations.len(), &annotations["kept"][..]), (3, NAME), "{engine}");
        assert!(!is_there().await, "{engine}");

        let begin = PushBegin {
            name: "own-pushed:1".to_owned(),
            root: Some(descriptor(&image.root)),
            annotations: [own("io.containerd.image.name"), own("org.opencontainers.image.ref.name")].into(),
            ..PushBegin::default()
        };
        let messages = [PushRequest { message: Some(push_request::Message::Begin(begin)) }];
        let mut references = ReferencesClient::new(client.channel.clone());
        references.push(futures_util::stream::iter(messages)).await.unwrap();
        assert!(!is_there().await, "{engine}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_with_a_digest_is_refused_for_another_image() {
    for (engine, server) in Server::each("pinned-name") {
        let client = server.client().await;
        let image = Image::new(&[Layer::new().file("pinned", engine).tar()]);
        let wrong = format!("pinned@{}", Digest::sha256(b"another image"));
        for kind in ["image", "oci"] {
            let mut exporter = exporter("a");
            exporter.r#type = kind.to_owned();
            let request = OpenRequest { exporters: vec![exporter], ..OpenRequest::default() };
            let export = client.exports.clone().open(request).await.unwrap().into_inner().export.unwrap().id;
            client.send(&export, &image).await;
            let status = client.commit(&export, vec![target("a", &image, &[&wrong])]).await.unwrap_err();
            assert_eq!((status.code(), fields(&status)), (Code::InvalidArgument, vec!["targets[0].names".to_owned()]));
            assert!(status.message().contains(image.root.digest.as_str()), "{engine}: {status}");
            let right = format!("pinned-{kind}@{}", image.root.digest);
            success(&client.commit(&export, vec![target("a", &image, &[&right])]).await.unwrap());
        }
        let begin = PushBegin { name: wrong, root: Some(descriptor(&image.root)), ..PushBegin::default() };
        let messages = [PushRequest { message: Some(push_request::Message::Begin(begin)) }];
        let mut references = ReferencesClient::new(client.channel.clone());
        let status = references.push(futures_util::stream::iter(messages)).await.unwrap_err();
        assert_eq!(
            (status.code(), fields(&status)),
            (Code::InvalidArgument, vec!["begin.name".to_owned()]),
            "{engine}"
        );
    }
}
