//! What is seen on a terminal, and what is not written elsewhere.

use std::fs;

use crate::common::{Output, Run, Stack, text};
use crate::fixture::{Image, Layer};
use crate::{archive, image, layout, linkspan, listed, named, on};

const COLUMNS: usize = 80;

/// `linkspan ARGS` on a terminal of a usual size, for which `term` is said.
fn on_terminal(term: &str, args: &[&str]) -> Output {
    let command = [&[env!("CARGO_BIN_EXE_linkspan")], args].concat().join(" ");
    let script = format!("stty cols {COLUMNS} rows 24; exec {command}");
    Run::new("script").args(["-qec", &script, "/dev/null"]).env("TERM", term).env("SHELL", "/bin/sh").output()
}

/// The lines that are seen at the end. Knows what our programs say to a terminal, and nothing else.
fn screen(output: &str) -> Vec<String> {
    let (mut lines, mut row, mut column) = (vec![Vec::<char>::new()], 0_usize, 0_usize);
    let mut letters = output.chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '\r' => column = 0,
            // What is typed for Ctrl-C: no terminal shows it.
            '\u{3}' => {}
            '\n' => row += 1,
            '\u{1b}' => {
                assert_eq!(letters.next(), Some('['), "{output:?}");
                let mut number = String::new();
                while let Some(digit) = letters.next_if(|letter| letter.is_ascii_digit() || *letter == '?') {
                    number.push(digit);
                }
                let count = number.parse().unwrap_or(1);
                match letters.next() {
                    Some('A') => row = row.saturating_sub(count),
                    Some('B') => row += count,
                    Some('K') => lines[row].clear(),
                    // The cursor is hidden or shown.
                    Some('l' | 'h') => {}
                    other => panic!("ESC [{number}{other:?} in {output:?}"),
                }
            }
            letter => {
                // A full line is left by the letter that follows.
                if column == COLUMNS {
                    (row, column) = (row + 1, 0);
                }
                lines.resize(lines.len().max(row + 1), Vec::new());
                let line = &mut lines[row];
                line.resize(line.len().max(column + 1), ' ');
                line[column] = letter;
                column += 1;
            }
        }
        lines.resize(lines.len().max(row + 1), Vec::new());
    }
    let text = |line: Vec<char>| line.into_iter().collect::<String>().trim_end().to_owned();
    let mut lines: Vec<_> = lines.into_iter().map(text).collect();
    while lines.last().is_some_and(String::is_empty) {
        lines.pop();
    }
    lines
}

fn target(folder: &tempfile::TempDir) -> [&str; 4] {
    ["--engine", "layout", "--layout", text(folder.path())]
}

#[test]
fn a_terminal_shows_a_bar_for_each_blob_and_the_result_below_them() {
    let image = image("bars\n");
    let file = archive(&[(&image, named("docker.io/library/bars:1"))]);
    let folder = tempfile::tempdir().unwrap();
    let load = [&["load", "-i", text(file.path())], &target(&folder)[..]].concat();
    let seen = on_terminal("xterm-256color", &load);
    assert!(seen.status.success(), "{seen}");
    let lines = screen(&seen.stdout);
    let [bars @ .., loaded, sent] = &lines[..] else { panic!("{lines:?}") };
    assert_eq!(loaded, "Loaded image: bars:1");
    assert!(sent.starts_with("sent 4 blobs"), "{lines:?}");
    assert_eq!(bars.len(), 2, "a line for each layer: {lines:#?}");
    for layer in &image.layers {
        let bar = bars.iter().find(|bar| bar.starts_with(&layer.digest.hex()[..12]));
        assert!(bar.is_some_and(|bar| bar.contains('█') && bar.ends_with(" sent")), "{lines:#?}");
    }
    // Nothing to be sent, nothing to be drawn.
    let again = screen(&on_terminal("xterm", &load).stdout);
    assert_eq!(again, ["Loaded image: bars:1", "sent 0 blobs (0B); 4 were there"]);
}

#[test]
fn docker_unpacks_what_a_bar_shows() {
    let stack = Stack::shared();
    let file = archive(&[(&image("bars on docker\n"), named("docker.io/library/bars-on-docker:1"))]);
    let load = ["load", "-i", text(file.path()), "--engine", "docker", "--docker-host", stack.docker_host()];
    let lines = screen(&on_terminal("xterm", &load).stdout);
    assert!(lines.iter().any(|line| line.contains('█') && line.ends_with("unpacked")), "{lines:#?}");
    assert_eq!(lines[lines.len() - 2], "Loaded image: bars-on-docker:1", "{lines:#?}");
    assert_eq!(lines.iter().filter(|line| line.starts_with("Loaded image")).count(), 1, "said once: {lines:#?}");
    let last = &lines[lines.len() - 1];
    assert!(last.ends_with("layer unpacked") || last.ends_with("layers unpacked"), "{lines:#?}");
    // In docker's units, which have no space.
    assert!(lines[0].contains("kB/") || lines[0].contains("MB/"), "{lines:#?}");
}

#[test]
fn an_interruption_leaves_the_bars_as_they_are() {
    let large = Layer::new().file("large", "l\n".repeat(24 << 20)).tar();
    let file = archive(&[(&Image::new(&[Layer::busybox().tar(), large]), named("docker.io/library/ended:1"))]);
    let folder = tempfile::tempdir().unwrap();
    let load = [&["load", "-i", text(file.path())], &target(&folder)[..]].concat().join(" ");
    let (program, folder) = (env!("CARGO_BIN_EXE_linkspan"), text(folder.path()));
    // Typed, so that the terminal does with it what terminals do.
    let script = format!(
        "( until test -n \"$(find {folder} -name 'sha256-*' -size +4000k)\"; do sleep 0.05; done; printf '\\003'; sleep 2 ) | \
         script -qec 'trap : INT; stty cols {COLUMNS} rows 24; {program} {load}; echo code $?' /dev/null"
    );
    let seen = Run::new("sh").args(["-c", &script]).env("TERM", "xterm").env("SHELL", "/bin/sh").output();
    let lines = screen(&seen.stdout);
    let [bars @ .., error, code] = &lines[..] else { panic!("{lines:#?}") };
    if code == "code 0" {
        return;
    }
    assert_eq!(code, "code 130", "{lines:#?}");
    assert!(error.ends_with("interrupted; what was sent is kept for the next try"), "{lines:#?}");
    let mut names: Vec<_> = bars.iter().filter(|line| !line.is_empty()).map(|line| &line[..12]).collect();
    let all = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), all, "each bar once: {lines:#?}");
}

#[test]
fn many_blobs_share_a_bar() {
    let layers: Vec<_> = (0..40).map(|n| Layer::new().file(&format!("{n}"), format!("{n}")).tar()).collect();
    let file = archive(&[(&Image::new(&layers), named("docker.io/library/many:1"))]);
    let folder = tempfile::tempdir().unwrap();
    let seen = on_terminal("xterm", &[&["load", "-i", text(file.path())], &target(&folder)[..]].concat());
    let lines = screen(&seen.stdout);
    assert_eq!(lines.len(), 3, "{lines:#?}");
    assert!(lines[0].starts_with("all blobs") && lines[0].ends_with(" 40/40"), "{lines:#?}");
}

#[test]
fn a_failure_stands_below_the_bars() {
    let (image, from) = (image("cut\n"), tempfile::tempdir().unwrap());
    layout(from.path(), &[(&image, named("docker.io/library/cut:1"))]);
    let layer = from.path().join("blobs/sha256").join(image.layers[0].digest.hex());
    let mut bytes = fs::read(&layer).unwrap();
    bytes[1000] ^= 1;
    fs::write(&layer, bytes).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let seen = on_terminal("xterm", &[&["load", "-i", text(from.path())], &target(&folder)[..]].concat());
    let lines = screen(&seen.stdout);
    assert_eq!(seen.status.code(), Some(1), "{lines:#?}");
    assert!(lines.iter().any(|line| line.starts_with("linkspan: error: ")), "{lines:#?}");
    assert_eq!(listed(&folder), []);
}

#[test]
fn what_is_no_screen_gets_lines_or_nothing() {
    let file = archive(&[(&image("lines\n"), named("docker.io/library/lines:1"))]);
    let load = |term: &str, more: &[&str]| {
        let folder = tempfile::tempdir().unwrap();
        on_terminal(term, &[&["load", "-i", text(file.path())], &target(&folder)[..], more].concat()).stdout
    };
    for term in ["dumb", ""] {
        let output = load(term, &[]);
        assert!(!output.contains('\u{1b}') && output.contains("0 blobs are there, 4 to send"), "{term}: {output:?}");
        assert_eq!(output.lines().filter(|line| line.contains(": ")).count(), 3, "a line for each blob: {output:?}");
    }
    assert_eq!(load("xterm", &["--quiet"]), "Loaded image: lines:1\r\n");
    let json = load("xterm", &["--json"]);
    assert!(json.starts_with('{') && json.lines().count() == 1, "{json:?}");
    // Colours are never used, so that there are none to be switched off.
    assert!(!load("xterm", &[]).contains("\u{1b}[3"));

    let folder = tempfile::tempdir().unwrap();
    let piped = on(&folder, &["load", "-i", text(file.path())]).env("TERM", "xterm").ok();
    assert!(!piped.stderr.contains('\u{1b}') && piped.stderr.contains(": sent "), "{piped}");
}

#[test]
fn archives_stay_off_terminals() {
    let file = archive(&[(&image("archive\n"), named("docker.io/library/archive:1"))]);
    let (folder, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    on(&folder, &["load", "-q", "-i", text(file.path())]).ok();
    let refused = on_terminal("xterm", &[&["save", "archive:1"], &target(&folder)[..]].concat());
    assert_eq!(refused.status.code(), Some(1));
    assert!(refused.stdout.contains("an archive is not written to a terminal"), "{refused}");
    let refused = on_terminal("xterm", &[&["load"], &target(&folder)[..]].concat());
    assert!(refused.stdout.contains("standard input is a terminal"), "{refused}");
    let to = out.path().join("a.tar");
    let saved = on_terminal("xterm", &[&["save", "archive:1", "-o", text(&to)], &target(&folder)[..]].concat());
    let lines = screen(&saved.stdout);
    assert_eq!((lines.len(), lines[0].as_str()), (2, "Saved image: archive:1"), "the bar has gone: {lines:#?}");
    linkspan(["load", "-i", text(&to)]).args(target(&out)).fails();
}
