//! `linkspan ps`, of a daemon.

use linkspan::export_v1::proto::exports_client::ExportsClient;
use linkspan::export_v1::proto::{AbortRequest, Exporter, OpenRequest};
use serde_json::Value;
use tonic::transport::Endpoint;

use crate::common::{Linkspan, Stack, channel, linkspan, text};

#[tokio::test(flavor = "multi_thread")]
async fn exports_under_way_are_listed() {
    let stack = Stack::shared();
    let folder = tempfile::tempdir().unwrap();
    let door = stack.fresh_path("-ps.sock");
    let engine = ["--engine", "layout", "--layout", text(folder.path())];
    let daemon = Linkspan::export(stack, &engine, &[], door.clone());
    let address = daemon.address();
    let ps = |args: &[&str]| linkspan(["ps", "--to", &address]).args(args).ok().stdout;
    assert_eq!(ps(&[]).lines().count(), 1, "only the heads of the columns");

    let channel = channel(&door, Endpoint::from_static("http://localhost")).await;
    let mut client = ExportsClient::new(channel);
    let exporter = Exporter { id: "one".to_owned(), r#type: "image".to_owned(), ..Exporter::default() };
    let labels = [("build.ref".to_owned(), "abc".to_owned())].into();
    let request = OpenRequest { exporters: vec![exporter], labels, ..OpenRequest::default() };
    let id = client.open(request).await.unwrap().into_inner().export.unwrap().id;

    let table = ps(&[]);
    assert!(table.contains(&id) && table.contains("open"), "{table}");
    assert_eq!(ps(&["-q"]).trim(), id);
    let listed: Value = serde_json::from_str(&ps(&["--json"])).unwrap();
    let this_process = format!(
        "uid {}, gid {}, pid {}",
        rustix::process::geteuid().as_raw(),
        rustix::process::getegid().as_raw(),
        std::process::id()
    );
    assert_eq!((&listed["door"], &listed["principal"]), (&"export".into(), &this_process.as_str().into()));
    assert_eq!((&listed["state"], &listed["labels"]["build.ref"]), (&"open".into(), &"abc".into()));
    client.abort(AbortRequest { export_id: id.clone() }).await.unwrap();
    assert_eq!(ps(&["-q"]), "");
    // Who it was is still known of one that has ended.
    let ended: Value = serde_json::from_str(&ps(&["--all", "--json"])).unwrap();
    assert_eq!((&ended["state"], &ended["principal"]), (&"aborted".into(), &this_process.as_str().into()));

    // Without --to it looks where a daemon listens that is started with the same settings.
    assert_eq!(linkspan(["ps", "--all", "-q"]).env("LINKSPAN_EXPORT_LISTEN", &address).ok().stdout.trim(), id);
    // Else it looks as the doctor does; a daemon may have doors for builders only.
    let runtime = tempfile::tempdir().unwrap();
    let own = runtime.path().join("linkspan/buildkit.sock");
    std::fs::create_dir(own.parent().unwrap()).unwrap();
    let other = Linkspan::start_at(stack, &engine, &[stack.buildkit_host()], vec![own]);
    assert_eq!(linkspan(["ps"]).env("XDG_RUNTIME_DIR", text(runtime.path())).ok().stdout.lines().count(), 1);
    // That one does not list what has ended, and says who does.
    let door = other.address();
    let output = linkspan(["ps", "--to", &door]).ok();
    assert_eq!(output.stderr, "", "what is under way is all there");
    let output = linkspan(["ps", "--all", "--to", &door]).ok();
    let note = format!("and {door} is the buildkit door: this daemon has none");
    assert!(output.stderr.contains(&note) && output.stderr.contains("--export-listen"), "{output}");
    drop(other);
    let usual = linkspan(["ps"]).fails();
    assert!(usual.stderr.contains("unix:///run/linkspan/export.sock"), "{usual}");

    let unreachable = linkspan(["ps", "--to", "unix:///no/such/door.sock"]).fails();
    assert_eq!(unreachable.status.code(), Some(1));
    assert!(
        unreachable.stderr.contains("linkspan: error: the exporter API at unix:///no/such/door.sock"),
        "{unreachable}"
    );
}

#[test]
fn what_was_only_read_is_no_aborted_export() {
    let daemon = crate::remote::Daemon::start(&[]);
    let image = crate::fixture::image("read by another process\n");
    let file = crate::archive(&[(&image, crate::named("docker.io/library/read:1"))]);
    daemon.run(&["load", "-q", "-i", text(file.path())]).ok();
    let saved = Stack::shared().fresh_path("-read.tar");
    daemon.run(&["save", "-o", text(&saved), "read:1"]).ok();
    let mut states: Vec<_> = daemon.exports().into_iter().map(|(_, state)| state).collect();
    states.sort();
    assert_eq!(states, ["committed", "read"]);
}
