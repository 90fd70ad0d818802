//! Who waits for a password to be checked, and what the log says of wrong ones: both bounded, since anybody can send them.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::net::Principal;

/// How many requests wait.
const WAITING: usize = 64;
/// How many of them are from one address, so that nobody keeps all others from logging in.
const WAITING_OF_ONE: usize = 16;
/// How often the log speaks of wrong passwords, at most.
const LOGGED: Duration = Duration::from_secs(10);

/// The requests that wait, by where they came from.
#[derive(Debug, Default)]
pub(super) struct Queue(Mutex<HashMap<Principal, usize>>);

/// One of them.
#[derive(Debug)]
pub(super) struct Place<'a> {
    queue: &'a Queue,
    peer: Principal,
}

impl Queue {
    /// `None` if too many wait already.
    pub(super) fn enter(&self, peer: &Principal) -> Option<Place<'_>> {
        let peer = peer.beyond_its_connection();
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of_one = waiting.get(&peer).copied().unwrap_or_default();
        if of_one >= WAITING_OF_ONE || waiting.values().sum::<usize>() >= WAITING {
            return None;
        }
        waiting.insert(peer.clone(), of_one + 1);
        Some(Place { queue: self, peer })
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut waiting = self.queue.0.lock().unwrap_or_else(PoisonError::into_inner);
        match waiting.get_mut(&self.peer) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(waiting.remove(&self.peer)),
        }
    }
}

/// Passwords that were wrong since the log last spoke of them.
#[derive(Debug, Default)]
pub(super) struct Refused(Mutex<(u64, Option<Instant>)>);

impl Refused {
    /// Counts one. The log does not say by which user: people type passwords there.
    pub(super) fn log(&self) {
        let mut refused = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (count, logged) = &mut *refused;
        *count += 1;
        if logged.is_none_or(|logged| logged.elapsed() >= LOGGED) {
            tracing::info!(count = *count, "clients have a wrong name or password");
            *refused = (0, Some(Instant::now()));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    #[test]
    fn one_address_leaves_room_for_others() {
        let queue = Queue::default();
        let of = |host: u8, port: u16| Principal::from(SocketAddr::from(([10, 0, 0, host], port)));
        let mut places: Vec<_> = (0..WAITING_OF_ONE).map(|_| queue.enter(&of(1, 7)).unwrap()).collect();
        assert!(queue.enter(&of(1, 8)).is_none(), "another port is the same address");
        for host in 2..=4 {
            places.extend((0..WAITING_OF_ONE).map(|_| queue.enter(&of(host, 7)).unwrap()));
        }
        assert!(queue.enter(&of(5, 7)).is_none(), "no room for anybody");
        drop(places.remove(0));
        assert!(queue.enter(&of(5, 7)).is_some());
        drop(places);
        assert!(queue.0.lock().unwrap().is_empty());
    }
}
