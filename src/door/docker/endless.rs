//! Responses that do not end by themselves, such as `docker events`: a drain does not wait for them.

/// Whether the response to `method` on `path` (split, without a version) lasts until the client disconnects, or until a
/// container ends, which may be never.
pub(super) fn is_endless(method: &str, path: &[&str], query: &str) -> bool {
    match (method, path) {
        ("GET", ["", "events"]) => true,
        ("GET", ["", "containers" | "services" | "tasks", _, "logs"]) => is_set(query, "follow", false),
        ("GET", ["", "containers", _, "stats"]) => is_set(query, "stream", true),
        ("POST", ["", "containers", _, "wait"]) => true,
        _ => false,
    }
}

/// A switch of a query, read as dockerd does (moby `daemon/server/httputils/form.go`, `BoolValue`).
fn is_set(query: &str, name: &str, default: bool) -> bool {
    let value = query.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (key == name).then_some(value)
    });
    value.map_or(default, |value| {
        !matches!(value.trim().to_ascii_lowercase().as_str(), "" | "0" | "no" | "false" | "none")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ends_with_the_client_is_known() {
        for (method, path, query, expected) in [
            ("GET", "/events", "", true),
            ("GET", "/events", "since=1", true),
            ("POST", "/events", "", false),
            ("GET", "/containers/c/logs", "stdout=1", false),
            ("GET", "/containers/c/logs", "stdout=1&follow=1", true),
            ("GET", "/containers/c/logs", "follow=true", true),
            ("GET", "/containers/c/logs", "follow=0", false),
            ("GET", "/services/s/logs", "follow=1", true),
            ("GET", "/tasks/t/logs", "follow=1", true),
            ("GET", "/containers/c/stats", "", true),
            ("GET", "/containers/c/stats", "stream=false", false),
            ("POST", "/containers/c/wait", "condition=next-exit", true),
            ("POST", "/images/load", "", false),
            ("POST", "/build", "", false),
            ("GET", "/images/events/json", "", false),
        ] {
            let parts: Vec<_> = path.split('/').collect();
            assert_eq!(is_endless(method, &parts, query), expected, "{method} {path}?{query}");
        }
    }
}
