//! Blobs that are not what the builder said, and a builder that breaks off.

use tonic::Code;

use crate::{
    common::{Part, Stack},
    engine::{ENGINES, Engine, assert_stderr_has},
    fault_injection::{Application, doubled, flipped, is_document, is_first_of_layer, is_second_of_layer},
    proxied::{Proxied, older},
    proxy::{Message, Verdict},
};

/// Something that a builder can get wrong.
struct Fault {
    name: &'static str,
    /// When it meets a message of this kind…
    when: fn(&Message<'_>) -> bool,
    /// …it does this to it.
    what: fn(&Message<'_>) -> Verdict,
    /// What the client must report.
    words: &'static [&'static str],
}

const FAULTS: &[Fault] = &[
    Fault { name: "layer-flipped", when: is_first_of_layer, what: flipped, words: &["is corrupt", "sha256:"] },
    Fault {
        name: "layer-truncated",
        when: is_second_of_layer,
        what: |_| Verdict::End(Code::Ok, ""),
        words: &["sent 1048576 bytes of sha256:", "expected 35"],
    },
    Fault {
        name: "layer-too-long",
        when: is_second_of_layer,
        what: doubled,
        words: &["bytes of sha256:", "expected 35"],
    },
    Fault {
        name: "layer-unreadable",
        when: is_second_of_layer,
        what: |_| Verdict::End(Code::DataLoss, "the disk has a scratch"),
        words: &["reading sha256:", "the disk has a scratch"],
    },
    Fault {
        name: "layer-nowhere",
        when: is_first_of_layer,
        what: |_| Verdict::End(Code::NotFound, "not found"),
        words: &["does not hold sha256:"],
    },
    Fault {
        name: "manifest-flipped",
        when: |message| is_document(message, "\"layers\""),
        what: flipped,
        words: &["the image is invalid", "sha256:"],
    },
    Fault {
        name: "config-too-long",
        when: |message| is_document(message, "\"rootfs\""),
        what: doubled,
        words: &["bytes of sha256:", "expected"],
    },
    Fault {
        name: "connection-cut",
        when: is_second_of_layer,
        what: |_| Verdict::Cut,
        words: &["reading sha256:", "from builder unix://"],
    },
];

fn every_fault(engine: Engine<'_>) {
    let proxied = Proxied::new(engine);
    for fault in FAULTS {
        eprintln!("{} into {}", fault.name, engine.kind);
        let tag = format!("{}:1", fault.name);
        let application = Application::new(&format!("{} {}", fault.name, engine.kind));
        // A build inside which the image is read ends with the connection.
        let is_older = fault.name == "connection-cut";
        proxied.builder.rule(move |message| match older(message) {
            Some(verdict) if is_older => verdict,
            _ if (fault.when)(message) => (fault.what)(message),
            _ => Verdict::Pass,
        });
        let output = proxied.build(&application.context, &tag).fails();
        assert_stderr_has(&output, fault.words);
        assert_eq!(engine.digest(&tag), None, "{output}");
        engine.nothing_is_left();

        proxied.builder.restore();
        proxied.succeeds(&application, &tag);
    }
    engine.is_sound();
}

#[test]
fn what_a_builder_gets_wrong_does_not_reach_docker() {
    every_fault(Engine::docker(&Stack::start(&ENGINES)));
}

#[test]
fn what_a_builder_gets_wrong_does_not_reach_containerd() {
    every_fault(Engine::containerd(&Stack::start(&ENGINES)));
}

#[test]
fn a_builder_is_killed_while_a_layer_is_read() {
    let stack = Stack::start(&[Part::Containerd, Part::Dockerd, Part::Buildkitd]);
    for engine in Engine::both(&stack) {
        let proxied = Proxied::with(engine, &stack, engine.args());
        let application = Application::new(&format!("builder killed {}", engine.kind));
        let running = proxied.build_half(&application.context, "killed:1");
        stack.kill(Part::Buildkitd);
        proxied.builder.release();
        let output = running.wait();
        assert_stderr_has(&output, &["Unavailable"]);
        assert_eq!(engine.digest("killed:1"), None, "{output}");
        engine.nothing_is_left();

        stack.up();
        proxied.succeeds(&application, "killed:1");
        engine.is_sound();
    }
}
