//! Engines that are killed and started again in the middle of an export.

use crate::{
    common::{Part, Stack, until},
    engine::{ENGINES, Engine, assert_stderr_has},
    fault_injection::Application,
    load::{Load, Stage},
    proxied::Proxied,
};

#[test]
fn containerd_is_killed_while_a_layer_is_written() {
    let stack = Stack::start(&ENGINES);
    for engine in Engine::both(&stack) {
        let proxied = Proxied::new(engine);
        let application = Application::new(&format!("containerd killed {}", engine.kind));
        let running = proxied.build_half(&application.context, "killed:1");
        kill_containerd(&engine);
        proxied.builder.release();
        let output = running.wait();
        assert_stderr_has(&output, &["containerd does not respond at unix://"]);

        start_containerd(&engine);
        assert_eq!(engine.digest("killed:1"), None, "{output}");
        // Linkspan was not restarted: it must remember what it could not release.
        engine.nothing_is_left();
        proxied.succeeds(&application, "killed:1");
        engine.is_sound();
    }
}

#[test]
fn containerd_is_restarted_while_a_layer_is_written() {
    let stack = Stack::start(&ENGINES);
    for engine in Engine::both(&stack) {
        let proxied = Proxied::new(engine);
        let application = Application::new(&format!("containerd restarted {}", engine.kind));
        let running = proxied.build_half(&application.context, "killed:1");
        kill_containerd(&engine);
        start_containerd(&engine);
        proxied.builder.release();
        let output = running.wait();
        assert_stderr_has(&output, &["containerd does not respond at unix://"]);
        assert_eq!(engine.digest("killed:1"), None, "{output}");
        engine.nothing_is_left();
        proxied.succeeds(&application, "killed:1");
        engine.is_sound();
    }
}

/// Kills it when it makes no snapshot. containerd does not survive that well: a folder without a record stays, and
/// nobody can prepare a snapshot until one was removed (overlay's `createSnapshot` renames before it commits).
fn kill_containerd(engine: &Engine<'_>) {
    until("both layers to have their snapshots", || engine.unfinished_snapshots().len(), |count| *count == 2);
    engine.stack.kill(Part::Containerd);
}

/// Starts it again, and waits until dockerd has noticed: it does not try to connect all the time.
pub(crate) fn start_containerd(engine: &Engine<'_>) {
    engine.stack.up();
    if engine.kind != "docker" {
        return;
    }
    let images = || engine.stack.docker(["images", "-q"]).output();
    until("dockerd to find containerd again", images, |output| output.status.success());
}

#[test]
fn dockerd_is_killed_while_a_layer_is_written() {
    let stack = Stack::start(&ENGINES);
    let engine = Engine::docker(&stack);
    let proxied = Proxied::new(engine);
    let application = Application::new("dockerd killed");
    let running = proxied.build_half(&application.context, "killed:1");
    stack.kill(Part::Dockerd);
    proxied.builder.release();
    let output = running.wait();
    assert_stderr_has(&output, &["docker does not respond at unix://"]);
    engine.nothing_is_left();

    stack.up();
    assert_eq!(engine.digest("killed:1"), None, "{output}");
    proxied.succeeds(&application, "killed:1");
    engine.is_sound();
}

/// Blobs do not pass through dockerd, so that it may restart while they are written.
#[test]
fn dockerd_is_restarted_while_a_layer_is_written() {
    let stack = Stack::start(&ENGINES);
    let engine = Engine::docker(&stack);
    let proxied = Proxied::new(engine);
    let application = Application::new("dockerd restarted");
    let running = proxied.build_half(&application.context, "restarted:1");
    stack.kill(Part::Dockerd);
    stack.up();
    proxied.builder.release();
    let output = running.wait();
    assert!(output.status.success(), "{output}");
    proxied.runs(&application, "restarted:1");
    engine.is_sound();
}

#[test]
fn dockerd_is_killed_while_it_commits() {
    let stack = Stack::start(&ENGINES);
    let engine = Engine::docker(&stack);
    let load = Load::before(&stack);
    let proxied =
        Proxied::with(engine, Stack::shared(), engine.args_behind(&load.address(), stack.containerd_address()));
    for stage in [Stage::Requested, Stage::Half, Stage::Done] {
        let tag = format!("{stage:?}:1").to_lowercase();
        let application = Application::new(&tag);
        load.stop_at(stage);
        let running = proxied.build(&application.context, &tag).spawn();
        load.stopped();
        stack.kill(Part::Dockerd);
        load.restore();
        let output = running.wait();
        assert_stderr_has(&output, &["docker does not respond at unix://"]);

        stack.up();
        // dockerd may have been done before it could say so: that is taken back.
        assert_eq!(engine.digest(&tag), None, "{output}");
        engine.is_sound();
        proxied.succeeds(&application, &tag);
        engine.is_sound();
    }
}
