//! The sockets that units of systemd name.

use std::path::{Path, PathBuf};

use crate::proxy::Address;

/// What was named.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Named {
    /// Sockets.
    pub(super) addresses: Vec<Address>,
    /// Configuration files.
    pub(super) configs: Vec<PathBuf>,
}

/// Where a value stands, and what it is of: settings that name doors.
const DOORS: [(&str, &str); 3] = [
    ("--docker-listen", "LINKSPAN_DOCKER_LISTEN"),
    ("--buildkit-listen", "LINKSPAN_BUILDKIT_LISTEN"),
    ("--export-listen", "LINKSPAN_EXPORT_LISTEN"),
];
const CONFIG: (&str, &str) = ("--config", "LINKSPAN_CONFIG");

/// Reads a unit or a drop-in; `runtime` is what `%t` stands for (systemd.unit(5), "Specifiers").
pub(super) fn read(text: &str, runtime: &Path, named: &mut Named) {
    // A backslash at its end continues a line (systemd.syntax(7)).
    let text = text.replace("\\\n", " ").replace("%t", &runtime.display().to_string());
    for line in text.lines().map(str::trim) {
        let Some((key, value)) = line.split_once('=') else { continue };
        let (key, words) = (key.trim_end(), words(value));
        match key {
            "ListenStream" => named.addresses.extend(words.first().and_then(|word| address(word))),
            "Environment" => {
                for (name, value) in words.iter().filter_map(|word| word.split_once('=')) {
                    if DOORS.iter().any(|(_, variable)| *variable == name) {
                        named.addresses.extend(value.split(',').filter_map(|one| address(one.trim())));
                    } else if name == CONFIG.1 {
                        named.configs.push(value.into());
                    }
                }
            }
            "ExecStart" => flags(&words, named),
            _ => {}
        }
    }
}

/// Reads `--flag VALUE` and `--flag=VALUE`.
fn flags(words: &[String], named: &mut Named) {
    let mut words = words.iter().map(String::as_str);
    while let Some(word) = words.next() {
        let (flag, value) = word.split_once('=').map_or((word, None), |(flag, value)| (flag, Some(value)));
        if DOORS.iter().any(|(door, _)| *door == flag) {
            named.addresses.extend(value.or_else(|| words.next()).and_then(address));
        } else if flag == CONFIG.0 {
            named.configs.extend(value.or_else(|| words.next()).map(PathBuf::from));
        }
    }
}

/// A door's address; a path alone is one of a unix socket. Those in systemd's abstract and other forms are none of ours.
fn address(text: &str) -> Option<Address> {
    (text.starts_with('/') || text.contains("://")).then(|| text.parse().ok()).flatten()
}

/// The words of a value, with the quotes around them or in them taken away.
fn words(value: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for letter in value.chars() {
        match (letter, quote) {
            ('"' | '\'', None) => {
                quote = Some(letter);
                word.get_or_insert_default();
            }
            (_, Some(open)) if open == letter => quote = None,
            (' ' | '\t', None) => words.extend(word.take()),
            _ => word.get_or_insert_default().push(letter),
        }
    }
    words.extend(word);
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_of_naming_a_door_is_read() {
        let text = "[Service]\n\
            Environment=LINKSPAN_DOCKER_LISTEN=unix:///run/docker.sock\n\
            Environment=\"LINKSPAN_BUILDKIT_LISTEN=unix:///a, unix:///b\" 'OTHER=x'\n\
            ExecStart=/usr/local/bin/linkspan serve --export-listen=%t/e.sock \\\n  --docker-listen unix:///d --config /c.toml\n\
            [Socket]\nListenStream=\nListenStream=/run/linkspan/s.sock\nListenStream=@abstract\n";
        let mut named = Named::default();
        read(text, Path::new("/run"), &mut named);
        let addresses: Vec<_> = named.addresses.iter().map(Address::to_string).collect();
        let expected = ["docker.sock", "", "", "e.sock", "", "linkspan/s.sock"];
        let expected = expected
            .iter()
            .zip(["", "a", "b", "", "d", ""])
            .map(|(run, other)| if run.is_empty() { format!("unix:///{other}") } else { format!("unix:///run/{run}") });
        assert_eq!(addresses, expected.collect::<Vec<_>>());
        assert_eq!(named.configs, [PathBuf::from("/c.toml")]);
    }
}
