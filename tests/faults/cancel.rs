//! Clients that go away in the middle: the export is aborted although what it waits for never comes.

use rustix::process::Signal;

use crate::{
    common::{Running, Stack},
    engine::{ENGINES, Engine},
    fault_injection::Application,
    load::{Load, Stage},
    proxied::Proxied,
    proxy::{Direction, Proxy, Verdict},
};

/// Sends `signal` to the client and waits until nothing of its export is left.
fn cancel(proxied: &Proxied<'_>, running: Running, signal: Signal) {
    end(proxied, running, signal);
    proxied.engine.nothing_is_left();
}

/// Sends `signal` to the client and waits for its end.
fn end(proxied: &Proxied<'_>, running: Running, signal: Signal) {
    assert_eq!(proxied.engine.leases().len(), 1, "an export is under way, so there is a lease");
    running.signal(signal);
    let output = running.wait();
    // buildx ends so at a Ctrl-C; who is killed has no code.
    assert_eq!(output.status.code(), (signal == Signal::INT).then_some(130), "{output}");
}

#[test]
fn while_a_layer_is_read() {
    let stack = Stack::start(&ENGINES);
    for engine in Engine::both(&stack) {
        let proxied = Proxied::new(engine);
        for signal in [Signal::INT, Signal::KILL] {
            let application = Application::new(&format!("cancelled {} {signal:?}", engine.kind));
            let running = proxied.build_half(&application.context, "cancelled:1");
            cancel(&proxied, running, signal);
            assert_eq!(engine.digest("cancelled:1"), None);
            proxied.builder.restore();
        }
        proxied.succeeds(&Application::new(&format!("cancelled {}", engine.kind)), "cancelled:1");
        engine.is_sound();
    }
}

#[test]
fn while_a_layer_is_unpacked() {
    let stack = Stack::start(&ENGINES);
    for engine in Engine::both(&stack) {
        let proxy = Proxy::new(&stack, stack.containerd_address());
        let args = engine.args_behind(stack.docker_host(), proxy.path().to_str().unwrap());
        let proxied = Proxied::with(engine, Stack::shared(), args);
        let application = Application::new(&format!("cancelled unpack {}", engine.kind));
        let is_apply = |path: &str| path.ends_with("Diff/Apply");
        for direction in [Direction::Request, Direction::Response] {
            proxy.rule(move |message| {
                if message.direction == direction && is_apply(message.path) { Verdict::Hold } else { Verdict::Pass }
            });
            let running = proxied.build(&application.context, "cancelled:1").spawn();
            proxy.stopped();
            cancel(&proxied, running, Signal::INT);
            assert_eq!(engine.digest("cancelled:1"), None);
            proxy.restore();
        }
        proxied.succeeds(&application, "cancelled:1");
        engine.is_sound();
    }
}

/// dockerd may or may not make the image of what it got; if it does, that is whole. So what it needs is kept while it is at
/// it, and given up if it never hears of it.
#[test]
fn while_docker_commits() {
    let stack = Stack::start(&ENGINES);
    let engine = Engine::docker(&stack);
    let load = Load::before(&stack);
    let args = engine.args_behind(&load.address(), stack.containerd_address());
    let proxied = Proxied::with(engine, Stack::shared(), args);
    for stage in [Stage::Requested, Stage::Half, Stage::Done] {
        let application = Application::new(&format!("cancelled commit {stage:?}"));
        load.stop_at(stage);
        let running = proxied.build(&application.context, "cancelled:1").spawn();
        load.stopped();
        match stage {
            Stage::Requested => {
                cancel(&proxied, running, Signal::INT);
                load.restore();
            }
            Stage::Half | Stage::Done => {
                end(&proxied, running, Signal::INT);
                load.restore();
                proxied.engine.nothing_is_left();
            }
        }
        engine.is_sound();
        proxied.succeeds(&application, "cancelled:1");
    }
    engine.is_sound();
}
