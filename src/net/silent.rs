//! What to do about a program that accepts connections and says nothing.

/// How whoever listens at `address`, a socket of this machine, is looked at. The kernel accepts connections for a program that is
/// stopped, so that only its process shows what it is.
pub(crate) fn silent_remedy(address: &str) -> String {
    let find = match address.strip_prefix("unix://") {
        Some(path) => format!("ss -xlp src {path}"),
        None => format!("ss -tlp 'sport = :{}'", address.rsplit(':').next().unwrap_or_default()),
    };
    format!(
        "look at that process, and at its log: `{find}` names it (as root, also of other users); where `ps -o stat PID` shows `T` it is \
         stopped, and `kill -CONT PID` lets it go on"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_looked_up_by_what_it_is_called() {
        assert!(silent_remedy("unix:///run/x.sock").contains("`ss -xlp src /run/x.sock`"));
        assert!(silent_remedy("tcp://127.0.0.1:5000").contains("`ss -tlp 'sport = :5000'`"));
    }
}
