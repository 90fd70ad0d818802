//! What a load leaves that was killed or interrupted, and who clears it away.

use std::fs;

use rustix::process::Signal;
use serde_json::Value;
use tempfile::NamedTempFile;

use crate::common::{Output, Stack, text, until};
use crate::fixture::{Image, Layer};
use crate::{archive, image, linkspan, listed, named, on};

/// An image with a layer that arrives soon and one that takes a while; `salt` makes it another one.
fn slow(salt: usize) -> (Image, NamedTempFile) {
    let small = Layer::new().file("small", format!("{salt}\n")).tar();
    let large = Layer::new().file("large", format!("{salt}\n").repeat(12 << 20)).tar();
    let image = Image::new(&[small, large]);
    let file = archive(&[(&image, named("docker.io/library/slow:1"))]);
    (image, file)
}

/// An engine of the stack: its flags, and the namespace of its blobs.
struct Target<'a> {
    flags: Vec<&'a str>,
    namespace: &'a str,
}

impl Target<'_> {
    fn containerd<'a>(namespace: &'a str) -> Target<'a> {
        Target { flags: Stack::shared().containerd_flags(namespace).to_vec(), namespace }
    }

    fn leases(&self) -> Vec<String> {
        let leases = Stack::shared().ctr(self.namespace, ["leases", "list", "--quiet"]).ok().lines();
        leases.into_iter().filter(|lease| lease.starts_with("linkspan-cli-")).collect()
    }

    fn holds(&self, image: &Image, layer: usize) -> bool {
        let found = Stack::shared().ctr(self.namespace, ["content", "list", "--quiet"]).ok().stdout;
        found.contains(image.layers[layer].digest.as_str())
    }

    /// Begins to load, and sends `signal` when the first layer has arrived and the second has not. A machine that is busy
    /// may look too late: the load is then completed, its image removed, and another one tried.
    fn ended_by(&self, signal: Signal) -> (NamedTempFile, Output) {
        for salt in 0..20 {
            let (image, file) = slow(salt);
            let loading = linkspan(["load", "-i", text(file.path())]).args(&self.flags).spawn();
            until("the first layer to arrive", || self.holds(&image, 0), |there| *there);
            loading.signal(signal);
            let output = loading.wait();
            if !output.status.success() && !self.holds(&image, 1) {
                return (file, output);
            }
            self.load(&file);
            linkspan(["rm", "slow:1"]).args(&self.flags).ok();
        }
        panic!("every load ended before the signal came");
    }

    fn load(&self, file: &NamedTempFile) -> Value {
        let output = linkspan(["load", "--json", "-i", text(file.path())]).args(&self.flags).ok();
        serde_json::from_str(&output.stdout).unwrap()
    }
}

#[test]
fn the_next_command_releases_what_a_killed_one_left() {
    let target = Target::containerd("left-killed");
    target.ended_by(Signal::KILL);
    assert_eq!(target.leases().len(), 1, "that is what a killed process leaves");
    linkspan(["images"]).args(&target.flags).ok();
    assert_eq!(target.leases(), [""; 0]);

    // One that lives keeps its own.
    let (file, _) = target.ended_by(Signal::KILL);
    let (image, other) = slow(99);
    let living = linkspan(["load", "-i", text(other.path())]).args(&target.flags).spawn();
    until("the first layer to arrive", || target.holds(&image, 0), |there| *there);
    target.load(&file);
    living.wait();
    assert_eq!(target.leases(), [""; 0], "both have ended well");
    linkspan(["digest", "slow:1"]).args(&target.flags).ok();
}

#[test]
fn docker_frees_what_a_killed_load_sent_when_the_next_one_is_removed() {
    let stack = Stack::shared();
    let flags = stack.docker_flags().to_vec();
    let target = Target { flags, namespace: "moby" };
    let (file, _) = target.ended_by(Signal::KILL);
    let sent = target.load(&file);
    let of_dead = |target: &Target<'_>| target.leases();
    // Other tests of this stack load, too; their leases go by themselves.
    until("no lease to be left", || of_dead(&target), Vec::is_empty);
    stack.docker(["rmi", "-f", "slow:1"]).ok();
    let digest = sent["digest"].as_str().unwrap();
    let content = || stack.ctr("moby", ["content", "list", "--quiet"]).ok().stdout;
    until("the image to be freed", content, |content| !content.contains(digest));
}

#[test]
fn what_an_interrupted_load_sent_is_kept_for_the_next() {
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let namespace = format!("left-{code}");
        let target = Target::containerd(&namespace);
        let (file, output) = target.ended_by(signal);
        assert_eq!(output.status.code(), Some(code), "{output}");
        assert!(output.stderr.contains("interrupted; what was sent is kept for the next try"), "{output}");
        assert_eq!(target.leases().len(), 1);
        assert!(target.leases()[0].ends_with("-kept"), "{:?}", target.leases());
        // Who only looks sees nothing of it, and takes nothing away.
        assert_eq!(linkspan(["images", "-q"]).args(&target.flags).ok().stdout, "");
        let sent = target.load(&file);
        assert!(sent["sentBlobs"].as_u64().unwrap() < 4 && sent["presentBlobs"].as_u64().unwrap() > 0, "{sent}");
        assert_eq!(target.leases(), [""; 0], "it has served its purpose");
    }
}

#[test]
fn a_layout_is_cleared_of_the_dead_and_keeps_what_was_interrupted() {
    let folder = tempfile::tempdir().unwrap();
    let (small, file) = (image("small\n"), slow(7).1);
    let first = archive(&[(&small, named("docker.io/library/small:1"))]);
    on(&folder, &["load", "-q", "-i", text(first.path())]).ok();
    let own = |name: &str| fs::read_dir(folder.path().join(".linkspan").join(name)).unwrap().count();
    let part = || {
        let entries = fs::read_dir(folder.path().join(".linkspan/ingest")).unwrap();
        entries.map(|entry| entry.unwrap().metadata().map_or(0, |found| found.len())).max().unwrap_or(0)
    };
    for signal in [Signal::KILL, Signal::INT] {
        let before = part();
        let loading = on(&folder, &["load", "-i", text(file.path())]).spawn();
        until("a part to arrive", part, |part| *part > before.max(1 << 20));
        loading.signal(signal);
        let output = loading.wait();
        assert!(!output.status.success(), "{output}");
        on(&folder, &["images"]).ok();
        assert_eq!(own("leases"), 0, "{signal:?}");
        assert!(part() > 1 << 20, "it is resumed");
    }
    on(&folder, &["load", "-q", "-i", text(file.path())]).ok();
    assert_eq!(listed(&folder).len(), 2);
}
