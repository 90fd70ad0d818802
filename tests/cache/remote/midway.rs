//! A daemon or a command that ends while a cache is copied.

use rustix::process::Signal;

use super::*;

/// How often the text of a large layer is repeated.
const LARGE: usize = 1 << 19;

/// A folder with a cache that takes a while to be sent: each layer is another one.
pub(crate) async fn large(stack: &Stack, layers: usize) -> std::path::PathBuf {
    let folder = stack.fresh_path("-large");
    let caches = caches(&*select(&Selection::layout(&folder)).await.unwrap().engine);
    let texts: Vec<_> = (0..layers).map(|at| format!("large layer {at} ").repeat(LARGE)).collect();
    let texts: Vec<_> = texts.iter().map(String::as_str).collect();
    store(&caches, "large", "linux/amd64", &texts, MANIFEST).await;
    folder
}

/// Waits until some bytes of an export have arrived below a layout.
pub(crate) fn until_half_way(layout: &Path) {
    fn bytes(folder: &Path) -> u64 {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        let size = |path: std::path::PathBuf| match path.is_dir() {
            true => bytes(&path),
            false => path.metadata().map_or(0, |file| file.len()),
        };
        entries.map(|entry| size(entry.path())).sum()
    }
    until("some bytes to arrive", || bytes(layout), |bytes| *bytes > 8 << 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_whose_daemon_or_process_ends_midway_is_gone_on_with() {
    let folder = large(Stack::shared(), 6).await;
    let import = ["import", "--json", text(&folder), "large"];
    for end in ["daemon", "interrupted", "killed"] {
        let (mut server, layout) = Server::layout();
        let importing = server.through(&import).spawn();
        until_half_way(&layout);
        match end {
            "daemon" => server.linkspan.kill(),
            "interrupted" => importing.signal(Signal::INT),
            _ => importing.signal(Signal::KILL),
        }
        let failed = importing.wait();
        match end {
            "daemon" => {
                assert_eq!(failed.status.code(), Some(1), "{failed}");
                assert!(failed.stderr.contains("went away"), "{failed}");
                assert!(
                    failed.stderr.contains("hint: ") && failed.stderr.contains("run the command again"),
                    "{failed}"
                );
                server.restart();
            }
            "interrupted" => {
                assert_eq!(failed.status.code(), Some(130), "{failed}");
                assert!(failed.stderr.contains("interrupted; what was sent is kept for the next try"), "{failed}");
            }
            _ => assert_eq!(failed.status.code(), None, "{failed}"),
        }
        assert_eq!(server.through(&["ls", "-q"]).ok().stdout, "", "{end}: nothing is half visible");
        let open = linkspan(["ps", "--json", "--to", &server.linkspan.address()]).ok();
        let open: Vec<_> = open.lines().iter().map(|line| json_of(line)).collect();
        assert_eq!((open.len(), &open[0]["names"]), (1, &json!(["cache large"])), "{end}: {open:?}");
        let again = json_of(&server.through(&import).ok().stdout);
        let total = ("large layer 0 ".len() * LARGE * 6) as u64;
        assert!(again["versions"][0]["copied"].as_u64().unwrap() < total, "{end}: {again}");
        assert_eq!(server.through(&["ls", "-q"]).ok().lines().len(), 1);
        server.until_released();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_whose_daemon_ends_midway_leaves_nothing_and_can_be_repeated() {
    let (mut server, _) = Server::layout();
    let folder = large(server.stack, 6).await;
    server.through(&["import", text(&folder), "large"]).ok();
    let (to, whole) = (server.stack.fresh_path("-to"), server.stack.fresh_path("-whole"));
    let exporting = server.through(&["export", "large", text(&to)]).spawn();
    until_half_way(&to);
    server.linkspan.kill();
    let failed = exporting.wait();
    assert_eq!(failed.status.code(), Some(1), "{failed}");
    assert!(failed.stderr.contains("linkspan: error: ") && failed.stderr.contains("linkspan: hint: "), "{failed}");
    assert!(!to.exists(), "it was made by this command");
    server.restart();
    server.through(&["export", "large", text(&to)]).ok();
    server.direct(&["export", "large", text(&whole)]).ok();
    assert_eq!(content(&to), content(&whole));
    server.until_released();
}

#[tokio::test(flavor = "multi_thread")]
async fn two_imports_of_one_cache_at_once_both_succeed() {
    let (server, _) = Server::layout();
    let folder = large(server.stack, 3).await;
    let import = ["import", "--json", text(&folder), "large"];
    let both = [server.through(&import).spawn(), server.through(&import).spawn()];
    for running in both {
        let output = running.wait();
        assert!(output.status.success(), "{output}");
    }
    assert_eq!(server.through(&["ls", "-q"]).ok().lines().len(), 1);
    // A version that was removed is imported anew, although the results of its export are remembered.
    server.through(&["rm", "large"]).ok();
    server.through(&import).ok();
    assert_eq!(server.through(&["ls", "-q"]).ok().lines().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_direct_export_whose_version_is_deleted_midway_copies_all_of_it() {
    let folder = large(Stack::shared(), 8).await;
    let namespace = "midway-deleted";
    for (engine, server, _) in servers(namespace).await {
        let stack = server.stack;
        let whole = stack.fresh_path("-whole");
        server.direct(&["import", text(&folder), "midway/large"]).ok();
        server.direct(&["export", "midway/large", text(&whole)]).ok();
        for end in ["completed", "killed"] {
            let to = stack.fresh_path("-to");
            let exporting = server.direct(&["export", "midway/large", text(&to)]).spawn();
            until_half_way(&to);
            exporting.signal(Signal::STOP);
            let index = json_of(&fs::read_to_string(to.join("index.json")).unwrap());
            assert_eq!(index["manifests"], json!([]), "{engine}: it had ended already");
            server.direct(&["rm", "midway/large"]).ok();
            match engine {
                "containerd" => stack.collect_garbage(namespace),
                "docker" => stack.collect_garbage("moby"),
                _ => {}
            }
            if end == "killed" {
                exporting.signal(Signal::KILL);
                exporting.wait();
            } else {
                exporting.signal(Signal::CONT);
                let exported = exporting.wait();
                assert!(exported.status.success(), "{engine}: {exported}");
                assert_eq!(content(&to), content(&whole), "{engine}");
            }
            // The next command that changes the engine releases what a killed one left.
            server.direct(&["import", text(&folder), "midway/large"]).ok();
            match engine {
                "containerd" => assert_eq!(stack.leases(namespace).len(), 1, "{end}: {:?}", stack.leases(namespace)),
                "layout" => server.until_released(),
                // It has leases of other tests.
                _ => {}
            }
        }
        server.direct(&["rm", "midway/large"]).ok();
    }
}
