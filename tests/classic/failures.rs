//! When something breaks: the client knows what, no image is half there, nothing is left, and the next export succeeds.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use containerd_client::services::v1::ReadContentResponse;
use prost::Message as _;
use rustix::process::Signal;
use tonic::Code;

use crate::{
    common::{Context, Disk, Part, Run, Running, Stack, until},
    fault_injection::{doubled, flipped, hold_first, is_second_of_layer},
    proxied::{Proxied, application},
    proxy::{Message, Verdict},
};

/// A build that stands still when half of its big layer has come.
fn half(proxied: &Proxied<'_>, context: &Context, name: &str) -> Running {
    proxied.rule(hold_first(is_second_of_layer));
    let running = proxied.export(context, name).spawn();
    proxied.builder.stopped();
    running
}

#[test]
fn what_a_builder_gets_wrong_becomes_no_image() {
    let stack = Stack::classic();
    let proxied = Proxied::new(stack);
    let cut = |_: &Message<'_>| Verdict::End(Code::Ok, "");
    let lost = |_: &Message<'_>| Verdict::End(Code::DataLoss, "the disk has a scratch");
    type Fault = (&'static str, fn(&Message<'_>) -> Verdict, &'static [&'static str]);
    let faults: [Fault; 4] = [
        ("flipped", flipped, &["cannot be unpacked", "sha256:"]),
        ("doubled", doubled, &["bytes of sha256:", "expected 50"]),
        ("cut", cut, &["sent 1048576 bytes of sha256:", "expected 50"]),
        ("lost", lost, &["reading sha256:", "the disk has a scratch"]),
    ];
    for (seed, (fault, what, words)) in faults.into_iter().enumerate() {
        eprintln!("{fault}");
        let context = application(stack, 200 + seed as u64, fault);
        proxied.rule(move |message| if is_second_of_layer(message) { what(message) } else { Verdict::Pass });
        let name = format!("faulty:{fault}");
        let output = proxied.export(&context, &name).fails();
        for word in words {
            assert!(output.stderr.contains(word), "not said: {word}\n{output}");
        }
        proxied.lacks(&name);
        proxied.nothing_is_left();
        proxied.pass();
        proxied.export(&context, &name).ok();
        assert_eq!(proxied.run_image(&name, &[]), fault);
    }
}

/// Not compressed, so that nothing but dockerd's check of the digest can see it.
#[test]
fn a_flipped_byte_of_a_plain_layer_is_seen() {
    let stack = Stack::classic();
    let proxied = Proxied::new(stack);
    let context = application(stack, 210, "flipped\n");
    proxied.rule(|message| {
        if !is_second_of_layer(message) {
            return Verdict::Pass;
        }
        let mut read = ReadContentResponse::decode(message.bytes.clone()).unwrap();
        read.data[1000] ^= 1;
        Verdict::Instead(vec![read.encode_to_vec().into()])
    });
    let output = "type=linkspan,name=flipped:1,compression=uncompressed,force-compression=true";
    let output = proxied.client.build(context.path(), ["-o", output]).fails();
    assert!(output.stderr.contains("is corrupt: invalid diffID"), "{output}");
    proxied.lacks("flipped:1");
    proxied.nothing_is_left();
}

#[test]
fn a_layer_that_vanishes_is_sent_after_all() {
    let stack = Stack::classic();
    let proxied = Proxied::new(stack);
    proxied.export(&application(stack, 220, "one\n"), "vanishing:1").ok();
    let docker = |args: &[&str]| {
        let host = stack.docker_classic_host();
        args.iter().fold(Run::new("docker").env("DOCKER_HOST", host), |run, arg| run.arg(arg))
    };
    let mut remove = Some(docker(&["rmi", "vanishing:1"]));
    let loads = Arc::new(AtomicUsize::new(0));
    let seen = loads.clone();
    proxied.relay.on_load(move || {
        seen.fetch_add(1, Ordering::SeqCst);
        if let Some(remove) = remove.take() {
            remove.ok();
        }
    });
    proxied.relay.take();
    let second = application(stack, 220, "two\n");
    let output = proxied.export(&second, "vanishing:2").ok();
    assert!(output.stderr.contains("which it had when the export began; sending it"), "{output}");
    assert_eq!(loads.load(Ordering::SeqCst), 2);
    assert!(proxied.relay.take().1 > 5_000_000);
    assert_eq!(proxied.run_image("vanishing:2", &[]), "two\n");
    proxied.nothing_is_left();
}

/// A folder that looks like a layer's, of which dockerd knows nothing.
#[test]
fn what_the_store_seems_to_have_does_not_keep_an_image_out() {
    let stack = Stack::classic();
    let proxied = Proxied::new(stack);
    let context = application(stack, 230, "leftover\n");
    proxied.export(&context, "leftover:1").ok();
    let image = proxied.inspect("leftover:1");
    let layers: Vec<_> = image["RootFS"]["Layers"].as_array().unwrap().iter().map(|id| id.as_str().unwrap()).collect();
    let driver = proxied.docker(["info", "--format", "{{.Driver}}"]).ok().stdout;
    proxied.docker(["rmi", "leftover:1"]).ok();
    let chains = stack.state().join("classic/image").join(driver.trim()).join("layerdb/sha256");
    let mut chain = String::new();
    let mut made = Vec::new();
    for layer in layers {
        chain = if chain.is_empty() { layer.to_owned() } else { sha256(&format!("{chain} {layer}")) };
        let folder = chains.join(chain.strip_prefix("sha256:").unwrap());
        if !folder.exists() {
            std::fs::create_dir(&folder).unwrap();
            made.push(folder);
        }
    }
    assert!(made.len() >= 2);
    // Out of the way before dockerd puts the real ones there.
    let mut loads = 0;
    proxied.relay.on_load(move || {
        loads += 1;
        if loads == 2 {
            made.iter().for_each(|folder| std::fs::remove_dir(folder).unwrap());
        }
    });
    proxied.export(&context, "leftover:2").ok();
    assert_eq!(proxied.relay.take().0, 1 + 2, "the first, and two plans");
    assert_eq!(proxied.run_image("leftover:2", &[]), "leftover\n");
}

fn sha256(text: &str) -> String {
    linkspan::image::Digest::sha256(text.as_bytes()).to_string()
}

#[test]
fn a_client_that_goes_away_leaves_nothing() {
    let stack = Stack::classic();
    let proxied = Proxied::new(stack);
    let context = application(stack, 240, "cancelled\n");
    let running = half(&proxied, &context, "cancelled:1");
    running.signal(Signal::INT);
    running.wait();
    proxied.nothing_is_left();
    proxied.lacks("cancelled:1");
    proxied.builder.release();
    proxied.pass();
    proxied.export(&context, "cancelled:1").ok();
    assert_eq!(proxied.run_image("cancelled:1", &[]), "cancelled\n");
}

#[test]
fn docker_is_killed_while_it_is_loading() {
    let stack = Stack::start(&[Part::DockerdClassic, Part::Buildkitd, Part::Registry]);
    let proxied = Proxied::new(&stack);
    let context = application(&stack, 250, "killed\n");
    let running = half(&proxied, &context, "killed:1");
    stack.kill(Part::DockerdClassic);
    proxied.builder.release();
    let output = running.wait();
    assert!(!output.status.success(), "{output}");
    assert!(output.stderr.contains("docker does not respond at unix://"), "{output}");
    proxied.export(&context, "killed:1").fails();
    stack.up();
    proxied.lacks("killed:1");
    proxied.nothing_is_left();
    proxied.pass();
    proxied.export(&context, "killed:1").ok();
    assert_eq!(proxied.run_image("killed:1", &[]), "killed\n");
}

/// As an authorization plugin has it (moby `daemon/server/middleware`): no byte of the archive is read, and the connection
/// ends while it is being sent. The words are what counts, and not that the connection broke.
#[test]
fn a_refusal_that_does_not_wait_for_the_image_is_received() {
    let stack = Stack::classic();
    let proxied = Proxied::new(stack);
    let words = "authorization denied by plugin opa: not on a Saturday";
    proxied.relay.respond("403 Forbidden", words);
    for seed in 0..5 {
        let context = application(stack, 280 + seed, "refused\n");
        let output = proxied.export(&context, "refused:1").fails();
        assert!(output.stderr.contains(&format!("docker refused the image: {words}")), "{output}");
        proxied.lacks("refused:1");
    }
    proxied.relay.accept();
    proxied.export(&application(stack, 280, "refused\n"), "refused:1").ok();
    assert_eq!(proxied.run_image("refused:1", &[]), "refused\n");
}

#[test]
fn an_image_does_not_fit() {
    const MIB: u64 = 1 << 20;
    let disk = Disk::new(96 * MIB);
    let stack = Stack::start_below(&disk.root(), &[Part::DockerdClassic]);
    let builders = Stack::classic();
    let proxied = Proxied::between(builders, &stack, &[]);
    let context = Context::new(&format!("FROM {}\nCOPY big /big\n", builders.base_image())).noise("big", 12 << 20, 290);
    // Not enough for the archive; enough for that, but not for unpacking it as well.
    for free in [6 * MIB, 18 * MIB] {
        disk.fill(free);
        let output = proxied.export(&context, "large:1").fails();
        for words in ["the engine's disk is full", "no space left on device", "docker image prune"] {
            assert!(output.stderr.contains(words), "not said: {words}\n{output}");
        }
        proxied.lacks("large:1");
        proxied.nothing_is_left();
        until("what was written to be deleted", || disk.available(), |available| *available > free - 2 * MIB);
    }
    disk.clear();
    proxied.export(&context, "large:1").ok();
    assert_eq!(proxied.run_image("large:1", &["wc", "-c", "/big"]).split(' ').next(), Some("12582912"));
}

#[test]
fn a_name_that_docker_does_not_give_is_an_error() {
    let stack = Stack::classic();
    let proxied = Proxied::new(stack);
    let context = application(stack, 260, "named\n");
    // dockerd says that it loaded this, and does not.
    let output = proxied.export(&context, "sha256:latest").fails();
    assert!(output.stderr.contains("docker refused the image: it did not give the image the name"), "{output}");
    proxied.nothing_is_left();
}

#[test]
fn the_store_is_switched_over_while_linkspan_runs() {
    let stack = Stack::start(&[Part::Dockerd, Part::DockerdClassic, Part::Buildkitd, Part::Registry]);
    let proxied = Proxied::new(&stack);
    let context = application(&stack, 270, "switched\n");
    proxied.relay.point_at(stack.docker_host());
    let output = proxied.export(&context, "switched:1").fails();
    assert!(output.stderr.contains("uses the containerd image store"), "{output}");
    assert!(output.stderr.contains("restart linkspan"), "{output}");
    assert_eq!(proxied.relay.take(), (0, 0));
}
