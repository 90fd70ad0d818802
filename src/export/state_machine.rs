//! The states of an export and the steps between them.

use std::time::Instant;

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
}

impl StateMachine {
    pub(super) fn new(listed: Listed, events: Events, activities: Activities) -> Self {
        Self { listed, state: None, entered: Instant::now(), events, activities }
    }

    /// Enters `next` and emits it as an event.
    pub(super) fn enter(&mut self, next: State) {
        debug_assert!(follows(self.state, next), "{:?} -> {next:?}", self.state);
        tracing::debug!(export = self.listed.id(), from = ?self.state, to = ?next, after = ?self.entered.elapsed());
        self.listed.enter(next.name());
        if let Some(state) = self.state.replace(next) {
            self.activities.emit(Activity::StateLeft { state, after: self.entered.elapsed() });
        }
        self.entered = Instant::now();
        self.events.emit(Event::State(next));
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
