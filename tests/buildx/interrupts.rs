//! Ctrl-C: the client ends as it always does, and nothing stays behind in the engine.

use std::fs;

use rustix::process::Signal;

use crate::{
    both_ways::{BothWays, Side},
    common::{Context, Part, Running, Stack, until},
};

const PARTS: [Part; 4] = [Part::Containerd, Part::Dockerd, Part::Buildkitd, Part::Registry];

/// Builds, interrupts once `begun`, and returns the exit code. The image must not exist then.
fn interrupt(side: &Side<'_>, context: &Context, mut begun: impl FnMut() -> bool) -> Option<i32> {
    let tag = side.tag("interrupted");
    let running: Running = side.builder.build(context.path(), ["--load", "-t", &tag]).spawn();
    until("the build to get there", &mut begun, |begun| *begun);
    running.signal(Signal::INT);
    let output = running.wait();
    assert!(!output.status.success(), "the client won the race: {output}");
    assert_eq!(side.stack.tagged("moby", &tag), None, "{output}");
    output.status.code()
}

fn nothing_is_left(stack: &Stack) {
    stack.until_idle("moby");
}

#[test]
fn during_the_build() {
    let stack = Stack::start(&PARTS);
    let sides = BothWays::of(&stack);
    let snapshots = stack.state().join("buildkit/runc-overlayfs/snapshots/snapshots");
    let code = sides.compare(|side| {
        // The command shows that it runs by a file that the host sees too, in the builder's snapshot.
        let begun = format!("begun-{}", side.name);
        let context = Context::new(&format!("FROM {}\nRUN touch /{begun} && sleep 600\n", stack.base_image()));
        interrupt(side, &context, || {
            let folders = fs::read_dir(&snapshots).into_iter().flatten().flatten();
            folders.into_iter().any(|folder| folder.path().join("fs").join(&begun).exists())
        })
    });
    assert_eq!(code, Some(130));
    nothing_is_left(&stack);
}

#[test]
fn during_the_transfer() {
    let stack = Stack::start(&PARTS);
    let sides = BothWays::of(&stack);
    let ingests = stack.content_store().join("ingest");
    let arriving = || fs::read_dir(&ingests).is_ok_and(|mut found| found.next().is_some());
    let side = sides.through();
    let context = Context::new("FROM scratch\nCOPY big /big\n").noise("big", 400 << 20, 1);
    let code = interrupt(side, &context, arriving);
    assert_eq!(code, Some(130));
    nothing_is_left(&stack);
    // The next export succeeds.
    side.load(&context, "interrupted", &[]);
}
