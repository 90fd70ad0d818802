//! Responses without an end: events and statistics.

use std::time::SystemTime;

use rustix::process::Signal;

use crate::{
    both_ways::{BothWays, Container, base},
    common::{Stack, until},
};

#[test]
fn events_arrive_while_they_happen() {
    let sides = BothWays::of(Stack::shared());
    let image = base(sides.stack);
    let _container = Container(sides.stack, "watched".to_owned());
    let args = ["events", "--filter", "container=watched", "--format", "{{.Action}}"];
    let watching = [sides.through(), sides.direct()].map(|side| side.docker(args).spawn());
    // A watcher is there once it sees something: creating and removing is repeated until then.
    until(
        "both to watch",
        || {
            sides.direct().docker(["create", "--name", "watched", image, "sh"]).ok();
            sides.direct().docker(["rm", "watched"]).ok();
            watching.iter().map(|events| events.stdout()).collect::<Vec<_>>()
        },
        |output| output.iter().all(|output| output.contains("destroy\n")),
    );
    sides.direct().run(["--name", "watched", image, "echo"]).ok();
    for events in &watching {
        until("the last event", || events.stdout(), |output| output.contains("die\n"));
        events.signal(Signal::INT);
    }
    let [through, direct] = watching.map(|events| events.wait());
    let last = |output: &str| output.rsplit("destroy\n").next().unwrap().to_owned();
    assert_eq!(last(&through.stdout), last(&direct.stdout));
    assert!(last(&through.stdout).starts_with("create\n"), "{through}");
    assert_eq!(through.status, direct.status);
}

#[test]
fn past_events() {
    let sides = BothWays::of(Stack::shared());
    let image = base(sides.stack);
    let _container = Container(sides.stack, "past".to_owned());
    sides.direct().run(["--name", "past", image, "echo"]).ok();
    let past =
        |until: &str| ["events", "--since", "10m", "--until", until, "--filter", "container=past"].map(str::to_owned);
    let all = || sides.direct().docker(past("0s").iter().map(String::as_str)).ok().stdout;
    until("the last event", all, |output| output.contains(" container die "));
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs().to_string();
    let (_, stdout, _) = sides.compare(|side| {
        side.outcome(&side.docker(past(&now).iter().map(String::as_str)).args(["--format", "{{json .}}"]).ok())
    });
    assert!(stdout.contains("\"start\""), "{stdout}");
}

#[test]
fn statistics() {
    let sides = BothWays::of(Stack::shared());
    let image = base(sides.stack);
    let _container = Container(sides.stack, "measured".to_owned());
    sides.direct().run(["-d", "--name", "measured", image, "sleep", "1000"]).ok();
    let args = ["stats", "--no-stream", "--format", "{{.Name}} {{.PIDs}}", "measured"];
    let (_, stdout, _) = sides.compare(|side| side.outcome(&side.docker(args).ok()));
    assert_eq!(stdout, "measured 1\n");
    sides.compare(|side| side.outcome(&side.docker(["top", "measured", "-o", "pid,args"]).ok()));
    sides.compare(|side| side.outcome(&side.docker(["stats", "--no-stream", "no-such-container"]).fails()));
    // Streamed until the client goes.
    for side in [sides.through(), sides.direct()] {
        let stats = side.docker(["stats", "--format", "{{.Name}}", "measured"]).spawn();
        until("two rounds", || stats.stdout(), |output| output.matches("measured").count() > 1);
        // It takes no notice of SIGINT where its output is no terminal.
        stats.signal(Signal::KILL);
        stats.wait();
    }
}
