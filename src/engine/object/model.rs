//! Histories of writers, collectors, crashes and clocks over one bucket in memory: the code of the engine, whose every request
//! waits for its turn, so that a generated schedule orders the requests of all of them. After each request, every blob and
//! every link that a tag needs must be there.

mod stepped_store;
mod world;

use std::collections::BTreeSet;
use std::task::{Context, Waker};

use futures_util::FutureExt as _;
use proptest::prelude::*;

use super::host::SKEW;
use super::keys;
use super::survey::key;
pub(super) use stepped_store::Time;
use world::{IMAGES, Running, TAGS, Task, World, image};

const MINUTE: i64 = 60_000;

/// One thing that happens.
#[derive(Debug, Clone)]
enum Event {
    Start(Task, i64),
    /// The next requests of one of those that run.
    Step(usize, usize),
    Crash(usize),
    Minutes(i64),
}

fn task() -> impl Strategy<Value = Task> {
    prop_oneof![
        4 => (0..IMAGES, 0..TAGS.len()).prop_map(|(image, tag)| Task::Export { image, tag }),
        1 => (0..TAGS.len(), 0..TAGS.len()).prop_map(|(from, to)| Task::Rename { from, to }),
        2 => (0..TAGS.len()).prop_map(|tag| Task::Remove { tag }),
        4 => prop_oneof![Just(0), Just(600)].prop_map(|grace| Task::Collect { grace }),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    let half = i64::try_from(SKEW.as_millis()).unwrap() / 2;
    prop_oneof![
        3 => (task(), -half..half).prop_map(|(task, skew)| Event::Start(task, skew)),
        16 => (0..8usize, 1..12usize).prop_map(|(which, steps)| Event::Step(which, steps)),
        1 => (0..8usize).prop_map(Event::Crash),
        1 => (1..6i64).prop_map(Event::Minutes),
    ]
}

/// Runs all that run until they have ended, a request of each in turn.
fn finish(world: &World, running: &mut Vec<Running>, context: &mut Context<'_>, history: &str) {
    for _ in 0..100_000 {
        running.retain_mut(|task| task.as_mut().poll(context).is_pending());
        world.check(history);
        if running.is_empty() {
            return;
        }
    }
    panic!("a task does not end\n{history}");
}

fn play(epochs: &[Vec<Event>]) {
    let (mut world, mut context) = (World::new(), Context::from_waker(Waker::noop()));
    let history = format!("{epochs:#?}");
    for events in epochs {
        let mut running: Vec<Running> = Vec::new();
        for event in events {
            match event {
                Event::Start(task, skew) if running.len() < 4 => running.push(world.start(task, *skew)),
                Event::Start(..) => {}
                Event::Minutes(minutes) => world.pass(minutes * MINUTE),
                Event::Crash(which) if !running.is_empty() => drop(running.remove(which % running.len())),
                Event::Crash(_) => {}
                Event::Step(which, steps) => {
                    for _ in 0..*steps {
                        let count = running.len();
                        let Some(task) = running.get_mut(which % count.max(1)) else { break };
                        let is_over = task.as_mut().poll(&mut context).is_ready();
                        world.check(&history);
                        if is_over {
                            drop(running.remove(which % count));
                            break;
                        }
                    }
                }
            }
        }
        finish(&world, &mut running, &mut context, &history);
        // Leases and collections of those that crashed are over.
        world.pass(30 * 60 * MINUTE);
    }
    let mut last = vec![world.start(&Task::Collect { grace: 0 }, 0)];
    finish(&world, &mut last, &mut context, &history);
    let needed: BTreeSet<_> = world.check(&history).iter().map(key).collect();
    let left = world.below(keys::BLOBS).iter().map(|path| key(&keys::digest_of_blob(path).unwrap())).collect();
    assert_eq!(needed, left, "garbage stays, or what is needed went\n{history}");
    assert_eq!((world.below(keys::CONDEMNED), world.below(keys::LEASES)), (vec![], vec![]), "{history}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, max_shrink_iters: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_a_tag_needs_is_never_deleted(epochs in prop::collection::vec(prop::collection::vec(event(), 20..80), 1..4)) {
        play(&epochs);
    }
}

/// A collector that is stopped after each of its requests in turn, while a writer exports what it collects.
#[test]
fn a_collector_that_crashes_anywhere_harms_nobody_and_is_finished() {
    for at in 1..200 {
        let first = vec![Event::Start(Task::Export { image: 0, tag: 0 }, 0), Event::Step(0, 500)];
        let gone = vec![Event::Start(Task::Remove { tag: 0 }, 0), Event::Step(0, 500)];
        let crash = vec![
            Event::Start(Task::Collect { grace: 0 }, 0),
            Event::Start(Task::Export { image: 1, tag: 1 }, 0),
            Event::Step(0, at),
            Event::Step(1, 7),
            Event::Crash(0),
        ];
        play(&[first, gone, crash]);
    }
}

/// What loses its tag stays for the grace, however old it is: somebody may be reading it.
#[test]
fn what_loses_its_tag_stays_for_the_grace() {
    let day = 24 * 60 * MINUTE;
    for loss in [Task::Export { image: 2, tag: 0 }, Task::Remove { tag: 0 }] {
        let (mut world, mut context) = (World::new(), Context::from_waker(Waker::noop()));
        let mut run = |world: &mut World, task: &Task| {
            let mut running = vec![world.start(task, 0)];
            finish(world, &mut running, &mut context, "");
        };
        let collect = Task::Collect { grace: 24 * 3600 };
        run(&mut world, &Task::Export { image: 0, tag: 0 });
        let (graph, _) = image(0);
        let is_whole = |world: &World| {
            let exists = |digest| world.objects.size(&keys::blob(digest)).now_or_never().unwrap().unwrap().is_some();
            graph.descriptors().all(|blob| exists(&blob.digest))
        };
        world.pass(3 * day);
        run(&mut world, &collect);
        run(&mut world, &loss);
        world.pass(day - 10 * MINUTE);
        run(&mut world, &collect);
        assert!(is_whole(&world), "{loss:?}");
        world.pass(day);
        run(&mut world, &collect);
        assert!(!is_whole(&world), "{loss:?}");
    }
}
