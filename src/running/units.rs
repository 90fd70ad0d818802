//! The sockets that systemd units name.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::net::Address;

/// The values that were found.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Named {
    /// Sockets.
    pub(super) addresses: Vec<Address>,
    /// Configuration files.
    pub(super) configs: Vec<PathBuf>,
}

/// The settings that name doors, in each form.
const DOORS: [(&str, &str); 4] = [
    ("--docker-listen", "LINKSPAN_DOCKER_LISTEN"),
    ("--buildkit-listen", "LINKSPAN_BUILDKIT_LISTEN"),
    ("--export-listen", "LINKSPAN_EXPORT_LISTEN"),
    ("--registry-listen", "LINKSPAN_REGISTRY_LISTEN"),
];
const CONFIG: (&str, &str) = ("--config", "LINKSPAN_CONFIG");

/// The assignments of a unit. An empty assignment resets the list (systemd.syntax(7)).
#[derive(Debug, Default)]
struct Unit {
    listens: Vec<Address>,
    environment: Vec<(String, String)>,
    files: Vec<PathBuf>,
    commands: Vec<Vec<String>>,
}

/// Reads a unit: its own text and its drop-ins, in order. `runtime` replaces `%t` (systemd.unit(5), "Specifiers"), and `file`
/// reads a file that the unit names.
pub(super) fn read(texts: &[String], runtime: &Path, file: &dyn Fn(&Path) -> Option<String>) -> Named {
    let mut unit = Unit::default();
    for text in texts {
        unit.read(&text.replace("%t", &runtime.display().to_string()));
    }
    let mut named = Named { addresses: unit.listens, configs: Vec::new() };
    // Later assignments win, and those of files over all others (systemd.exec(5), "EnvironmentFile=").
    let mut environment = unit.environment;
    for text in unit.files.iter().filter_map(|path| file(path)) {
        environment.extend(assignments(&text));
    }
    let environment: BTreeMap<_, _> = environment.into_iter().collect();
    for (_, variable) in DOORS {
        let values = environment.get(variable).map(String::as_str).unwrap_or_default();
        named.addresses.extend(values.split(',').filter_map(|one| address(one.trim())));
    }
    named.configs.extend(environment.get(CONFIG.1).filter(|path| !path.is_empty()).map(PathBuf::from));
    for command in &unit.commands {
        flags(command, &mut named);
    }
    named
}

impl Unit {
    fn read(&mut self, text: &str) {
        // A trailing backslash continues a line.
        for line in text.replace("\\\n", " ").lines().map(str::trim) {
            let Some((key, value)) = line.split_once('=') else { continue };
            let (key, words) = (key.trim_end(), words(value));
            let is_reset = value.trim().is_empty();
            match key {
                "ListenStream" if is_reset => self.listens.clear(),
                "ListenStream" => self.listens.extend(words.first().and_then(|word| address(word))),
                "Environment" if is_reset => self.environment.clear(),
                "Environment" => {
                    let assigned = words.iter().filter_map(|word| word.split_once('='));
                    self.environment.extend(assigned.map(|(name, value)| (name.to_owned(), value.to_owned())));
                }
                "EnvironmentFile" if is_reset => self.files.clear(),
                // A file after a dash may be missing; without a dash the unit does not start.
                "EnvironmentFile" => {
                    self.files.extend(words.first().map(|path| path.strip_prefix('-').unwrap_or(path).into()));
                }
                "ExecStart" if is_reset => self.commands.clear(),
                "ExecStart" => self.commands.push(words),
                _ => {}
            }
        }
    }
}

/// The assignments of an environment file.
fn assignments(text: &str) -> Vec<(String, String)> {
    let text = text.replace("\\\n", "");
    let lines = text.lines().map(str::trim).filter(|line| !line.starts_with(['#', ';']));
    let assigned = lines.filter_map(|line| line.split_once('='));
    assigned.map(|(name, value)| (name.trim_end().to_owned(), words(value).join(" "))).collect()
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

/// The address of a door; a path alone is a unix socket. Other forms of systemd are no doors.
fn address(text: &str) -> Option<Address> {
    (text.starts_with('/') || text.contains("://")).then(|| text.parse().ok()).flatten()
}

/// The words of a value, unquoted.
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

    fn read_all(texts: &[&str], files: &[(&str, &str)]) -> (Vec<String>, Vec<PathBuf>) {
        let texts: Vec<_> = texts.iter().map(|&text| text.to_owned()).collect();
        let file = |path: &Path| {
            let (_, text) = files.iter().find(|(name, _)| Path::new(name) == path)?;
            Some((*text).to_owned())
        };
        let named = read(&texts, Path::new("/run"), &file);
        (named.addresses.iter().map(Address::to_string).collect(), named.configs)
    }

    #[test]
    fn every_way_of_naming_a_door_is_read() {
        let text = "[Service]\n\
            Environment=LINKSPAN_DOCKER_LISTEN=unix:///run/docker.sock\n\
            Environment=\"LINKSPAN_BUILDKIT_LISTEN=unix:///a, unix:///b\" 'OTHER=x'\n\
            ExecStart=/usr/local/bin/linkspan serve --export-listen=%t/e.sock \\\n  --docker-listen unix:///d --config /c.toml --registry-listen tcp://localhost:5000\n\
            [Socket]\nListenStream=\nListenStream=/run/linkspan/s.sock\nListenStream=@abstract\n";
        let (addresses, configs) = read_all(&[text], &[]);
        let expected = ["run/linkspan/s.sock", "run/docker.sock", "a", "b", "run/e.sock", "d"];
        let expected = expected.map(|path| format!("unix:///{path}"));
        let (registry, others) = addresses.split_last().unwrap();
        assert_eq!((others, registry.as_str()), (&expected[..], "tcp://localhost:5000"));
        assert_eq!(configs, [PathBuf::from("/c.toml")]);
    }

    #[test]
    fn an_assignment_of_nothing_forgets_those_before_it() {
        let unit = "[Socket]\nListenStream=/a\n[Service]\nEnvironment=LINKSPAN_DOCKER_LISTEN=unix:///b\n\
            EnvironmentFile=/one\nExecStart=/bin/linkspan serve --export-listen /c\n";
        let drop_in = "ListenStream=\nListenStream = /d\nEnvironment=\nEnvironmentFile=\nExecStart=\n\
            ExecStart=/bin/linkspan serve --export-listen /e\n";
        let (addresses, _) = read_all(&[unit, drop_in], &[("/one", "LINKSPAN_DOCKER_LISTEN=unix:///f")]);
        assert_eq!(addresses, ["unix:///d", "unix:///e"]);
    }

    #[test]
    fn files_of_variables_are_read_and_win() {
        let unit = "[Service]\nEnvironmentFile=-/etc/default/linkspan\nEnvironmentFile=/absent\n\
            Environment=LINKSPAN_DOCKER_LISTEN=unix:///a\nEnvironment=LINKSPAN_EXPORT_LISTEN=unix:///b\n";
        let file = "# LINKSPAN_EXPORT_LISTEN=unix:///c\n LINKSPAN_DOCKER_LISTEN = 'unix:///d'\n\
            LINKSPAN_BUILDKIT_LISTEN=unix:///e,\\\nunix:///f\nLINKSPAN_CONFIG=\"/c.toml\"\n";
        let (addresses, configs) = read_all(&[unit], &[("/etc/default/linkspan", file)]);
        assert_eq!(addresses, ["d", "e", "f", "b"].map(|path| format!("unix:///{path}")));
        assert_eq!(configs, [PathBuf::from("/c.toml")]);
    }
}
