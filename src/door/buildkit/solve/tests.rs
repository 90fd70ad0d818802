use bollard_buildkit_proto::moby::buildkit::v1 as proto;
use prost::Message;

use super::*;

fn oci() -> proto::Exporter {
    let attrs = [("prefer-image-digest", "true"), ("name", "a")].map(|(k, v)| (k.to_owned(), v.to_owned()));
    proto::Exporter { r#type: "oci".into(), attrs: attrs.into() }
}

fn local() -> proto::Exporter {
    proto::Exporter { r#type: "local".into(), ..Default::default() }
}

#[allow(deprecated)]
fn request() -> proto::SolveRequest {
    let cache = |kind: &str| proto::CacheOptionsEntry { r#type: kind.into(), ..Default::default() };
    proto::SolveRequest {
        r#ref: "build".into(),
        session: "session".into(),
        exporter_deprecated: "oci".into(),
        exporter_attrs_deprecated: oci().attrs,
        exporters: vec![oci(), local()],
        cache: Some(proto::CacheOptions {
            exports: vec![cache("registry"), cache("inline")],
            imports: vec![cache("local")],
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// A request as a newer client would send it: with fields that we do not know.
fn newer(request: &proto::SolveRequest) -> Bytes {
    let mut bytes = request.encode_to_vec();
    put_bytes(&mut bytes, 99, b"unknown");
    bytes.into()
}

#[test]
#[allow(deprecated)]
fn only_the_chosen_exporter_changes() {
    let solve = Solve::read(newer(&request())).unwrap();
    let exporters = [solve.exporters[0].rewritten(), solve.exporters[1].clone()];
    let edited = solve.with_exporters(&exporters).unwrap();
    assert!(fields(&edited).any(|field| field.unwrap().bytes == b"unknown"));

    let edited = proto::SolveRequest::decode(edited).unwrap();
    let mut expected = request();
    let attrs = [("name", "a"), ("store", "false"), ("attestation-inline", "false"), ("oci-mediatypes", "true")];
    let image =
        proto::Exporter { r#type: "image".into(), attrs: attrs.map(|(k, v)| (k.to_owned(), v.to_owned())).into() };
    expected.exporter_deprecated.clone_from(&image.r#type);
    expected.exporter_attrs_deprecated.clone_from(&image.attrs);
    expected.exporters[0] = image;
    assert_eq!(edited, expected);
}

#[test]
fn unchanged_exporters_keep_the_request_equal() {
    let solve = Solve::read(newer(&request())).unwrap();
    let same = solve.with_exporters(&solve.exporters).unwrap();
    assert_eq!(proto::SolveRequest::decode(same).unwrap(), request());
}

#[test]
#[allow(deprecated)]
fn a_request_of_an_old_client_is_edited_in_its_old_fields() {
    let old = proto::SolveRequest { exporters: Vec::new(), ..request() };
    let solve = Solve::read(newer(&old)).unwrap();
    assert_eq!(solve.exporters.len(), 1);
    let edited = proto::SolveRequest::decode(solve.with_exporters(&[solve.exporters[0].rewritten()]).unwrap()).unwrap();
    assert_eq!(edited.exporter_deprecated, "image");
    assert!(edited.exporters.is_empty());
}

#[test]
fn the_second_build_exports_no_cache_but_keeps_what_is_part_of_the_image() {
    let solve = Solve::read(newer(&request())).unwrap();
    let again = solve.again("other", &[solve.exporters[0].unlazying()], History::Skip).unwrap();
    let again = proto::SolveRequest::decode(again).unwrap();
    assert_eq!((again.r#ref.as_str(), again.session.as_str(), again.internal), ("other", "session", true));
    let cache = again.cache.unwrap();
    assert_eq!(cache.exports.iter().map(|export| export.r#type.as_str()).collect::<Vec<_>>(), ["inline"]);
    assert_eq!(cache.imports.len(), 1);
    assert_eq!(again.exporters.len(), 1);
    assert_eq!(again.exporters[0].r#type, "oci");
}
