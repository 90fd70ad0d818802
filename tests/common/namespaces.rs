//! The namespaces of a stack's containerd, each of them one test's own.

use std::{collections::HashMap, sync::Mutex, thread};

/// The namespaces of dockerd, of builders and of clients that are told none.
const COMMON: [&str; 3] = ["moby", "buildkit", "default"];

/// Which test each namespace belongs to. Two tests run at once, and see each other's leases and blobs in a namespace that
/// both of them use: what one waits for, the other holds up.
#[derive(Debug, Default)]
pub(super) struct Namespaces {
    owners: Mutex<HashMap<String, String>>,
}

impl Namespaces {
    /// Notes that the test of this thread uses `namespace`.
    ///
    /// # Panics
    /// When it is another test's.
    #[track_caller]
    pub(super) fn claim(&self, namespace: &str) {
        let thread = thread::current();
        // Tests have threads of their name; what works for them in another thread uses what they have named.
        let Some(test) = thread.name().filter(|name| name.contains("::")) else { return };
        if COMMON.contains(&namespace) {
            return;
        }
        let mut owners = self.owners.lock().unwrap();
        let owner = owners.entry(namespace.to_owned()).or_insert_with(|| test.to_owned()).clone();
        drop(owners);
        assert_eq!(owner, test, "the namespace {namespace} belongs to another test; hint: name one of your own");
    }
}
