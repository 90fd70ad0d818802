//! Linkspan killed with SIGKILL at every message by which the export of a cache changes the engine.

use std::sync::{Arc, Mutex};

use super::{Caching, PARTS, STEPS, succeeds};
use crate::{
    common::Stack,
    engine::Engine,
    fault_injection::Application,
    kills::{Counter, Point},
    proxy::Verdict,
};

/// The points of an export that takes the place of a version, met in one that nothing disturbs.
fn points(caching: &Caching<'_>) -> Vec<Point> {
    caching.write(&Application::new("the first cache")).ok();
    caching.is_sound();
    let met: Arc<Mutex<Vec<Point>>> = Arc::default();
    let (list, mut counter) = (met.clone(), Counter::default());
    caching.containerd.rule(move |message| {
        list.lock().unwrap().extend(counter.point(message));
        Verdict::Pass
    });
    caching.write(&Application::new("an undisturbed cache")).ok();
    caching.is_sound();
    caching.containerd.rule(|_| Verdict::Pass);
    met.lock().unwrap().clone()
}

#[test]
fn before_and_after_every_change_of_an_export() {
    let stack = Stack::start(&PARTS);
    let mut caching = Caching::new(Engine::docker(&stack));
    let points = points(&caching);
    // The lease, two layers, config, root, record, and the lease of the version before: each before and after.
    assert!(points.len() >= 14, "{points:?}");
    let mut has_met_the_end = false;
    for point in points {
        eprintln!("killed at {point:?}");
        let application = Application::new(&format!("cache killed at {point:?}"));
        let before = caching.is_sound();
        let (mut counter, target) = (Counter::default(), point.clone());
        caching.containerd.rule(move |message| match counter.point(message) {
            Some(point) if point == target => Verdict::Freeze,
            _ => Verdict::Pass,
        });
        let running = caching.write(&application).spawn();
        caching.containerd.stopped();
        caching.proxied.linkspan.kill();
        caching.containerd.restore();
        let output = running.wait();
        caching.proxied.restart();
        let after = caching.is_sound();
        // The version before is there, or the new one, or both, where it was not deleted yet.
        let is_new = after.iter().any(|id| !before.contains(id));
        assert!(is_new || after == before, "{before:?}, {after:?}");
        // Whoever gets a success can rely on it.
        assert!(is_new || !output.status.success(), "{output}");
        if is_new {
            has_met_the_end = true;
            succeeds(&caching.read(&application).ok(), STEPS);
        }
        caching.write(&application).ok();
        assert_eq!(caching.is_sound().len(), 1);
    }
    assert!(has_met_the_end);
    succeeds(&caching.read(&Application::new("an undisturbed cache")).ok(), 0);
}
