//! When containerd is asked to collect at once what a failed export has put there: only where room is short, and one
//! collection at a time, for all other writes to the store wait for it.

use std::{
    mem::take,
    sync::{Arc, Mutex},
};

use containerd_client::services::v1::DeleteRequest;
use prost::Message as _;
use tonic::Code;

use crate::{
    common::Stack,
    engine::{ENGINES, Engine, assert_stderr_has},
    fault_injection::Application,
    proxied::Proxied,
    proxy::{Direction, Message, Proxy, Verdict},
};

const FULL: &str = "failed to write: no space left on device";

/// What is done to the deletion of a lease that waits for the collector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Collection {
    Passes,
    Fails,
    Stops,
}

/// The deletions of leases: whether each waits for the collector.
type Deletions = Arc<Mutex<Vec<bool>>>;

/// Ends every write with `refusal`, and notes the deletions.
fn reject(proxy: &Proxy, refusal: &'static str, collection: Collection) -> Deletions {
    let deletions = Deletions::default();
    let noted = deletions.clone();
    let mut waiting = None;
    proxy.rule(move |message| {
        if is(message, "Content/Write", Direction::Response) {
            return Verdict::End(Code::Unknown, refusal);
        }
        if is(message, "Leases/Delete", Direction::Request) {
            let waits = DeleteRequest::decode(message.bytes.clone()).unwrap().sync;
            noted.lock().unwrap().push(waits);
            waiting = waits.then_some(message.call).or(waiting);
        }
        match collection {
            _ if waiting != Some(message.call) => Verdict::Pass,
            Collection::Fails if message.direction == Direction::Response => Verdict::End(Code::Unknown, "gc failed"),
            Collection::Stops if message.direction == Direction::Request => Verdict::Hold,
            _ => Verdict::Pass,
        }
    });
    deletions
}

fn is(message: &Message<'_>, call: &str, direction: Direction) -> bool {
    message.path.ends_with(call) && message.direction == direction
}

#[test]
fn what_was_sent_is_collected_at_once_only_where_room_is_short() {
    let stack = Stack::start(&ENGINES);
    let engine = Engine::containerd(&stack);
    let proxy = Proxy::new(&stack, stack.containerd_address());
    let proxied = Proxied::with(engine, Stack::shared(), engine.args_behind("", proxy.path().to_str().unwrap()));
    let application = Application::new("collected");
    for (refusal, collection, expected) in [
        ("the disk has a scratch", Collection::Passes, &[false][..]),
        (FULL, Collection::Passes, &[true]),
        // The lease goes all the same, and the client is told of what matters to him.
        (FULL, Collection::Fails, &[true, false]),
    ] {
        let deletions = reject(&proxy, refusal, collection);
        let output = proxied.build(&application.context, "collected:1").fails();
        assert_stderr_has(&output, &[refusal]);
        assert_eq!(output.stderr.contains("the engine's disk is full"), refusal == FULL, "{output}");
        assert_eq!(take(&mut *deletions.lock().unwrap()), expected, "{refusal}, {collection:?}");
        engine.nothing_is_left();
    }

    // Nobody waits for somebody else's collection.
    let deletions = reject(&proxy, FULL, Collection::Stops);
    let first = proxied.build(&application.context, "collected:1").spawn();
    proxy.stopped();
    assert_stderr_has(&proxied.build(&application.context, "collected:2").fails(), &[FULL]);
    assert_eq!(take(&mut *deletions.lock().unwrap()), [true, false]);
    proxy.release();
    assert_stderr_has(&first.wait(), &[FULL]);
    engine.nothing_is_left();

    proxy.restore();
    proxied.succeeds(&application, "collected:1");
    engine.is_sound();
}
