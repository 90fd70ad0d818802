//! `scripts/soak`: a short run of it, and that it notices what is not as it was.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use serde_json::Value;

use crate::common::{Run, test_folder, text};

/// Two kills on a layout by `binary`; what is left has `settle` seconds to go.
fn soak(folder: &Path, binary: &str, settle: &str) -> Run {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/soak");
    let results = folder.join("results.json");
    let run = Run::new(script).args(["--case", "kills", "--engine", "layout", "--rounds", "2", "--minutes", "10"]);
    // Its stack is below the folder of this run's stacks; the path of a socket is short.
    run.args(["--binary", binary, "--settle", settle, "--json", text(&results)]).env("TMPDIR", test_folder())
}

fn results(folder: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(folder.join("results.json")).unwrap()).unwrap()
}

#[test]
fn kills_on_a_layout_are_survived() {
    let folder = tempfile::tempdir().unwrap();
    let output = soak(folder.path(), env!("CARGO_BIN_EXE_linkspan"), "120").ok();
    let results = results(folder.path());
    assert_eq!((&results[0]["held"], &results[0]["rounds"]), (&true.into(), &2.into()), "{results}");
    assert!(output.stdout.contains("| kills | layout |"), "{output}");
}

#[test]
fn a_temporary_file_that_stays_fails_the_run() {
    let folder = tempfile::tempdir().unwrap();
    let binary = folder.path().join("linkspan");
    let linkspan = env!("CARGO_BIN_EXE_linkspan");
    fs::write(&binary, format!("#!/bin/sh\n: >\"$TMPDIR/stays\"\nexec '{linkspan}' \"$@\"\n")).unwrap();
    fs::set_permissions(&binary, fs::Permissions::from_mode(0o755)).unwrap();
    let output = soak(folder.path(), text(&binary), "1").fails();
    assert_eq!(output.status.code(), Some(1), "{output}");
    let results = results(folder.path());
    assert_eq!(results[0]["held"], false, "{results}");
    let result = results[0]["result"].as_str().unwrap();
    assert!(result.contains("temporary file stays"), "{result}");
}
