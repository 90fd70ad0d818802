//! What `scripts/package` makes, and that it is made in the same way again.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use crate::common::{self, Run};

/// The packages of a small program that does as the real one does: these have the same files, without its bytes.
fn packages(out: &Path) -> (PathBuf, PathBuf) {
    let program = out.join("program");
    fs::create_dir_all(out).unwrap();
    fs::write(&program, format!("#!/bin/sh\nexec {} \"$@\"\n", env!("CARGO_BIN_EXE_linkspan"))).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/package");
    let run =
        Run::new(script).env("SOURCE_DATE_EPOCH", "1700000000").arg("--binary").arg(&program).arg("--out").arg(out);
    let made: Vec<_> = run.ok().stdout.lines().map(PathBuf::from).collect();
    let [tar, deb] = &made[..] else { panic!("{made:?}") };
    (tar.clone(), deb.clone())
}

/// The commands that the program's help names, as words: `cache ls`.
fn commands(above: &[&str]) -> Vec<String> {
    let help = common::linkspan(above.iter().copied().chain(["--help"])).ok().stdout;
    let Some((_, listed)) = help.split_once("\nCommands:\n") else { return vec![above.join(" ")] };
    let names = listed.lines().take_while(|line| line.starts_with("  ")).filter(|line| !line.starts_with("   "));
    let names = names.filter_map(|line| line.split_whitespace().next()).filter(|name| *name != "help");
    let below = names.flat_map(|name| commands(&[above, &[name]].concat()));
    [above.join(" ")].into_iter().chain(below).collect()
}

#[test]
fn every_command_has_a_manual_page_and_pages_and_completions_are_sound() {
    let folder = tempfile::tempdir().unwrap();
    let (_, deb) = packages(&folder.path().join("out"));
    let root = folder.path().join("root");
    Run::new("dpkg-deb").arg("-x").args([&deb, &root]).ok();
    let pages = root.join("usr/share/man/man1");
    let commands = commands(&[]);
    assert!(
        ["serve", "cache ls", "setup plugin"].iter().all(|name| commands.contains(&(*name).to_owned())),
        "{commands:?}"
    );
    for command in &commands {
        let name =
            if command.is_empty() { "linkspan".to_owned() } else { format!("linkspan-{}", command.replace(' ', "-")) };
        let page = pages.join(format!("{name}.1.gz"));
        let check = "man --warnings -E UTF-8 -l -Tutf8 -Z \"$0\" >/dev/null";
        let output = Run::new("sh").args(["-c", check]).arg(&page).env("LC_ALL", "C.UTF-8").env("MANROFFSEQ", "").ok();
        assert_eq!(output.stderr, "", "{command}");
    }
    assert_eq!(fs::read_dir(&pages).unwrap().count(), commands.len(), "{commands:?}");

    let completion = root.join("usr/share/bash-completion/completions/linkspan");
    let words = "source \"$0\"; COMP_WORDS=(linkspan doc); COMP_CWORD=1; _linkspan linkspan doc linkspan; echo \"${COMPREPLY[@]}\"";
    assert_eq!(Run::new("bash").args(["-c", words]).arg(&completion).ok().stdout, "doctor\n");
    for script in ["usr/share/zsh/vendor-completions/_linkspan", "usr/share/fish/vendor_completions.d/linkspan.fish"] {
        assert!(fs::read_to_string(root.join(script)).unwrap().contains("dry-run"), "{script}");
    }
}

#[test]
fn the_same_sources_make_the_same_packages() {
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    // The program's own text has no path of the folder.
    let (first, second) = (packages(one.path()), packages(other.path()));
    for (first, second) in [(&first.0, &second.0), (&first.1, &second.1)] {
        assert_eq!(first.file_name(), second.file_name());
        assert!(fs::read(first).unwrap() == fs::read(second).unwrap(), "{}", first.display());
    }
}

#[test]
fn packages_have_their_program_in_place_and_their_units_name_it() {
    let folder = tempfile::tempdir().unwrap();
    let (tar, deb) = packages(&folder.path().join("out"));
    let (local, root) = (folder.path().join("local"), folder.path().join("root"));
    fs::create_dir(&local).unwrap();
    Run::new("tar").args(["--strip-components=1", "-xzf"]).arg(&tar).arg("-C").arg(&local).ok();
    Run::new("dpkg-deb").arg("-x").args([&deb, &root]).ok();
    for (top, start) in [(&local, "/usr/local/bin/linkspan"), (&root.join("usr"), "/usr/bin/linkspan")] {
        let unit = fs::read_to_string(top.join("lib/systemd/system/linkspan.service")).unwrap();
        assert!(unit.contains(&format!("\nExecStart={start} serve\n")), "{unit}");
        let socket = fs::read_to_string(top.join("lib/systemd/system/linkspan.socket")).unwrap();
        assert!(socket.contains("\nBefore=docker.service\n"), "{socket}");
        let plugin = top.join("libexec/docker/cli-plugins/docker-linkspan");
        assert_eq!(plugin.canonicalize().unwrap(), top.join("bin/linkspan").canonicalize().unwrap());
        let help = Run::new(top.join("sbin/linkspan-take-over")).arg("--help").ok().stdout;
        assert!(help.contains("--undo"), "{help}");
    }
    let control = Run::new("dpkg-deb").args(["-f"]).arg(&deb).ok().stdout;
    for field in ["Package: linkspan\n", "Architecture: ", "Depends: ", "Maintainer: "] {
        assert!(control.contains(field), "{control}");
    }
    let sums = Run::new("dpkg-deb").args(["-I"]).arg(&deb).arg("md5sums").ok().stdout;
    let checked = Run::new("md5sum").args(["-c", "--quiet"]).dir(&root).stdin(sums).ok();
    assert_eq!(checked.stdout, "");
    assert_eq!(Run::new("dpkg-deb").arg("-I").arg(&deb).arg("conffiles").ok().stdout, "/etc/linkspan/config.toml\n");
}

#[test]
fn what_cannot_be_packaged_is_said() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/package");
    let output = Run::new(&script).args(["--binary", "/absent/linkspan"]).fails();
    assert!(output.stderr.contains("/absent/linkspan is no program") && output.stderr.contains("hint: "), "{output}");
    let output = Run::new(&script).env("SOURCE_DATE_EPOCH", "today").args(["--binary", "/bin/true"]).fails();
    assert!(output.stderr.contains("SOURCE_DATE_EPOCH"), "{output}");
    assert!(Run::new(&script).arg("--help").ok().stdout.contains("examples:"));
}
