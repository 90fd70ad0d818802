//! Linkspan killed with SIGKILL, once at every message by which it changes the engine.
//!
//! A proxy between Linkspan and the engine freezes at a message, before it reaches the engine or
//! before its response reaches Linkspan, and Linkspan is killed while everything stands still.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
    sync::{Arc, Mutex},
};

use containerd_client::services::v1::{WriteAction, WriteContentResponse};
use prost::Message as _;

use crate::{
    common::{Run, Stack},
    engine::{ENGINES, Engine},
    fault_injection::Application,
    load::{Load, Stage},
    proxied::Proxied,
    proxy::{Direction, Message, Proxy, Verdict},
};

/// A tag that points to another image from the start, which must never be lost.
const MOVING: &str = "moving:1";
/// A tag that points to nothing when an export begins.
const NEW: &str = "new:1";

/// A message to be killed at: the n-th of its kind, from 1.
pub(crate) type Point = (String, Direction, usize);

/// Numbers the messages that belong to changes.
#[derive(Default)]
pub(crate) struct Counter {
    seen: BTreeMap<(String, Direction), usize>,
    /// Commits that got their response. containerd responds to some messages twice, and the second one may not be waited for.
    committed: BTreeSet<usize>,
}

impl Counter {
    /// Which point a message is, if it is one.
    pub(crate) fn point(&mut self, message: &Message<'_>) -> Option<Point> {
        const CHANGES: [&str; 9] = [
            "Leases/Create",
            "Leases/Delete",
            "Content/Write",
            "Content/Update",
            "Snapshots/Prepare",
            "Snapshots/Commit",
            "Diff/Apply",
            "Images/Update",
            "Images/Create",
        ];
        let change = CHANGES.into_iter().find(|change| message.path.ends_with(change))?;
        let is_done = match message.direction {
            Direction::Request => true,
            Direction::Response if change == "Content/Write" => {
                let response = WriteContentResponse::decode(message.bytes.clone()).unwrap();
                response.action == i32::from(WriteAction::Commit) && self.committed.insert(message.call)
            }
            Direction::Response => true,
        };
        let count = self.seen.entry((change.to_owned(), message.direction)).or_default();
        *count += usize::from(is_done);
        is_done.then(|| (change.to_owned(), message.direction, *count))
    }
}

/// Both tags: one record is updated, one is created.
fn build(proxied: &Proxied<'_>, application: &Application) -> Run {
    proxied.build(&application.context, MOVING).args(["-t", NEW])
}

/// The points of an export, met in one that nothing disturbs.
fn points(proxied: &Proxied<'_>, proxy: &Proxy) -> Vec<Point> {
    build(proxied, &Application::new("the first")).ok();
    proxied.engine.nothing_is_left();
    proxied.engine.remove(NEW);
    let met: Arc<Mutex<Vec<Point>>> = Arc::default();
    let (list, mut counter) = (met.clone(), Counter::default());
    proxy.rule(move |message| {
        list.lock().unwrap().extend(counter.point(message));
        Verdict::Pass
    });
    build(proxied, &Application::new("undisturbed")).ok();
    proxied.engine.nothing_is_left();
    proxied.engine.remove(NEW);
    proxy.rule(|_| Verdict::Pass);
    met.lock().unwrap().clone()
}

/// Starts an export, kills Linkspan once `stopped` returns, lets the world go on with `resume`, and looks at it.
fn kill(proxied: &mut Proxied<'_>, point: impl Debug, stopped: impl FnOnce(), resume: impl FnOnce()) {
    eprintln!("killed at {point:?}");
    let engine = proxied.engine;
    let application = Application::new(&format!("killed at {point:?}"));
    let before = engine.digest(MOVING);
    let running = build(proxied, &application).spawn();
    stopped();
    proxied.linkspan.kill();
    resume();
    let output = running.wait();
    // Whoever gets a success can rely on it.
    assert!(!output.status.success() || engine.digest(NEW).is_some(), "{output}");

    proxied.restart();
    engine.nothing_is_left();
    engine.every_image_is_whole();
    let (moving, new) = (engine.digest(MOVING), engine.digest(NEW));
    assert!(moving.is_some(), "the tag is lost; it was {before:?}");
    assert!(moving == before || new.is_none() || moving == new, "{MOVING} is {moving:?} and was {before:?}; {new:?}");

    build(proxied, &application).ok();
    proxied.runs(&application, MOVING);
    assert_eq!(engine.digest(MOVING), engine.digest(NEW));
    engine.remove(NEW);
}

/// The same, where `proxy` is in front of containerd.
fn kill_at(proxied: &mut Proxied<'_>, proxy: &Proxy, point: Point) {
    let (mut counter, target) = (Counter::default(), point.clone());
    proxy.rule(move |message| match counter.point(message) {
        Some(point) if point == target => Verdict::Freeze,
        _ => Verdict::Pass,
    });
    kill(proxied, point, || proxy.stopped(), || proxy.restore());
}

#[test]
fn before_and_after_every_change_to_containerd() {
    let stack = Stack::start(&ENGINES);
    let engine = Engine::containerd(&stack);
    let proxy = Proxy::new(&stack, stack.containerd_address());
    let mut proxied = Proxied::with(engine, Stack::shared(), engine.args_behind("", proxy.path().to_str().unwrap()));
    let points = points(&proxied, &proxy);
    assert!(points.len() >= 20, "{points:?}");
    for point in points {
        kill_at(&mut proxied, &proxy, point);
    }
    engine.is_sound();
}

#[test]
fn after_every_kind_of_change_to_docker_and_around_its_commit() {
    let stack = Stack::start(&ENGINES);
    let engine = Engine::docker(&stack);
    let (proxy, load) = (Proxy::new(&stack, stack.containerd_address()), Load::before(&stack));
    let args = engine.args_behind(&load.address(), proxy.path().to_str().unwrap());
    let mut proxied = Proxied::with(engine, Stack::shared(), args);
    let mut points = points(&proxied, &proxy);
    points.retain(|(_, direction, count)| *direction == Direction::Response && *count == 1);
    assert!(points.len() >= 5, "{points:?}");
    for point in points {
        kill_at(&mut proxied, &proxy, point);
    }
    for stage in [Stage::Requested, Stage::Half, Stage::Done] {
        load.stop_at(stage);
        kill(&mut proxied, stage, || load.stopped(), || load.restore());
    }
    engine.is_sound();
}
