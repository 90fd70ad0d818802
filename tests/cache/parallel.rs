//! Builders that write one cache at the same time.

use std::fs;
use std::path::PathBuf;

use serde_json::Value;

use crate::common::{Builder, Buildkitd, Context, Linkspan, Run, Stack, cached_steps, linkspan, text};

const PLATFORMS: [&str; 2] = ["linux/amd64", "linux/arm64"];

/// Two builders behind one Linkspan, which has a door for each.
struct Rig {
    stack: &'static Stack,
    builders: Vec<Builder<'static>>,
    context: Context,
    _linkspan: Linkspan,
    _buildkitds: [Buildkitd; 2],
}

impl Rig {
    fn new() -> Self {
        let stack = Stack::shared();
        let buildkitds = [(); 2].map(|()| Buildkitd::start(stack, "buildkitd"));
        let addresses = buildkitds.each_ref().map(Buildkitd::address);
        let linkspan = Linkspan::start(stack, &stack.docker_flags(), &addresses.each_ref().map(String::as_str));
        let doors = linkspan.doors().iter().map(|door| format!("unix://{}", door.display()));
        // Steps run on the builder's own platform, for each platform and each builder anew.
        let dockerfile = format!(
            "FROM --platform=$BUILDPLATFORM {} AS make\nARG TARGETARCH\nARG BUILDER\n\
             RUN echo $TARGETARCH $BUILDER $(cat /proc/sys/kernel/random/uuid) > /made\n\
             FROM scratch\nCOPY noise /noise\nCOPY --from=make /made /made\n",
            stack.base_image()
        );
        Self {
            stack,
            builders: doors.map(|door| stack.builder(&door)).collect(),
            context: Context::new(&dockerfile).noise("noise", 3 << 20, 31),
            _linkspan: linkspan,
            _buildkitds: buildkitds,
        }
    }

    /// A build on the builder `at` of what the builder `number` has built for `platform`, and where its files go.
    fn build(&self, at: usize, number: usize, platform: &str, cache: [&str; 2]) -> (Run, PathBuf) {
        let (out, number) = (self.stack.fresh_path("-out"), format!("BUILDER={number}"));
        let to = format!("type=local,dest={}", text(&out));
        let args = ["--platform", platform, "--build-arg", &number, "-o", &to];
        (self.builders[at].build(self.context.path(), args).args(cache), out)
    }

    /// All four builds at once; what each has made.
    #[track_caller]
    fn export(&self, to: &str) -> Vec<(usize, &'static str, String)> {
        let all = (0..2).flat_map(|number| PLATFORMS.map(|platform| (number, platform)));
        let running: Vec<_> = all
            .map(|(number, platform)| {
                let (run, out) = self.build(number, number, platform, ["--cache-to", to]);
                (number, platform, run.spawn(), out)
            })
            .collect();
        let ended = running.into_iter().map(|(number, platform, running, out)| {
            let output = running.wait();
            assert!(output.status.success(), "{output}");
            (number, platform, fs::read_to_string(out.join("made")).unwrap())
        });
        ended.collect()
    }

    fn prune(&self) {
        self.builders.iter().for_each(|builder| builder.prune());
    }

    /// The versions of a cache, as `inspect` shows them; all are whole.
    #[track_caller]
    fn versions(&self, reference: &str) -> Vec<Value> {
        let output = linkspan(["cache", "inspect", reference]).args(self.stack.docker_flags()).ok();
        let versions: Vec<Value> = serde_json::from_str(&output.stdout).unwrap();
        assert!(versions.iter().all(|version| version["missingLayers"] == 0), "{output}");
        versions
    }
}

#[test]
fn two_builders_write_the_parts_of_two_platforms_at_once_and_all_of_them_come_back() {
    let rig = Rig::new();
    let built = rig.export("type=linkspan,ref=parallel/all,mode=max,keep=2");
    let mut parts: Vec<_> =
        rig.versions("parallel/all").iter().map(|it| it["of"].as_str().unwrap().to_owned()).collect();
    parts.sort();
    assert_eq!(parts, ["linux/amd64", "linux/amd64", "linux/arm64", "linux/arm64"]);
    rig.prune();
    for (number, platform, made) in built {
        // On the builder that has not made it.
        let from = ["--cache-from", "type=linkspan,ref=parallel/all"];
        let (run, out) = rig.build(1 - number, number, platform, from);
        let output = run.ok();
        assert_eq!(fs::read_to_string(out.join("made")).unwrap(), made, "{output}");
        assert_eq!(cached_steps(&output), 3, "{output}");
    }
}

#[test]
fn of_two_builders_that_write_one_part_at_once_the_cache_keeps_one_version() {
    let rig = Rig::new();
    let built = rig.export("type=linkspan,ref=parallel/one,mode=max");
    let versions = rig.versions("parallel/one");
    assert_eq!(versions.len(), 2, "{versions:?}");
    rig.prune();
    for platform in PLATFORMS {
        let of_platform: Vec<_> = built.iter().filter(|(_, of, _)| *of == platform).collect();
        let came_back = of_platform.iter().filter(|(number, _, made)| {
            let (run, out) =
                rig.build(1 - number, *number, platform, ["--cache-from", "type=linkspan,ref=parallel/one"]);
            run.ok();
            fs::read_to_string(out.join("made")).unwrap() == *made
        });
        assert_eq!(came_back.count(), 1, "{platform}: {versions:?}");
    }
}
