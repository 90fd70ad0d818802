//! The images that tests begin with.

use std::fs;

use super::{Run, Stack};

/// The image of builders in containers. No registry has it: a pull of the name fails at once, and what the engine holds
/// is used.
pub(crate) const BUILDER_IMAGE: &str = "localhost:1/linkspan/buildkit:test";

impl Stack {
    /// Makes dockerd hold [`BUILDER_IMAGE`]: this machine's buildkitd, buildctl, runc and a shell.
    pub(crate) fn make_builder_image(&self) {
        self.builder_image.get_or_init(|| {
            let root = self.fresh_path("-builder");
            for folder in ["usr/bin", "bin", "tmp", "etc"] {
                fs::create_dir_all(root.join(folder)).unwrap();
            }
            for (from, to) in [
                ("buildkitd", "usr/bin/buildkitd"),
                ("buildctl", "usr/bin/buildctl"),
                ("runc", "usr/bin/buildkit-runc"),
                ("busybox", "bin/busybox"),
            ] {
                fs::copy(self.program(from), root.join(to)).unwrap();
            }
            for applet in ["sh", "cat", "echo", "sleep", "ps", "kill"] {
                std::os::unix::fs::symlink("busybox", root.join("bin").join(applet)).unwrap();
            }
            let tar = root.with_extension("tar");
            Run::new("tar").args(["--owner=0", "--group=0", "-C"]).arg(&root).arg("-cf").arg(&tar).arg(".").ok();
            let changes = ["ENTRYPOINT [\"buildkitd\"]", "ENV PATH=/usr/bin:/bin", "VOLUME /var/lib/buildkit"];
            let changes = changes.iter().flat_map(|change| ["--change", change]);
            self.docker(["import"]).args(changes).arg(&tar).arg(BUILDER_IMAGE).ok();
            fs::remove_file(tar).unwrap();
            fs::remove_dir_all(root).unwrap();
        });
    }

    /// The name of a small base image in the registry: busybox as `/bin/sh` and friends,
    /// in a layer that no builder of this stack has seen before it is pulled.
    pub(crate) fn base_image(&self) -> &str {
        self.base.get_or_init(|| {
            let name = format!("{}/base:latest", self.registry());
            let root = self.fresh_path("-base");
            fs::create_dir_all(root.join("bin")).unwrap();
            fs::copy(self.program("busybox"), root.join("bin/busybox")).unwrap();
            for applet in ["sh", "cat", "echo", "ls", "sleep", "test", "wc", "touch", "mkdir", "head", "tee"] {
                std::os::unix::fs::symlink("busybox", root.join("bin").join(applet)).unwrap();
            }
            let tar = root.with_extension("tar");
            let arguments = ["--sort=name", "--mtime=@0", "--owner=0", "--group=0", "--numeric-owner"];
            Run::new("tar").args(arguments).arg("-C").arg(&root).arg("-cf").arg(&tar).arg("bin").ok();
            self.run("crane").args(["append", "--oci-empty-base", "--insecure", "-t", &name, "-f"]).arg(&tar).ok();
            self.run("crane")
                .args(["mutate", "--insecure", &name, "-t", &name, "--set-platform", "linux/amd64"])
                .args(["--env", "PATH=/bin"])
                .ok();
            name
        })
    }
}
