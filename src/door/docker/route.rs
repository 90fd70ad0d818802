//! Which requests are looked into: by method and by path, with or without the version that clients put in front.

use super::Door;
use super::endless::is_endless;
use crate::proxy::http1::{Connection, Exchange, RelayError};
use crate::proxy::{Drain, Stream};
use crate::status::Answer;

impl Door {
    /// Does with a request what is to be done with it. Returns the connection if another request can follow.
    pub(super) async fn route<T>(
        &self,
        exchange: Exchange<T>,
        drain: &Drain,
    ) -> Result<Option<Connection<T>>, RelayError>
    where
        T: Stream + 'static,
    {
        let head = exchange.head();
        tracing::debug!(method = head.method(), path = path(head.target()), "request");
        if let Some(answer) = self.status.as_ref().filter(|_| Answer::is_asked(head.method(), head.target())) {
            exchange.finish(Answer::CONTENT_TYPE, &answer.bytes()).await;
            return Ok(None);
        }
        // A copy: what is done with the exchange takes its head along.
        let (method, path) = (head.method().to_owned(), path(head.target()).to_owned());
        let parts: Vec<_> = path.split('/').collect();
        let query = exchange.head().target().split_once('?').map_or("", |(_, query)| query);
        let _endless = is_endless(&method, &parts, query).then(|| drain.endless());
        match (method.as_str(), &parts[..], &self.builders) {
            ("POST", ["", "containers", container, "exec"], Some(builders)) => {
                builders.create(exchange, container).await
            }
            ("POST", ["", "exec", id, "start"], Some(builders)) => builders.start(exchange, id, drain.clone()).await,
            ("POST", ["", "images", "load"], _) => match self.loads.begin().await {
                Some(load) => {
                    load.serve(exchange.take(), &self.upstream).await;
                    Ok(None)
                }
                None => exchange.pass().await,
            },
            _ => exchange.pass().await,
        }
    }
}

/// The path of a target, without the version in front (moby `daemon/server/server.go` routes `/v{version:[0-9.]+}`
/// and the path without it alike) and without the query.
fn path(target: &str) -> &str {
    let path = target.split_once('?').map_or(target, |(path, _)| path);
    let Some((version, rest)) = path.strip_prefix("/v").and_then(|rest| Some(rest.split_at(rest.find('/')?))) else {
        return path;
    };
    let is_version = !version.is_empty() && version.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    if is_version { rest } else { path }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_left_out() {
        for (target, expected) in [
            ("/v1.55/images/load?quiet=1", "/images/load"),
            ("/images/load", "/images/load"),
            ("/v1/info", "/info"),
            ("/v1.55", "/v1.55"),
            ("/version", "/version"),
            ("/v/info", "/v/info"),
            ("/v1.x/info", "/v1.x/info"),
            ("/volumes/v1.55/x", "/volumes/v1.55/x"),
            ("*", "*"),
            ("?x=/v1.55/", ""),
        ] {
            assert_eq!(path(target), expected, "{target}");
        }
    }
}
