//! `linkspan ps`.

use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args;
use serde_json::{Value, json};

use super::{CommandError, block_on, output, show};
use crate::config::{Config, DEFAULT_EXPORT_LISTEN, Layer, ProcessEnvironment};
use crate::engine::remote::Connection;
use crate::export_v1::proto::{Export, ExportState, ListRequest};
use crate::proxy::Address;

/// Lists the exports that clients of a daemon's exporter API have opened.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub(super) struct Ps {
    /// Where the daemon's door of the exporter API listens (`serve --export-listen`) [env: LINKSPAN_EXPORT_LISTEN]
    /// [default: LINKSPAN_TO, else what the configuration file says, else unix:///run/linkspan/export.sock]
    #[arg(long, value_name = "ADDR")]
    to: Option<Address>,

    /// Also list those that have ended, as long as the daemon remembers them
    #[arg(short, long)]
    all: bool,

    /// Print ids only
    #[arg(short, long)]
    quiet: bool,

    /// Print a JSON object for each export, one a line
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  linkspan ps
  linkspan ps --to unix:///run/linkspan/export.sock
  linkspan ps --to unix:///run/linkspan/export.sock --all --json";

impl Ps {
    pub(super) fn run(self) -> Result<ExitCode, CommandError> {
        let to = self.to.clone().map_or_else(configured, Ok)?;
        let exports = block_on(list(&to))??;
        let mut rows = vec![["EXPORT ID", "STATE", "CREATED", "BLOBS", "SIZE", "NAMES"].map(str::to_owned).to_vec()];
        for export in exports.iter().filter(|export| self.all || is_under_way(export)) {
            match (self.quiet, self.json) {
                (true, _) => output::print(&export.id)?,
                (_, true) => output::print(&describe(export).to_string())?,
                _ => rows.push(row(export)),
            }
        }
        if !self.quiet && !self.json {
            output::print(&show::table(&rows))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

async fn list(address: &Address) -> Result<Vec<Export>, CommandError> {
    let connection = Connection::open(address).await?;
    let (mut exports, mut request) = (Vec::new(), ListRequest::default());
    loop {
        let call = async { connection.exports().list(request.clone()).await };
        let page = connection.unary("listing exports", call).await?;
        exports.extend(page.exports);
        // A server that gives the same page again would be asked for ever.
        if page.next_page_token.is_empty() || page.next_page_token == request.page_token {
            return Ok(exports);
        }
        request.page_token = page.next_page_token;
    }
}

/// Where a daemon listens that is started with the configuration of this machine.
fn configured() -> Result<Address, CommandError> {
    if let Some(address) = super::engine::daemon()? {
        return Ok(address);
    }
    let config = Config::load(Layer::default(), &ProcessEnvironment)?;
    // A constant, and there is a test on it.
    let usual = || DEFAULT_EXPORT_LISTEN.parse().map_err(CommandError::Address);
    config.export_listen.map_or_else(usual, Ok)
}

/// A server may list exports that have ended.
fn is_under_way(export: &Export) -> bool {
    matches!(export.state(), ExportState::Open | ExportState::Committing)
}

/// The state's name, as the specification has it.
fn state(export: &Export) -> String {
    export.state().as_str_name().trim_start_matches("EXPORT_STATE_").to_lowercase()
}

fn names(export: &Export) -> Vec<&str> {
    export.results.iter().flat_map(|result| &result.names).map(String::as_str).collect()
}

fn row(export: &Export) -> Vec<String> {
    let created = export.create_time.and_then(|time| {
        let then = UNIX_EPOCH + Duration::from_secs(u64::try_from(time.seconds).ok()?);
        Some(show::ago(SystemTime::now().duration_since(then).unwrap_or_default()))
    });
    vec![
        export.id.clone(),
        state(export),
        created.unwrap_or_else(|| "N/A".to_owned()),
        export.blobs.to_string(),
        show::size_in_table(u64::try_from(export.bytes).unwrap_or(0)),
        names(export).join(","),
    ]
}

fn describe(export: &Export) -> Value {
    let exporters: Vec<_> =
        export.exporters.iter().map(|exporter| json!({"id": exporter.id, "type": exporter.r#type})).collect();
    json!({
        "id": export.id, "state": state(export), "labels": export.labels, "exporters": exporters,
        "created": export.create_time.map(|time| time.seconds), "expires": export.expire_time.map(|time| time.seconds),
        "blobs": export.blobs, "bytes": export.bytes, "names": names(export),
    })
}
