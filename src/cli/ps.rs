//! `linkspan ps`.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args;
use serde_json::{Value, json};

use super::client_tls::ClientTls;
use super::daemon::{doors, explain, logging_in, usual_export};
use super::engine::beside_contexts;
use super::{CommandError, block_on, output, show};
use crate::byte_size;
use crate::config::Layer;
use crate::engine::EngineError;
use crate::engine::remote::{Daemon, DaemonAddress, DaemonConnection, READS};
use crate::export::{HELD, LiveExport};
use crate::export_v1::proto::{Export, ExportState, Exporter, ListRequest};
use crate::image::Reference;
use crate::running::{First, Probe, probe, probe_with_tls};
use crate::status::{Kind, Status};

/// Lists the exports of a daemon that are under way, whichever of its doors they came through, and what clients hold of build
/// caches.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub(super) struct Ps {
    /// Where a door of the daemon listens, usually that of the exporter API (`serve --export-listen`) [env:
    /// LINKSPAN_EXPORT_LISTEN]
    /// [default: LINKSPAN_TO, else what the configuration file says, else a daemon that runs here, as `linkspan doctor` finds it]
    #[arg(long, value_name = "ADDR")]
    to: Option<DaemonAddress>,

    #[command(flatten)]
    tls: ClientTls,

    /// Also list those of the exporter API that have ended, as long as the daemon remembers them
    #[arg(short, long)]
    all: bool,

    /// Print ids only
    #[arg(short, long)]
    quiet: bool,

    /// Do not cut ids and names to the width of the terminal
    #[arg(long)]
    no_trunc: bool,

    /// Print a JSON object for each export, one a line
    #[arg(long)]
    json: bool,
}

/// The columns that may be cut: ids, clients and names.
const CUTTABLE: [usize; 3] = [0, 2, 7];

const EXAMPLES: &str = "\
Columns:
  DOOR    docker, buildkit, export, cache or registry
  CLIENT  the process or user that exports, as `linkspan serve` knows it
  STATE   open: it began; committing: its images are being made (exporter and
          caching API); planned: it is known what the engine lacks;
          transferring: blobs are moving; unpacking: all have come, and layers
          are being unpacked; ready: all is there, and only names are to be
          set; committed or aborted: it ends; reading, read: a command of
          another process reads an image; loading: a `docker load`;
          held: blobs of a build cache are kept for a client that reads them
  BLOBS   how many of its blobs the engine has, manifests included
  SIZE    their bytes, with those of blobs that are on their way; N/A where
          they are not counted (`docker load`)
  NAMES   what it is to set; of a push its repository, until a tag comes
A push through the registry door is listed from its first upload on, until
its images have their names. With --all, also committed, aborted and expired
exports of the exporter API.

Examples:
  linkspan ps
  linkspan ps --to unix:///run/linkspan/export.sock
  linkspan ps --to unix:///run/linkspan/export.sock --all --json
  linkspan ps --to ssh://user@host --all

Over ssh only the exports of the exporter API are listed.";

/// An export, as any door lists it, and what only the exporter API says of it.
struct Row {
    live: LiveExport,
    session: Option<Export>,
}

impl Ps {
    pub(super) fn run(self) -> Result<ExitCode, CommandError> {
        let to = self.tls.of(self.to.clone().map_or_else(found, Ok)?);
        to.check().map_err(CommandError::Elsewhere)?;
        let Found { rows, without_ended } = block_on(exports(&to))??;
        let rows: Vec<_> = rows.into_iter().filter(|row| self.all || row.is_under_way()).collect();
        match (self.quiet, self.json) {
            (true, _) => rows.iter().try_for_each(|row| output::print(&row.live.id))?,
            (_, true) => rows.iter().try_for_each(|row| output::print(&row.json().to_string()))?,
            _ => output::print(&table(&rows, output::columns(self.no_trunc)))?,
        }
        if let Some(door) = without_ended.filter(|_| self.all) {
            output::note(&format!("linkspan: note: {}", door.note()));
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// The exports of a daemon.
struct Found {
    /// Ordered by id.
    rows: Vec<Row>,
    /// The door that was asked, if it knows none that have ended.
    without_ended: Option<OtherDoor>,
}

/// A door that lists what is under way only.
struct OtherDoor {
    kind: Kind,
    address: String,
    /// Where the exporter API of the same daemon listens.
    export: Option<String>,
}

impl OtherDoor {
    fn of(status: &Status) -> Self {
        let export = status.doors.iter().find(|door| door.kind == Kind::Export).map(|door| door.address.clone());
        Self { kind: status.door.kind, address: status.door.address.clone(), export }
    }

    fn note(&self) -> String {
        let Self { kind, address, export } = self;
        let where_ended = match export {
            Some(export) => format!("`linkspan ps --all --to {export}` has them"),
            None => "this daemon has none (`linkspan serve --export-listen ADDR` opens it)".to_owned(),
        };
        format!(
            "exports that have ended are listed by the door of the exporter API alone, and {address} is the {} door: {where_ended}",
            kind.name()
        )
    }
}

/// The rows as a table; where the terminal is too narrow for it, with what says the most first.
fn table(rows: &[Row], width: Option<usize>) -> String {
    const HEADS: [&str; 8] = ["EXPORT ID", "DOOR", "CLIENT", "STATE", "CREATED", "BLOBS", "SIZE", "NAMES"];
    let lines = |is_narrow| {
        let rows = rows.iter().map(|row| row.columns(is_narrow));
        std::iter::once(HEADS.map(str::to_owned).to_vec()).chain(rows).collect::<Vec<_>>()
    };
    let whole = lines(false);
    match width {
        Some(width) if !show::fits(&whole, width) => show::cut_table(&lines(true), &CUTTABLE, Some(width)),
        width => show::cut_table(&whole, &CUTTABLE, width),
    }
}

/// A client in a narrow table: a process says more than its user.
fn in_short(principal: &str) -> String {
    let parts: Vec<_> = principal.split(", ").collect();
    match parts[..] {
        [uid, gid, pid] if uid.starts_with("uid ") && gid.starts_with("gid ") && pid.starts_with("pid ") => {
            pid.to_owned()
        }
        _ => principal.to_owned(),
    }
}

async fn exports(daemon: &Daemon) -> Result<Found, CommandError> {
    let probed = match &daemon.address {
        DaemonAddress::Socket(address) => match &daemon.tls {
            Some(tls) => probe_with_tls(address, tls).await,
            None => probe(address, First::Http2).await,
        },
        // One connection is enough; it has the exports of the API.
        DaemonAddress::Ssh(_) => Probe::OtherProgram,
    };
    let (live, ended, without_ended) = match probed {
        Probe::Linkspan(status) => {
            let other = (status.door.kind != Kind::Export).then(|| OtherDoor::of(&status));
            (status.exports, status.ended, other)
        }
        // Another server of the API, or none, which the call reports.
        Probe::OtherProgram | Probe::Tls | Probe::Reserved | Probe::Closed | Probe::Denied => Default::default(),
        Probe::Silent => return Err(EngineError::NoAnswer { address: daemon.address.to_string() }.into()),
    };
    let mut rows: BTreeMap<_, _> =
        live.into_iter().map(|live| (live.id.clone(), Row { live, session: None })).collect();
    let sessions = match without_ended {
        None => match logging_in(daemon, list).await {
            Ok(sessions) => sessions,
            Err(error) => return Err(explain(daemon, error).await),
        },
        Some(_) => Vec::new(),
    };
    for session in sessions {
        let principal = ended.get(&session.id).cloned().unwrap_or_default();
        let listed = LiveExport { door: "export".to_owned(), principal, ..LiveExport::default() };
        rows.entry(session.id.clone()).or_insert(Row { live: listed, session: None }).take(session);
    }
    Ok(Found { rows: rows.into_values().collect(), without_ended })
}

async fn list(daemon: &Daemon) -> Result<Vec<Export>, EngineError> {
    let connection = DaemonConnection::open(daemon).await?;
    let (mut exports, mut request) = (Vec::new(), ListRequest::default());
    loop {
        let call = async { connection.exports().list(request.clone()).await };
        let page = connection.unary("listing exports", call).await?;
        exports.extend(page.exports);
        // A server that returns the same page again would cause an endless loop.
        if page.next_page_token.is_empty() || page.next_page_token == request.page_token {
            return Ok(exports);
        }
        request.page_token = page.next_page_token;
    }
}

/// The address of a daemon that uses this machine's configuration, or of one that runs here, as the doctor finds it.
fn found() -> Result<DaemonAddress, CommandError> {
    if let Some(address) = super::engine::daemon()? {
        return Ok(address);
    }
    let config = beside_contexts(Layer::default())?;
    if let Some(listen) = config.export_listen {
        return Ok(listen.into());
    }
    let doors = block_on(doors(&config))?;
    // Only the door of the exporter API says how much was sent.
    let export = doors.iter().find(|(_, kind)| *kind == Kind::Export);
    match export.or(doors.first()) {
        Some((address, _)) => Ok(address.clone().into()),
        None => Ok(usual_export()?.into()),
    }
}

/// A name as docker shows it; a repository alone gets no tag.
fn familiar(name: &str) -> String {
    let Ok(parsed) = name.parse::<Reference>() else { return name.to_owned() };
    let shown = parsed.familiar();
    let has_tag = name.contains('@') || name.rsplit('/').next().is_some_and(|last| last.contains(':'));
    match shown.rsplit_once(':') {
        Some((repository, _)) if !has_tag => repository.to_owned(),
        _ => shown,
    }
}

impl Row {
    /// Adds the fields of the exporter API.
    fn take(&mut self, session: Export) {
        self.live.id.clone_from(&session.id);
        // The name of the state in the specification.
        self.live.state = match session.state() {
            // It is given back when all has been read, which is no failure.
            ExportState::Open if session.labels.contains_key(READS) => "reading".to_owned(),
            ExportState::Aborted if session.labels.contains_key(READS) => "read".to_owned(),
            state => state.as_str_name().trim_start_matches("EXPORT_STATE_").to_lowercase(),
        };
        let named = session.results.iter().flat_map(|result| &result.names);
        self.live.names.extend(named.filter(|name| !self.live.names.contains(name)).cloned().collect::<Vec<_>>());
        self.live.created = session.create_time.and_then(|time| u64::try_from(time.seconds).ok());
        self.live.blobs = u64::try_from(session.blobs).ok();
        self.live.bytes = u64::try_from(session.bytes).ok();
        self.session = Some(session);
    }

    /// Whether the export has not ended.
    fn is_under_way(&self) -> bool {
        let state = self.session.as_ref().map(Export::state);
        state.is_none_or(|state| matches!(state, ExportState::Open | ExportState::Committing))
    }

    /// For how long its client need not renew what it holds.
    fn left(&self) -> Option<String> {
        let expires = UNIX_EPOCH + Duration::from_secs(self.live.expires.filter(|_| self.live.state == HELD)?);
        let left = expires.duration_since(SystemTime::now()).unwrap_or_default().as_secs();
        Some(if left < 60 { format!("{left} s") } else { format!("{} min", left / 60) })
    }

    fn columns(&self, is_narrow: bool) -> Vec<String> {
        let LiveExport { id, door, principal, state, created, names, blobs, bytes, .. } = &self.live;
        let (ago, client): (fn(Duration) -> String, _) = match is_narrow {
            true => (show::ago_in_short, in_short(principal)),
            false => (show::ago, principal.clone()),
        };
        let age = |created| SystemTime::now().duration_since(UNIX_EPOCH + Duration::from_secs(created));
        let unknown = || "N/A".to_owned();
        vec![
            id.clone(),
            door.clone(),
            Some(client).filter(|client| !client.is_empty()).unwrap_or_else(unknown),
            match self.left() {
                Some(left) => format!("{state}, {left} left"),
                None => state.clone(),
            },
            created.map_or_else(unknown, |created| ago(age(created).unwrap_or_default())),
            blobs.map_or_else(unknown, |blobs| blobs.to_string()),
            bytes.map_or_else(unknown, byte_size::human_in_table),
            names.iter().map(|name| familiar(name)).collect::<Vec<_>>().join(","),
        ]
    }

    fn json(&self) -> Value {
        let LiveExport { id, door, builder, principal, state, created, names, blobs, bytes, expires } = &self.live;
        let mut row = json!({
            "id": id, "door": door, "builder": builder, "principal": principal, "state": state, "created": created,
            "names": names,
        });
        if let Some(session) = &self.session {
            let exporter = |exporter: &Exporter| json!({"id": exporter.id, "type": exporter.r#type});
            row["labels"] = json!(session.labels);
            row["exporters"] = session.exporters.iter().map(exporter).collect();
            row["expires"] = json!(session.expire_time.map(|time| time.seconds));
        }
        // An export that does not count has no such keys.
        for (key, number) in [("blobs", blobs), ("bytes", bytes), ("expires", expires)] {
            if let Some(number) = number {
                row[key] = json!(number);
            }
        }
        row
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_narrow_terminal_shows_the_process_and_more_of_the_names() {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let live = |id: &str, pid: &str, age: u64| LiveExport {
            id: id.repeat(26),
            door: "buildkit".to_owned(),
            principal: format!("uid 0, gid 0, pid {pid}"),
            state: "transferring".to_owned(),
            created: Some(now - age),
            names: vec!["team/slow:1".to_owned()],
            blobs: Some(3),
            bytes: Some(12_300_000),
            ..LiveExport::default()
        };
        let rows = [("a", "4711", 125), ("b", "12", 7300)];
        let rows = rows.map(|(id, pid, age)| Row { live: live(id, pid, age), session: None });
        let text = table(&rows, Some(80));
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        for words in ["pid 4711", "pid 12", "2 min", "2 h", "team/slow"] {
            assert!(text.contains(words), "{words}: {text}");
        }
        // Where there is room, and in a file, it is what it was.
        for width in [Some(200), None] {
            let text = table(&rows, width);
            assert!(text.contains("uid 0, gid 0, pid 4711") && text.contains("2 minutes ago"), "{text}");
        }
        assert_eq!(in_short("user ci"), "user ci");
    }
}
