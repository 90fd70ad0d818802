//! Builders that say nothing: stopped in the middle, unreachable, or slow to say what they are.

use rustix::process::{Signal, kill_process};

use crate::{
    common::{Linkspan, Part, Stack},
    engine::{ENGINES, Engine},
    fault_injection::{Application, is_second_of_layer},
    proxied::Proxied,
    proxy::{Direction, Proxy, Verdict},
};

#[test]
fn a_builder_that_stops_holds_up_no_other_export_of_the_same_blob() {
    let stack = Stack::start(&ENGINES);
    for engine in Engine::both(&stack) {
        engine.prepare(Stack::shared().base_image());
        // Two doors of one Linkspan; the blobs behind both are the same.
        let stopped = Proxy::new(&stack, Stack::shared().buildkit_host());
        let linkspan = Linkspan::start(&stack, &engine.args(), &[&stopped.address(), Stack::shared().buildkit_host()]);
        let clients: Vec<_> = linkspan
            .doors()
            .iter()
            .map(|door| Stack::shared().builder(&format!("unix://{}", door.display())))
            .collect();
        let application = Application::new(&format!("stopped {}", engine.kind));
        stopped.rule(|message| if is_second_of_layer(message) { Verdict::Hold } else { Verdict::Pass });
        let waiting = clients[0].build(application.context.path(), ["--load", "-t", "stopped:1"]).spawn();
        stopped.stopped();
        let output = clients[1].build(application.context.path(), ["--load", "-t", "stopped:2"]).ok();
        assert!(output.stderr.contains("another export that sends sha256:"), "{output}");
        assert_eq!(engine.stdout_of("stopped:2", &["cat", "/who"]), application.who);
        assert_eq!(engine.digest("stopped:1"), None);
        // What stopped may go on, and ends well, too.
        stopped.rule(|_| Verdict::Pass);
        stopped.release();
        let output = waiting.wait();
        assert!(output.status.success(), "{output}");
        assert_eq!(engine.stdout_of("stopped:1", &["cat", "/who"]), application.who);
        engine.nothing_is_left();
        engine.is_sound();
    }
}

#[test]
fn a_builder_that_does_not_report_its_version_builds_all_the_same() {
    // The client loads the archive itself, into its own engine.
    let proxied = Proxied::new(Engine::docker(Stack::shared()));
    proxied.builder.rule(|message| {
        let is_info = message.path.ends_with("Control/Info") && message.direction == Direction::Request;
        if is_info { Verdict::Hold } else { Verdict::Pass }
    });
    let application = Application::new("silent info");
    let output = proxied.build(&application.context, "silent:1").ok();
    assert!(proxied.builder.has_stopped());
    assert!(output.stderr.contains("linkspan: no direct export, the image goes as an archive: "), "{output}");
    assert!(output.stderr.contains("sending tarball"), "{output}");
    proxied.runs(&application, "silent:1");
    // It may respond again, and the next build is a direct export.
    proxied.builder.restore();
    proxied.succeeds(&Application::new("responds again"), "silent:1");
}

#[test]
fn the_reason_why_there_is_no_builder_reaches_its_user_and_the_builder_may_come_back() {
    let stack = Stack::start(&ENGINES);
    let proxied = Proxied::new(Engine::both(&stack)[0]);
    let application = Application::new("unreachable");
    proxied.builder.cut();
    let output = proxied.build(&application.context, "unreachable:1").fails();
    assert!(output.stderr.contains(&format!("linkspan: cannot connect to {}", proxied.builder.address())), "{output}");
    assert!(!output.stderr.contains("context deadline exceeded"), "{output}");
    proxied.builder.restore();
    proxied.succeeds(&application, "unreachable:1");

    // Not there when Linkspan starts: that is said once, and builds fail for that reason.
    let nowhere = format!("unix://{}", stack.fresh_path("-nowhere.sock").display());
    let linkspan = Linkspan::start(&stack, &proxied.engine.args(), &[&nowhere]);
    let client = Stack::shared().builder(&linkspan.address());
    let output = client.build(application.context.path(), ["--load", "-t", "unreachable:1"]).fails();
    assert!(output.stderr.contains(&nowhere), "{output}");
    assert!(linkspan.log().contains("the builder cannot be reached"), "{}", linkspan.log());
}

#[test]
fn an_engine_that_stops_fails_no_build_that_only_reads_its_caches() {
    let stack = Stack::start(&[Part::Containerd]);
    let linkspan =
        Linkspan::start(&stack, &stack.containerd_flags("stopped-engine"), &[Stack::shared().buildkit_host()]);
    let client = Stack::shared().builder(&linkspan.address());
    let application = Application::new("stopped engine");
    let containerd = stack.pid(Part::Containerd);
    kill_process(containerd, Signal::STOP).unwrap();
    // The second one has another import, which is looked for as long.
    let outputs = ["one", "two"].map(|name| {
        let from = format!("type=linkspan,ref={name}");
        client.build(application.context.path(), ["--cache-from", &from, "-o", "type=cacheonly"]).output()
    });
    kill_process(containerd, Signal::CONT).unwrap();
    for output in outputs {
        assert!(output.status.success(), "{output}");
        assert!(output.stderr.contains("is left out: containerd has not responded within 8 s"), "{output}");
    }
}
