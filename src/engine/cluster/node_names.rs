//! The names of a cluster's nodes, as they are now.

use std::sync::{Arc, PoisonError, RwLock};

use serde::{Deserialize, Serialize, Serializer};

/// The nodes of a cluster, as docker calls their containers. They change while nodes join and leave; all clones change with them.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(from = "Vec<String>")]
pub struct NodeNames(Arc<RwLock<Vec<String>>>);

impl NodeNames {
    /// The names at this moment.
    pub fn to_vec(&self) -> Vec<String> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    pub(super) fn set(&self, names: Vec<String>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = names;
    }
}

impl From<Vec<String>> for NodeNames {
    fn from(names: Vec<String>) -> Self {
        Self(Arc::new(RwLock::new(names)))
    }
}

impl PartialEq for NodeNames {
    fn eq(&self, other: &Self) -> bool {
        self.to_vec() == other.to_vec()
    }
}

impl Eq for NodeNames {}

impl Serialize for NodeNames {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.to_vec().serialize(serializer)
    }
}
