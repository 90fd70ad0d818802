use bollard_buildkit_proto::moby::buildkit::v1 as proto;
use bollard_buildkit_proto::moby::buildkit::v1::frontend;
use prost::Message as _;

use super::*;

fn attrs<const N: usize>(attrs: [(&str, &str); N]) -> HashMap<String, String> {
    attrs.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

fn option(kind: &str, given: HashMap<String, String>) -> proto::CacheOptionsEntry {
    proto::CacheOptionsEntry { r#type: kind.into(), attrs: given }
}

fn local(src: &str) -> Entry {
    Entry { kind: "local".into(), attrs: [("src".to_owned(), src.to_owned())].into() }
}

fn entry(kind: &str, reference: &str) -> Entry {
    Entry { kind: kind.into(), attrs: [("ref".to_owned(), reference.to_owned())].into() }
}

fn ours() -> Entry {
    entry("linkspan", "a")
}

const LIST: &str = r#"[{"Type":"registry","Attrs":{"ref":"r"}},{"Type":"linkspan","Attrs":{"ref":"a"}}]"#;

fn request() -> Vec<u8> {
    proto::SolveRequest {
        cache: Some(proto::CacheOptions {
            exports: vec![
                option("registry", attrs([("ref", "r")])),
                option("inline", attrs([])),
                option("linkspan", attrs([("ref", "a"), ("mode", "max")])),
            ],
            imports: vec![option("linkspan", attrs([("ref", "a")])), option("gha", attrs([]))],
            ..Default::default()
        }),
        frontend_attrs: attrs([("cache-imports", LIST), ("platform", "linux/arm64"), ("target", "t")]),
        ..Default::default()
    }
    .encode_to_vec()
}

#[test]
fn what_is_ours_is_found_in_all_places() {
    let options = CacheOptions::of_solve(&request()).unwrap();
    assert_eq!(options.exports.len(), 1);
    assert_eq!(options.exports[0].attrs["mode"], "max");
    assert_eq!(options.imports, [ours()], "once, although it is said twice");
    assert_eq!((options.part.platform.as_str(), options.part.target.as_str()), ("linux/arm64", "t"));
    let other = proto::SolveRequest { frontend_attrs: attrs([("cache-imports", "[{]")]), ..Default::default() };
    assert!(CacheOptions::of_solve(&other.encode_to_vec()).unwrap().is_empty());
}

#[test]
fn ours_are_replaced_in_all_places_and_the_rest_stays() {
    let mut message = request();
    put_bytes(&mut message, 99, b"unknown");
    let imports = Replacements::from([(ours(), vec![local("x"), local("y")])]);
    let edited = edit_solve(&message, &[local("e0")], &imports).unwrap();
    assert!(edited.ends_with(b"unknown"));
    let edited = proto::SolveRequest::decode(&*edited).unwrap();
    let cache = edited.cache.unwrap();
    let kinds = |entries: &[proto::CacheOptionsEntry]| entries.iter().map(|it| it.r#type.clone()).collect::<Vec<_>>();
    assert_eq!(kinds(&cache.exports), ["local", "registry", "inline"], "ours come first");
    assert_eq!(kinds(&cache.imports), ["local", "local", "gha"]);
    let list: Value = serde_json::from_str(&edited.frontend_attrs["cache-imports"]).unwrap();
    let expected = json!([
        {"Type": "registry", "Attrs": {"ref": "r"}},
        {"Type": "local", "Attrs": {"src": "x"}},
        {"Type": "local", "Attrs": {"src": "y"}},
    ]);
    assert_eq!(list, expected);
}

#[test]
fn an_image_of_the_engine_comes_before_the_registrys() {
    let registry = entry("registry", "r");
    assert_eq!(CacheOptions::of_solve(&request()).unwrap().registries, std::slice::from_ref(&registry));
    let imports = Replacements::from([(registry, vec![local("x")])]);
    let edited = edit_solve(&request(), &[], &imports).unwrap();
    let edited = proto::SolveRequest::decode(&*edited).unwrap();
    let list: Value = serde_json::from_str(&edited.frontend_attrs["cache-imports"]).unwrap();
    let expected = json!([{"Type": "local", "Attrs": {"src": "x"}}, {"Type": "registry", "Attrs": {"ref": "r"}}]);
    assert_eq!(list, expected);
}

#[test]
fn an_import_without_a_cache_is_left_out() {
    let edited = edit_solve(&request(), &[], &Replacements::new()).unwrap();
    let edited = proto::SolveRequest::decode(&*edited).unwrap();
    assert_eq!(edited.cache.unwrap().imports.len(), 1);
    assert_eq!(edited.frontend_attrs["cache-imports"], r#"[{"Attrs":{"ref":"r"},"Type":"registry"}]"#);
}

#[test]
fn a_gateway_call_is_edited_in_both_of_its_places() {
    let request = frontend::SolveRequest {
        frontend_opt: attrs([("cache-imports", LIST), ("filename", "f")]),
        cache_imports: vec![frontend::CacheOptionsEntry { r#type: "linkspan".into(), attrs: attrs([("ref", "a")]) }],
        ..Default::default()
    };
    let options = CacheOptions::of_gateway(&request.encode_to_vec()).unwrap();
    assert_eq!((options.imports.as_slice(), options.part.filename.as_str()), (&[ours()][..], "f"));
    let imports = Replacements::from([(ours(), vec![local("x")])]);
    let edited = edit_gateway(&request.encode_to_vec(), &imports).unwrap();
    let edited = frontend::SolveRequest::decode(&*edited).unwrap();
    assert_eq!(edited.cache_imports[0].r#type, "local");
    assert!(edited.frontend_opt["cache-imports"].contains(r#""src":"x""#));
    let other = frontend::SolveRequest { frontend_opt: attrs([("target", "t")]), ..Default::default() }.encode_to_vec();
    assert_eq!(edit_gateway(&other, &imports).unwrap(), other);
}
