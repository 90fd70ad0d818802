//! Clients that go away in the middle: the export is aborted although its source never goes on.

use rustix::process::Signal;

use crate::{
    common::Stack,
    engine::{ENGINES, Engine},
    rig::{Application, Rig},
};

#[test]
fn a_client_that_goes_away_ends_its_export() {
    let stack = Stack::start(&ENGINES);
    for engine in Engine::both(&stack) {
        let rig = Rig::new(engine);
        for (signal, code) in [(Signal::INT, Some(130)), (Signal::KILL, None)] {
            let application = Application::new(&format!("cancelled {} {code:?}", engine.kind));
            let running = rig.build_half(&application.context, "cancelled:1");
            running.signal(signal);
            let output = running.wait();
            assert_eq!(output.status.code(), code, "{output}");
            // The builder's answer is still held back: nothing but the client's going ends this export.
            engine.nothing_is_left();
            assert_eq!(engine.digest("cancelled:1"), None);
            rig.builder.mend();
        }
        rig.succeeds(&Application::new(&format!("cancelled {}", engine.kind)), "cancelled:1");
        engine.is_sound();
    }
}
