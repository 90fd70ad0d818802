//! A builder that prunes between its response and our read of what it reported, as older ones can, which do not wait for a load.

use std::fs;

use crate::{
    common::{Part, Stack, until},
    engine::Engine,
    fault_injection::Application,
    proxied::{Proxied, older},
    proxy::{Direction, Verdict},
};

const SOLVE: &str = "/moby.buildkit.v1.Control/Solve";

#[test]
fn a_builder_prunes_before_its_image_is_read() {
    let stack = Stack::start(&[Part::Containerd, Part::Dockerd, Part::Buildkitd]);
    for engine in Engine::both(&stack) {
        let proxied = Proxied::with(engine, &stack, engine.args());
        let application = Application::new(&format!("pruned {}", engine.kind));
        let mut met = false;
        proxied.builder.rule(move |message| {
            let names_an_image = String::from_utf8_lossy(message.bytes).contains("containerimage.digest");
            let meets = !met && message.path == SOLVE && message.direction == Direction::Response && names_an_image;
            met |= meets;
            match older(message) {
                Some(verdict) => verdict,
                None if meets => Verdict::Hold,
                None => Verdict::Pass,
            }
        });
        let running = proxied.build(&application.context, "pruned:1").spawn();
        proxied.builder.stopped();
        until("the builder to have nothing left", || prune(&stack), |left| *left == 0);
        proxied.builder.release();

        let output = running.wait();
        assert!(output.status.success(), "{output}");
        assert!(output.stderr.contains("waiting for the builder to fetch layers"), "nothing was missed: {output}");
        assert!(!output.stderr.contains("sending tarball"), "this was no direct export: {output}");
        proxied.runs(&application, "pruned:1");
        engine.is_sound();
    }
}

/// Prunes cache and history, and counts the blobs that the builder still has.
fn prune(stack: &Stack) -> usize {
    stack.buildctl(["prune-histories"]).ok();
    stack.buildctl(["prune", "--all"]).ok();
    // Gone as soon as it is empty.
    let blobs = fs::read_dir(stack.state().join("buildkit/runc-overlayfs/content/blobs/sha256"));
    blobs.map_or(0, Iterator::count)
}
