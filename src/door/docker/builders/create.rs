//! The creation of an exec: forwarded, and recorded if the exec runs `buildctl dial-stdio`.

use std::sync::Arc;

use serde::Deserialize;
use tokio_util::task::AbortOnDropHandle;

use super::Builders;
use super::exec::{Exec, Process};
use crate::docker_api::Api;
use crate::http1::{ClientConnection, Exchange, RelayError, ResponseHead, TappedExchange};
use crate::net::Stream;

/// A request to create an exec is a few hundred bytes.
pub(super) const MAX_BODY_BYTES: usize = 64 << 10;

/// moby `api/types/container/exec_create_request.go`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Create {
    #[serde(flatten)]
    process: Process,
    #[serde(default)]
    tty: bool,
    #[serde(default)]
    attach_stdin: bool,
    #[serde(default)]
    attach_stdout: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Created {
    id: String,
}

impl Builders {
    /// Relays the creation of an exec in `container`.
    pub(in super::super) async fn create<T>(
        &self,
        exchange: Exchange<T>,
        container: &str,
    ) -> Result<Option<ClientConnection<T>>, RelayError>
    where
        T: Stream + 'static,
    {
        exchange.watch(MAX_BODY_BYTES, |seen| self.remember(container, &seen)).await
    }

    fn remember(&self, container: &str, seen: &TappedExchange) {
        let Some(process) = seen.request_body.as_deref().and_then(tunnel) else { return };
        if seen.response.status() != 201 {
            return;
        }
        let created = seen.response_body.as_deref().and_then(|body| serde_json::from_slice(body).ok());
        let Some(Created { id }) = created.filter(|Created { id }| is_id(id)) else { return };
        // Requested concurrently with the client's next request. A name can move to another container, an id cannot.
        let (docker, exec) = (Arc::clone(&self.docker), id.clone());
        let container_id = AbortOnDropHandle::new(tokio::spawn(async move { container_of(&docker, &exec).await }));
        let head = start_head(&seen.response);
        self.pending.add(id, Exec { container: container.to_owned(), container_id, process, head });
    }
}

/// The process of an exec that connects to a builder: `buildctl dial-stdio`, with any flags around it.
fn tunnel(body: &[u8]) -> Option<Process> {
    let Create { process, tty, attach_stdin, attach_stdout } = serde_json::from_slice(body).ok()?;
    let (program, arguments) = process.cmd.split_first()?;
    let is_buildctl = program.rsplit('/').next() == Some("buildctl");
    let is_tunnel = is_buildctl && arguments.iter().any(|argument| argument == "dial-stdio");
    (is_tunnel && attach_stdin && attach_stdout && !tty).then_some(process)
}

/// The headers that dockerd adds to every response (moby `daemon/server/middleware/version.go`), in the order in which
/// it writes them after those of an upgrade.
fn start_head(response: &ResponseHead) -> Vec<(&'static str, Vec<u8>)> {
    const EVERYWHERE: [&str; 4] = ["Api-Version", "Docker-Experimental", "Ostype", "Server"];
    EVERYWHERE.into_iter().filter_map(|name| Some((name, response.headers().get(name)?.to_vec()))).collect()
}

/// dockerd's ids are 64 hexadecimal digits; anything else is not safe in a path.
fn is_id(id: &str) -> bool {
    !id.is_empty() && id.len() <= 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// The id of the container that `exec` was created in.
async fn container_of(docker: &Api, exec: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Inspected {
        #[serde(rename = "ContainerID")]
        container_id: String,
    }
    let response = docker.get(&format!("/exec/{exec}/json")).await.ok()?;
    let Inspected { container_id } = serde_json::from_slice(&response.body).ok()?;
    is_id(&container_id).then_some(container_id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ways_to_a_builder() {
        for command in [
            r#"["buildctl","dial-stdio"]"#,
            r#"["/usr/local/bin/buildctl","--addr","unix:///x","dial-stdio"]"#,
            r#"["./buildctl","dial-stdio","--debug"]"#,
        ] {
            let body = format!(r#"{{"AttachStdin":true,"AttachStdout":true,"New":{{}},"Cmd":{command}}}"#);
            assert!(tunnel(body.as_bytes()).is_some(), "{command}");
        }
    }

    #[test]
    fn others() {
        for body in [
            r#"{"AttachStdin":true,"AttachStdout":true,"Cmd":["buildctl","debug","workers"]}"#,
            r#"{"AttachStdin":true,"AttachStdout":true,"Cmd":["sh","-c","buildctl dial-stdio"]}"#,
            r#"{"AttachStdin":true,"AttachStdout":true,"Tty":true,"Cmd":["buildctl","dial-stdio"]}"#,
            r#"{"AttachStdin":false,"AttachStdout":true,"Cmd":["buildctl","dial-stdio"]}"#,
            r#"{"AttachStdin":true,"AttachStdout":true,"Cmd":[]}"#,
            r#"{"Cmd":"buildctl dial-stdio"}"#,
            r#"["buildctl","dial-stdio"]"#,
            "",
        ] {
            assert_eq!(tunnel(body.as_bytes()), None, "{body}");
        }
    }

    #[test]
    fn processes_that_differ_are_distinguished() {
        let process = |rest: &str| {
            let body = format!(r#"{{"AttachStdin":true,"AttachStdout":true,"Cmd":["buildctl","dial-stdio"]{rest}}}"#);
            tunnel(body.as_bytes()).unwrap()
        };
        assert_eq!(process(""), process(r#","AttachStderr":true,"DetachKeys":"""#));
        for rest in [r#","User":"1""#, r#","Env":["A=1"]"#, r#","WorkingDir":"/""#, r#","Privileged":true"#] {
            assert_ne!(process(""), process(rest), "{rest}");
        }
    }
}
