use std::sync::{Arc, Mutex};

use bytes::Bytes;

use super::*;
use crate::engine::docker::parse_line;
use crate::image::{Descriptor, Document, Platform};

const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

fn selected() -> SelectedImage {
    let layer = |name: &str| {
        let (blob, diff_id) = (Digest::sha256(name.as_bytes()), Digest::sha256(format!("{name} inflated").as_bytes()));
        Layer { blob: Descriptor::new(LAYER, blob, 1), chain: diff_id.clone(), diff_id }
    };
    let host = Platform::host();
    let json = serde_json::json!({"os": host.os, "architecture": host.architecture}).to_string();
    let config =
        Descriptor::new("application/vnd.oci.image.config.v1+json", Digest::sha256(json.as_bytes()), json.len() as u64);
    let config = Document::parse(config, Bytes::from(json)).unwrap();
    let layers = vec![layer("lower"), layer("upper")];
    SelectedImage { root: Digest::sha256(b"root"), docker: "29.7.2".to_owned(), config, layers }
}

/// What becomes of a response, and what is reported of it.
fn response(selected: &SelectedImage, lines: &[&str]) -> (Result<Vec<String>, EngineError>, Vec<String>) {
    let emitted = Arc::new(Mutex::new(Vec::new()));
    let listener = emitted.clone();
    let events = Events::new(move |event| listener.lock().unwrap().push(format!("{event:?}")));
    let mut reader = Reader { selected, events: &events, loading: None, notes: Vec::new() };
    let outcome = lines.iter().try_for_each(|line| parse_line(line.as_bytes(), &mut |line| reader.line(line)));
    let outcome = outcome.map(|()| reader.notes);
    let emitted = emitted.lock().unwrap().clone();
    (outcome, emitted)
}

fn loading(layer: &Layer) -> String {
    let id = &layer.diff_id.hex()[..12];
    format!(r#"{{"status":"Loading layer","progressDetail":{{"current":1,"total":2}},"id":"{id}"}}"#)
}

#[test]
fn layers_and_notes_are_reported_in_order() {
    let selected = selected();
    let [lower, upper] = [0, 1].map(|at| loading(&selected.layers[at]));
    let end = "{\"stream\":\"Loaded image: a:1\\n\"}\r\n";
    let (outcome, emitted) = response(&selected, &[&lower, &lower, "\r\n", &upper, end]);
    assert_eq!(outcome.unwrap(), ["Loaded image: a:1"]);
    let kinds: Vec<_> = emitted.iter().map(|event| event.split([' ', '(']).next().unwrap()).collect();
    assert_eq!(kinds, ["Unpacking", "Unpacked", "Unpacking", "Unpacked", "Note"]);
    assert!(emitted[0].contains(selected.layers[0].blob.digest.as_str()), "{emitted:?}");
}

#[test]
fn refusals_are_distinguished() {
    let selected = selected();
    let upper = &selected.layers[1];
    let line = |message: &str| serde_json::json!({"errorDetail": {"message": message}, "error": message}).to_string();
    let gone = |digest: &Digest| {
        line(&format!("open /var/lib/docker/tmp/docker-import-1/{}: no such file or directory", place(digest)))
    };
    let of = |lines: &[&str]| response(&selected, lines).0.unwrap_err();

    let vanished = of(&[&gone(&upper.blob.digest)]);
    assert!(matches!(&vanished, EngineError::Vanished { digests } if *digests == [upper.blob.digest.clone()]));
    assert!(vanished.is_outdated_plan());
    let other = of(&[&gone(&Digest::sha256(b"no layer of ours"))]);
    assert!(matches!(other, EngineError::Commit { .. }) && !other.is_outdated_plan());

    let wrong = of(&[&line("invalid diffID for layer 1: expected \"sha256:0\", got \"sha256:1\"")]);
    assert!(matches!(&wrong, EngineError::Corrupt { digest, .. } if *digest == upper.blob.digest), "{wrong}");
    let broken = of(&[&loading(upper), &line("gzip: invalid checksum")]);
    assert!(matches!(&broken, EngineError::Unpack { layer, .. } if *layer == upper.blob.digest), "{broken}");
    let full = of(&[&loading(upper), &line("write /x: no space left on device")]);
    assert!(matches!(full, EngineError::NoSpace { .. }), "{full}");
    let denied = of(&[r#"{"error":"authorization denied by plugin opa: no"}"#]);
    assert!(matches!(&denied, EngineError::Commit { reason, .. } if reason.contains("opa")), "{denied}");
    assert!(matches!(of(&["nonsense"]), EngineError::Protocol { .. }));
}
