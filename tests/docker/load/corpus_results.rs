//! What dockerd makes of an archive is the same through the door, whatever it holds already.

use super::corpus::{Case, LARGE, corpus};
use super::two_engines::{LEFT_OUT, TwoEngines};
use crate::common::Part;

#[test]
fn every_archive_loads_as_it_does_directly() {
    let engines = TwoEngines::with(&[Part::DockerdClassic, Part::Buildkitd, Part::Registry]);
    for case in corpus(&engines) {
        compare(&engines, &case);
    }
}

fn compare(engines: &TwoEngines, case: &Case) {
    let Case { name, archive, args, spares, runs } = case;
    engines.clear();
    let before = engines.meter.sent();
    let loaded = engines.compare(&format!("{name}, blobs absent"), archive, args);
    let cold = engines.meter.sent() - before;
    assert!(!loaded.stdout.contains(LEFT_OUT), "{name}: a client without a terminal does not ask for progress");
    let before = engines.meter.sent();
    engines.compare(&format!("{name}, blobs present"), archive, args);
    let warm = engines.meter.sent() - before;
    if *spares {
        assert!(cold < 100_000, "{name}: {cold} bytes were sent to a dockerd whose store was given the others");
        assert!(warm < 100_000, "{name}: {warm} bytes were sent to a dockerd that had all of them");
    } else {
        assert!(cold >= LARGE as u64, "{name}: {cold} bytes were sent to a dockerd that had none of them");
    }
    if let Some(image) = runs {
        let ran = engines.behind.run_image(image, &[]).ok();
        assert_eq!(ran.stdout.trim(), "it runs", "{name}");
    }
}
