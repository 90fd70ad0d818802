//! Keeps the pages of a browser on this machine from the door: it can reach loopback addresses, and a name that a page
//! chose may resolve to one (DNS rebinding). Other programs name this machine in `Host`, and no page in `Origin`.

use std::net::IpAddr;

use http::header::{HOST, HeaderName, ORIGIN};
use http::{Request, StatusCode, Version};

use super::refusal::{Code, Refusal};
use crate::net::Principal;

/// Browsers say with it where a request comes from (W3C "Fetch Metadata Request Headers").
const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

fn denied(message: &str) -> Result<(), Refusal> {
    Err(Refusal::new(StatusCode::FORBIDDEN, Code::Denied, message))
}

/// Refuses requests of pages.
pub(super) fn refuse_pages<B>(request: &Request<B>) -> Result<(), Refusal> {
    let headers = request.headers();
    if headers.contains_key(ORIGIN) {
        return denied("requests of web pages are refused: they have an `Origin`");
    }
    if headers.get(FETCH_SITE).is_some_and(|site| site != "none" && site != "same-origin") {
        return denied("requests of web pages are refused: their `Sec-Fetch-Site` says so");
    }
    Ok(())
}

/// Refuses a request with several `Host`, of which another program on its way may have read another one (RFC 9112, section 3.2).
pub(super) fn refuse_two_hosts<B>(request: &Request<B>) -> Result<(), Refusal> {
    match request.headers().get_all(HOST).iter().nth(1) {
        Some(_) => Err(Refusal::bad(Code::Unknown, "a request has one `Host`")),
        None => Ok(()),
    }
}

/// Refuses requests that name another machine, where the client is not known: no browser opens a unix socket, and none has a
/// password or a certificate of ours unless its user gave it that.
pub(super) fn refuse_other_hosts<B>(request: &Request<B>, client: &Principal) -> Result<(), Refusal> {
    let headers = request.headers();
    if !matches!(client, Principal::Anonymous { .. }) {
        return Ok(());
    }
    let named = match (headers.get(HOST), request.uri().authority()) {
        (_, Some(authority)) => Some(authority.as_str()),
        (Some(host), None) => host.to_str().ok(),
        (None, None) if request.version() < Version::HTTP_11 => return Ok(()),
        (None, None) => None,
    };
    match named {
        Some(host) if is_this_machine(host) => Ok(()),
        Some(_) => denied("`Host` names another machine; reach this registry as `localhost` or `127.0.0.1`"),
        None => Err(Refusal::bad(Code::Unknown, "a request needs one readable `Host`")),
    }
}

/// Whether a host, with or without a port, is a loopback address or `localhost`.
fn is_this_machine(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, port)) if port.is_empty() || is_port(port) => address,
            _ => return false,
        },
        None => match host.split_once(':') {
            Some((name, port)) if is_port(&format!(":{port}")) => name,
            Some(_) => return false,
            None => host,
        },
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn is_port(text: &str) -> bool {
    text.strip_prefix(':').is_some_and(|port| port.parse::<u16>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(client: &Principal, headers: &[(&str, &str)]) -> Option<StatusCode> {
        let request = headers.iter().fold(Request::get("/v2/"), |request, (name, value)| request.header(*name, *value));
        let request = request.body(()).unwrap();
        let checked = refuse_two_hosts(&request).and_then(|()| refuse_pages(&request));
        let checked = checked.and_then(|()| refuse_other_hosts(&request, client));
        checked.err().map(|refusal| refusal.status)
    }

    #[test]
    fn only_requests_to_this_machine_are_served() {
        let tcp = Principal::from(std::net::SocketAddr::from(([127, 0, 0, 1], 1)));
        for host in ["localhost:5000", "LOCALHOST", "127.0.0.1:5000", "127.8.8.8", "[::1]:5000", "[::1]"] {
            assert_eq!(checked(&tcp, &[("host", host)]), None, "{host}");
        }
        for host in ["evil.example:5000", "localhost.evil.example", "10.0.0.1:5000", "[::2]:1", "localhost:x", "[::1"] {
            assert_eq!(checked(&tcp, &[("host", host)]), Some(StatusCode::FORBIDDEN), "{host}");
        }
        assert_eq!(checked(&tcp, &[]), Some(StatusCode::BAD_REQUEST));
        let unix = Principal::Unix { uid: 0, gid: 0, pid: None };
        assert_eq!(checked(&unix, &[("host", "anything")]), None);
        for client in [&tcp, &unix] {
            let two = [("host", "localhost"), ("host", "localhost")];
            assert_eq!(checked(client, &two), Some(StatusCode::BAD_REQUEST));
        }
        let user = Principal::User { name: "ci".to_owned() };
        assert_eq!(checked(&user, &[("host", "registry.example")]), None);
    }

    #[test]
    fn requests_of_pages_are_refused() {
        let tcp = Principal::from(std::net::SocketAddr::from(([127, 0, 0, 1], 1)));
        let host = ("host", "localhost:5000");
        for page in [
            ("origin", "http://evil.example"),
            ("origin", "http://localhost:5000"),
            ("origin", "null"),
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-site", "same-site"),
        ] {
            assert_eq!(checked(&tcp, &[host, page]), Some(StatusCode::FORBIDDEN), "{page:?}");
        }
        assert_eq!(checked(&tcp, &[host, ("sec-fetch-site", "none")]), None);
    }
}
