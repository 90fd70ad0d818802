//! Leases: what keeps an export's blobs and snapshots alive until its image is committed.

use std::time::{Duration, SystemTime};

use containerd_client::services::v1::{
    AddResourceRequest, CreateRequest, DeleteRequest, DeleteResourceRequest, Lease, ListRequest, ListResourcesRequest,
    Resource,
};
use tokio::sync::Mutex;
use tonic::Code;

use super::client::{Client, Expect as _, SILENCE, UNARY};
use crate::engine::process::Process;
use crate::engine::{DurableLease, EngineError, Lifetime, Origin};
use crate::image::Digest;

/// Marks our leases. The value is the export's id.
const EXPORT: &str = "dev.linkspan.export";
const DOOR: &str = "dev.linkspan.door";
const BUILDER: &str = "dev.linkspan.builder";
/// Which process the lease belongs to, so that only leases of processes that are gone are recovered.
const PROCESS: &str = "dev.linkspan.process";
/// containerd's label for when a lease ends by itself (containerd `docs/garbage-collection.md`).
const EXPIRE: &str = "containerd.io/gc.expire";

/// The type of a lease's blobs (containerd `core/metadata/leases.go`).
pub(crate) const CONTENT: &str = "content";
/// The type of a lease's ingests.
pub(crate) const INGESTS: &str = "ingests";

/// When a lease ends by itself. containerd cannot renew one, so this must be longer than any export. It only matters
/// if Linkspan was killed and never started again (`recover` releases such leases at the next start), and then costs
/// disk space and nothing else. dockerd gives its pulls the same eight hours.
const LIFETIME: Duration = Duration::from_secs(8 * 3600);
/// containerd refuses labels of which key and value together are longer than 4096 bytes (`pkg/labels/validate.go`).
const LABEL_BYTES: usize = 4096;

/// The id of an export's lease. Like that of the export it holds letters, digits and dashes, and nothing else: refs of
/// ingests are distinguished by the slash that follows it.
pub(crate) fn id(export: &str) -> String {
    format!("linkspan-{export}")
}

/// The labels for the record of a durable lease, in pieces: `dev.linkspan.record.0` and so on.
const RECORD: &str = "dev.linkspan.record.";
/// How long a piece is; with its key it fits into a label.
const RECORD_PIECE: usize = 3500;

/// Marks a lease that keeps what an interrupted export had sent. The value is the root of its image.
const KEPT: &str = "dev.linkspan.kept";
/// How long that is kept: until the command is run again, not until another day.
const KEEP: Duration = Duration::from_secs(3600);

/// Marks what has no other use than to say that the lease of the value has ended, though a store that was away may have it still.
const ENDED: &str = "dev.linkspan.ended";

/// The id of the mark. No export's lease has a dot in its id.
fn mark(lease: &str) -> String {
    format!("{lease}.ended")
}

/// Says that the lease `id` has ended, for as long as that could live: containerd's leases cannot be changed, so this is
/// another one, which keeps nothing.
pub(crate) async fn mark_ended(client: &Client, id: &str) -> Result<(), EngineError> {
    let labels = [(EXPIRE, timestamp(SystemTime::now() + LIFETIME)), (ENDED, id.to_owned())];
    let labels = labels.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    let mut leases = client.leases();
    let call = leases.create(client.request(CreateRequest { id: mark(id), labels }));
    client.unary(format!("marking the lease {id} as ended"), call).await.unless(Code::AlreadyExists)?;
    Ok(())
}

/// The leases that have ended by such marks.
pub(crate) async fn ended(client: &Client) -> Result<Vec<String>, EngineError> {
    let mut leases = client.leases();
    let filters = vec![format!("labels.\"{ENDED}\"")];
    let call = leases.list(client.request(ListRequest { filters }));
    let found = client.unary("listing leases that have ended", call).await?.leases;
    Ok(found.into_iter().filter_map(|mut mark| mark.labels.remove(ENDED)).collect())
}

/// Removes the mark of the lease `id`; fine if there is none.
pub(crate) async fn unmark_ended(client: &Client, id: &str) -> Result<(), EngineError> {
    delete_within(client, &mark(id), false, UNARY).await
}

/// Creates the lease `id` for `origin`.
pub(crate) async fn create(
    client: &Client,
    id: &str,
    origin: &Origin,
    lifetime: Lifetime<'_>,
) -> Result<(), EngineError> {
    let (process, record) = match lifetime {
        Lifetime::Process => (Some(Process::this().to_string()), ""),
        Lifetime::Durable { record } => (None, record),
    };
    let expire = timestamp(SystemTime::now() + LIFETIME);
    let labels = [(EXPIRE, expire.as_str()), (EXPORT, &origin.export), (DOOR, origin.door), (BUILDER, &origin.builder)];
    let process = process.as_deref().map(|process| (PROCESS, process));
    let labels: Vec<_> =
        labels.into_iter().chain(process).map(|(key, value)| (key.to_owned(), cut(key, value))).collect();
    let labels = labels.into_iter().chain(pieces(record)).collect();
    let mut leases = client.leases();
    let call = leases.create(client.request(CreateRequest { id: id.to_owned(), labels }));
    client.unary(format!("creating the lease {id}"), call).await?;
    Ok(())
}

/// When what a lease alone has kept is collected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Collect {
    /// By the next run of the garbage collector. The deletion of a lease brings one about (containerd
    /// `plugins/gc/scheduler.go`, `deletions`), but not before the pause that follows each run has passed: 49 times as long
    /// as a run takes on average, by default (`pause_threshold`).
    Later,
    /// Before the call ends, unless another lease of this process is just being deleted so. A run of the collector holds up
    /// every write to the store, in all namespaces, until it has ended, and waits for those that are under way.
    Now,
}

/// Deletes the lease `id`. Fine if it is gone already. That something was not collected at once is no error.
pub(crate) async fn delete(client: &Client, id: &str, collect: Collect) -> Result<(), EngineError> {
    static COLLECTING: Mutex<()> = Mutex::const_new(());
    if collect == Collect::Now
        && let Ok(_collecting) = COLLECTING.try_lock()
    {
        match delete_within(client, id, true, SILENCE).await {
            Ok(()) => return Ok(()),
            Err(error) => tracing::debug!(%error, lease = id, "what it kept is collected later"),
        }
    }
    delete_within(client, id, false, UNARY).await
}

async fn delete_within(client: &Client, id: &str, sync: bool, limit: Duration) -> Result<(), EngineError> {
    let mut leases = client.leases();
    let call = leases.delete(client.request(DeleteRequest { id: id.to_owned(), sync }));
    match client.within(limit, format!("deleting the lease {id}"), call).await {
        Err(EngineError::LeaseLost { .. }) => Ok(()),
        outcome => outcome.unless(Code::NotFound).map(|_| ()),
    }
}

/// Adds a resource to the lease `id`; containerd does not check that it exists.
pub(crate) async fn add(client: &Client, id: &str, kind: &str, resource: &str) -> Result<(), EngineError> {
    let mut leases = client.leases();
    let resource = Resource { id: resource.to_owned(), r#type: kind.to_owned() };
    let operation = format!("adding {} to the lease {id}", resource.id);
    let call = leases.add_resource(client.request(AddResourceRequest { id: id.to_owned(), resource: Some(resource) }));
    client.unary(operation, call).await?;
    Ok(())
}

/// What the lease `id` holds; nothing if it is gone.
pub(crate) async fn resources(client: &Client, id: &str) -> Result<Vec<Resource>, EngineError> {
    let mut leases = client.leases();
    let call = leases.list_resources(client.request(ListResourcesRequest { id: id.to_owned() }));
    let found = client.unary(format!("listing what the lease {id} holds"), call).await;
    match found {
        Err(EngineError::LeaseLost { .. }) => Ok(Vec::new()),
        found => Ok(found.unless(Code::NotFound)?.map(|found| found.resources).unwrap_or_default()),
    }
}

/// Our leases whose processes are gone.
pub(crate) async fn abandoned(client: &Client) -> Result<Vec<String>, EngineError> {
    Ok(left(client).await?.0)
}

/// The same, and those of interrupted exports with the roots of their images.
pub(crate) async fn left(client: &Client) -> Result<(Vec<String>, Vec<(String, Digest)>), EngineError> {
    let mut leases = client.leases();
    let filters = vec![format!("labels.\"{EXPORT}\"")];
    let call = leases.list(client.request(ListRequest { filters }));
    let found = client.unary("listing leases", call).await?.leases;
    let (mut abandoned, mut kept) = (Vec::new(), Vec::new());
    for lease in found {
        let process = lease.labels.get(PROCESS).and_then(|text| text.parse::<Process>().ok());
        let root = lease.labels.get(KEPT).and_then(|text| text.parse::<Digest>().ok());
        match (process, root) {
            (Some(process), _) if process.is_gone() => abandoned.push(lease.id),
            (None, Some(root)) => kept.push((lease.id, root)),
            _ => {}
        }
    }
    Ok((abandoned, kept))
}

/// Creates a lease on the complete blobs of the image `root` that the lease `id` has. No process owns it, and it expires soon.
pub(crate) async fn keep(client: &Client, id: &str, root: &Digest) -> Result<(), EngineError> {
    let mut leased = resources(client, id).await?;
    leased.retain(|resource| resource.r#type != INGESTS);
    if leased.is_empty() {
        return Ok(());
    }
    let kept = format!("{id}-kept");
    let expire = timestamp(SystemTime::now() + KEEP);
    let labels = [(EXPIRE, expire), (EXPORT, kept.clone()), (KEPT, root.to_string())];
    let labels = labels.into_iter().map(|(key, value)| (key.to_owned(), cut(key, &value))).collect();
    let mut leases = client.leases();
    let call = leases.create(client.request(CreateRequest { id: kept.clone(), labels }));
    // There already if the same export was interrupted before.
    client.unary(format!("creating the lease {kept}"), call).await.unless(Code::AlreadyExists)?;
    for resource in leased {
        add(client, &kept, &resource.r#type, &resource.id).await?;
    }
    Ok(())
}

/// Whether the lease `id` was made for an export that outlives its process, and for this very one: with the same record,
/// unless `record` is empty. `None` if there is no such lease: it has just ended.
pub(crate) async fn is_resumable(client: &Client, id: &str, record: &str) -> Result<Option<bool>, EngineError> {
    let mut leases = client.leases();
    // Letters, digits and dashes: that is the rule for ids of exports.
    let filters = vec![format!("id==\"{id}\"")];
    let call = leases.list(client.request(ListRequest { filters }));
    let found = client.unary(format!("looking up the lease {id}"), call).await?.leases;
    let is_same = |lease: &Lease| {
        let has = |key: &str| lease.labels.contains_key(key);
        let is_durable = has(EXPORT) && !has(PROCESS) && !has(KEPT);
        is_durable && (record.is_empty() || self::record(lease) == record)
    };
    Ok(found.first().map(is_same))
}

/// The record of a durable lease.
fn record(lease: &Lease) -> String {
    (0..).map_while(|n| lease.labels.get(&format!("{RECORD}{n}"))).map(String::as_str).collect()
}

/// The leases that outlive their processes.
pub(crate) async fn durables(client: &Client) -> Result<Vec<DurableLease>, EngineError> {
    let mut leases = client.leases();
    let filters = vec![format!("labels.\"{RECORD}0\"")];
    let call = leases.list(client.request(ListRequest { filters }));
    let found = client.unary("listing leases", call).await?.leases;
    let durable = |lease: Lease| {
        let created = lease.created_at.and_then(|stamp| SystemTime::try_from(stamp).ok());
        Some(DurableLease {
            export: lease.labels.get(EXPORT)?.clone(),
            record: record(&lease),
            created: created.unwrap_or(SystemTime::UNIX_EPOCH),
        })
    };
    Ok(found.into_iter().filter_map(durable).collect())
}

/// Takes a resource out of the lease `id`; fine if it is not in it.
pub(crate) async fn remove(client: &Client, id: &str, kind: &str, resource: &str) -> Result<(), EngineError> {
    let mut leases = client.leases();
    let resource = Resource { id: resource.to_owned(), r#type: kind.to_owned() };
    let operation = format!("taking {} out of the lease {id}", resource.id);
    let request = DeleteResourceRequest { id: id.to_owned(), resource: Some(resource) };
    let call = leases.delete_resource(client.request(request));
    client.unary(operation, call).await.unless(Code::NotFound)?;
    Ok(())
}

/// `record` as labels.
fn pieces(record: &str) -> Vec<(String, String)> {
    let (mut pieces, mut rest) = (Vec::new(), record);
    while !rest.is_empty() {
        let end = boundary(rest, RECORD_PIECE);
        pieces.push((format!("{RECORD}{}", pieces.len()), rest[..end].to_owned()));
        rest = &rest[end..];
    }
    pieces
}

/// `value`, cut so that containerd accepts it as the value of label `key`.
pub(crate) fn cut(key: &str, value: &str) -> String {
    value[..boundary(value, LABEL_BYTES - key.len())].to_owned()
}

/// The last place in `text`, at most at `end`, where a character begins.
fn boundary(text: &str, end: usize) -> usize {
    (0..=end.min(text.len())).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0)
}

/// `time` as RFC 3339 in UTC, to the second.
fn timestamp(time: SystemTime) -> String {
    let stamp = prost_types::Timestamp::from(time);
    prost_types::Timestamp { seconds: stamp.seconds, nanos: 0 }.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expiry_is_rfc3339() {
        let time = SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_123);
        assert_eq!(timestamp(time), "2023-11-14T22:13:20Z");
    }

    #[test]
    fn records_come_back_whole() {
        let record = "äb".repeat(5000);
        let pieces = pieces(&record);
        assert!(pieces.len() > 3 && pieces.iter().all(|(key, value)| key.len() + value.len() <= LABEL_BYTES));
        assert_eq!(pieces.into_iter().map(|(_, value)| value).collect::<String>(), record);
    }

    #[test]
    fn long_labels_are_cut_at_a_character() {
        let long = "ä".repeat(4000);
        let value = cut("key", &long);
        assert!(value.len() + 3 <= LABEL_BYTES && value.len() > LABEL_BYTES - 6);
        assert_eq!(cut("key", "short"), "short");
    }
}
