//! The states of an export and the steps between them.

use std::sync::Arc;
use std::time::Instant;

use super::counted::Counted;
use super::live::Listed;
use crate::activity::{Activities, Activity};
use crate::progress::{Event, Events, State};

/// The state of one export. Steps are only possible in the order of the transaction.
#[derive(Debug)]
pub(super) struct StateMachine {
    listed: Listed,
    state: Option<State>,
    entered: Instant,
    events: Events,
    activities: Activities,
    counted: Arc<Counted>,
}

impl StateMachine {
    pub(super) fn new(listed: Listed, events: Events, activities: Activities, counted: Arc<Counted>) -> Self {
        Self { listed, state: None, entered: Instant::now(), events, activities, counted }
    }

    /// Enters `next` and emits it as an event.
    pub(super) fn enter(&mut self, next: State) {
        debug_assert!(follows(self.state, next), "{:?} -> {next:?}", self.state);
        tracing::debug!(export = self.listed.id(), from = ?self.state, to = ?next, after = ?self.entered.elapsed());
        self.listed.enter(next.name());
        if let Some(state) = self.state.replace(next) {
            self.leave(state);
        }
        self.entered = Instant::now();
        self.events.emit(Event::State(next));
        // Layers that were there may be unpacked since the plan.
        if next == State::Transferring && self.counted.begins_unpacking() {
            self.listed.enter(State::Unpacking.name());
            self.events.emit(Event::State(State::Unpacking));
        }
    }

    /// Tells how long `state` lasted. The unpacking begins in the middle of the transfer's step, with the last blob.
    fn leave(&self, state: State) {
        let now = Instant::now();
        let unpacking = self.counted.unpacking_since().filter(|_| state == State::Transferring);
        let end = unpacking.map_or(now, |since| since.max(self.entered));
        self.activities.emit(Activity::StateLeft { state, after: end.saturating_duration_since(self.entered) });
        if unpacking.is_some() {
            let after = now.saturating_duration_since(end);
            self.activities.emit(Activity::StateLeft { state: State::Unpacking, after });
        }
    }
}

/// Whether `next` may follow `state`. An export can be aborted until it is committed.
fn follows(state: Option<State>, next: State) -> bool {
    use State::{Aborted, Committed, Open, Planned, Ready, Transferring};
    match (state, next) {
        (None, Open)
        // Everything is there and named already.
        | (None, Committed)
        | (Some(Open), Planned)
        // Something that the plan relied on has gone, as is found when dockerd loads the image or after its names are set.
        | (Some(Transferring | Ready), Planned)
        | (Some(Planned), Transferring)
        | (Some(Transferring), Ready)
        | (Some(Ready), Committed) => true,
        (state, Aborted) => !matches!(state, Some(Committed | Aborted)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use State::{Aborted, Committed, Open, Planned, Ready, Transferring};

    #[test]
    fn unpacking_is_no_part_of_the_transfer() {
        use std::sync::Mutex;

        use crate::engine::{Origin, Plan};
        use crate::export::LiveExports;
        use crate::image::{Descriptor, Digest};
        use crate::net::Principal;

        let (left, entered) = (Arc::<Mutex<Vec<_>>>::default(), Arc::<Mutex<Vec<_>>>::default());
        let (leaving, entering) = (left.clone(), entered.clone());
        let activities = Activities::new(move |activity| {
            if let Activity::StateLeft { state, .. } = activity {
                leaving.lock().unwrap().push(state.name());
            }
        });
        let events = Events::new(move |event| {
            if let Event::State(state) = event {
                entering.lock().unwrap().push(state.name());
            }
        });
        let (builder, principal) = (String::new(), Principal::Internal);
        let origin = Origin { export: "e".to_owned(), door: "d", builder, principal };
        let (exports, counted) = (LiveExports::default(), Arc::<Counted>::default());
        let mut machine = StateMachine::new(exports.add(&origin, Vec::new()), events, activities, counted.clone());
        let layer = Descriptor::new("layer", Digest::sha256(b"a"), 1);
        machine.enter(Open);
        counted.count(&Event::Unpacking { digest: layer.digest.clone() });
        machine.enter(Planned);
        counted.plan(&Plan { present: vec![layer], ..Plan::default() });
        machine.enter(Transferring);
        assert_eq!(exports.list()[0].state, "unpacking");
        machine.enter(Ready);
        assert_eq!(*left.lock().unwrap(), ["open", "planned", "transferring", "unpacking"]);
        assert_eq!(*entered.lock().unwrap(), ["open", "planned", "transferring", "unpacking", "ready"]);
    }

    #[test]
    fn an_export_can_be_aborted_until_it_is_committed() {
        for state in [None, Some(Open), Some(Planned), Some(Transferring), Some(Ready)] {
            assert!(follows(state, Aborted), "{state:?}");
        }
        assert!(!follows(Some(Committed), Aborted));
        assert!(!follows(Some(Aborted), Aborted));
    }

    #[test]
    fn nothing_is_committed_before_it_is_ready() {
        for state in [Open, Planned, Transferring, Aborted] {
            assert!(!follows(Some(state), Committed), "{state:?}");
        }
        assert!(follows(Some(Ready), Committed));
        for state in [Transferring, Ready] {
            assert!(follows(Some(state), Planned), "what the plan relied on may have gone");
        }
        assert!(!follows(Some(Committed), Planned));
    }
}
