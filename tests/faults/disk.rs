//! Engines whose disk is full.

use crate::{
    common::{Disk, Stack, until},
    engine::{ENGINES, Engine, assert_stderr_has},
    fault_injection::Application,
    proxied::Proxied,
};

#[test]
fn an_image_does_not_fit() {
    const MIB: u64 = 1 << 20;
    let disk = Disk::new(96 * MIB);
    let stack = Stack::start_below(&disk.root(), &ENGINES);
    for engine in Engine::both(&stack) {
        let proxied = Proxied::new(engine);
        let application = Application::sized(&format!("too large for {}", engine.kind), 12 << 20);
        // Not enough for the layer's blob; enough for that, but not for unpacking it as well.
        for (free, place) in [(6 * MIB, "/ingest/"), (18 * MIB, "/snapshots/")] {
            disk.fill(free);
            let output = proxied.build(&application.context, "large:1").fails();
            assert_stderr_has(
                &output,
                &["the engine's disk is full", place, "no space left on device", "docker image prune"],
            );
            assert_eq!(engine.digest("large:1"), None, "{output}");
            // containerd forgets first and deletes then.
            until("what was written to be deleted", || disk.available(), |available| *available > free - 2 * MIB);
            engine.is_sound();
        }
        // Nothing at all, so that not even leases can be trusted to come and go.
        disk.fill(0);
        let output = proxied.build(&application.context, "large:1").fails();
        assert_stderr_has(&output, &["no space left on device"]);
        disk.clear();
        engine.is_sound();
        proxied.succeeds(&application, "large:1");
        engine.is_sound();
    }
}
