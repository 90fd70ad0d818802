//! What goes while a build reads it.

use std::collections::HashSet;

use super::{Caching, PARTS, STEPS, WRITE, succeeds};
use crate::{
    common::{Output, Part, Stack, until},
    engine::Engine,
    fault_injection::{Application, hold_first, read_digest},
    proxy::Verdict,
};

/// A build that reads the cache and is about to read the layer `lost` when the engine loses that.
fn loses(caching: &Caching<'_>, application: &Application, lost: &str) -> Output {
    let (run, target) = (caching.read(application), lost.to_owned());
    // It was offered: the builder requests it.
    caching.containerd.rule(hold_first(move |message| read_digest(message).is_some_and(|digest| digest == target)));
    let running = run.spawn();
    caching.containerd.stopped();
    let engine = caching.engine();
    engine.stack.ctr(engine.namespace, ["content", "rm", lost]).ok();
    caching.containerd.rule(|_| Verdict::Pass);
    caching.containerd.release();
    running.wait()
}

#[test]
fn a_step_whose_layer_is_lost_while_it_is_read_is_executed() {
    let stack = Stack::start(&[Part::Containerd, Part::Buildkitd]);
    let caching = Caching::new(Engine::containerd(&stack));
    let application = Application::new("lost");
    caching.write(&application).ok();
    let versions = caching.is_sound();
    let layers = caching.layers();
    let (last, _) = layers.iter().min_by_key(|(_, size)| *size).unwrap();
    succeeds(&loses(&caching, &application, last), STEPS - 1);

    // It is not offered any more; what else there is of the cache is.
    let output = caching.read(&application).ok();
    assert!(output.stderr.contains("3 layers, 1 of them lost"), "{output}");
    succeeds(&output, STEPS - 1);
    assert_eq!(caching.versions(), versions);
    // The next export brings it back.
    caching.write(&application).ok();
    caching.is_sound();
    succeeds(&caching.read(&application).ok(), STEPS);

    // Of a layer that others lie on, BuildKit keeps what it could not load, and fails for it: with the reason.
    let (big, _) = layers.iter().max_by_key(|(_, size)| *size).unwrap();
    let output = loses(&caching, &application, big);
    assert!(output.status.success() || output.stderr.contains(&format!("does not hold {big}")), "{output}");
    assert!(caching.read(&application).ok().stderr.contains("1 of them lost"));
    caching.write(&application).ok();
    caching.is_sound();
    succeeds(&caching.read(&application).ok(), STEPS);
}

#[test]
fn a_cache_that_is_pruned_while_it_is_read_is_read_to_its_end() {
    let stack = Stack::start(&PARTS);
    for engine in Engine::both(&stack) {
        let caching = Caching::new(engine);
        let application = Application::new(&format!("pruned cache {}", engine.kind));
        caching.write(&application).ok();
        let versions = caching.is_sound();
        let layers = caching.layers();
        let running = caching.read_half(&application);
        let leased = || stack.leased(engine.namespace, |lease| !versions.iter().any(|version| version == lease));
        let keeps_all = |leased: &HashSet<_>| layers.iter().all(|(layer, _)| leased.contains(layer));
        until("a lease of the build's own to keep the layers", leased, keeps_all);
        caching.cache(&["prune", "--all"]).ok();
        stack.docker(["system", "prune", "--all", "--force", "--volumes"]).ok();
        stack.ctr(engine.namespace, ["leases", "create", "--id", "collect"]).ok();
        stack.ctr(engine.namespace, ["leases", "delete", "--sync", "collect"]).ok();
        caching.containerd.release();
        succeeds(&running.wait(), STEPS);
        assert_eq!(caching.is_sound(), Vec::<String>::new());
        let output = caching.read(&application).ok();
        succeeds(&output, 0);
    }
}

#[test]
fn a_version_that_is_superseded_while_it_is_read_is_read_to_its_end() {
    let stack = Stack::start(&PARTS);
    let engine = Engine::docker(&stack);
    // BuildKit does nothing else while it loads a layer: another builder, through another door.
    let door = format!("unix://{}", stack.fresh_path(".sock").display());
    let caching = Caching::with(engine, &["--builder", Stack::shared().buildkit_host(), "--buildkit-listen", &door]);
    let other = Stack::shared().builder(&door);
    let (old, new) = (Application::new("superseded"), Application::new("superseding"));
    caching.write(&old).ok();
    let before = caching.is_sound();
    let running = caching.read_half(&old);
    other.build(new.context.path(), WRITE).ok();
    let leases = engine.leases();
    let is_kept = |lease: &String| lease.starts_with("linkspan-read-cache-");
    assert!(!leases.contains(&before[0]), "it is gone for everybody else: {leases:?}");
    assert!(leases.iter().any(is_kept), "its layers stay for its reader: {leases:?}");
    caching.containerd.release();
    succeeds(&running.wait(), STEPS);
    let after = until("the old version to go", || caching.versions(), |versions| versions.len() == 1);
    assert_ne!(after, before);
    until("its reader's lease to go", || engine.leases(), |leases| !leases.iter().any(is_kept));
    caching.is_sound();
    succeeds(&caching.read(&new).ok(), STEPS);
}
