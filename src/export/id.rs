//! Names for exports.

use std::hash::{BuildHasher as _, RandomState};
use std::time::SystemTime;

/// A unique id that cannot be guessed: 32 hexadecimal digits of the system's randomness.
pub fn unique_id() -> String {
    // Each RandomState is seeded by the system; two make 128 bits.
    let half = || RandomState::new().hash_one(SystemTime::now());
    format!("{:016x}{:016x}", half(), half())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_differ() {
        let ids: std::collections::HashSet<_> = (0..1000).map(|_| unique_id()).collect();
        assert_eq!(ids.len(), 1000);
        assert!(ids.iter().all(|id| id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit())));
    }
}
