//! What shells complete: the values that an option's help lists, and files and folders where it takes one.

use std::ffi::OsStr;

use clap::builder::{PossibleValue, StringValueParser, TypedValueParser};
use clap::{Arg, Command, ValueHint};

/// Adds to every option what its help says of its values. What is accepted stays as it is.
pub(super) fn listed(command: Command) -> Command {
    let names: Vec<_> = command.get_subcommands().map(|command| command.get_name().to_owned()).collect();
    let command = command.mut_args(of_option);
    names.into_iter().fold(command, |command, name| command.mut_subcommand(name, listed))
}

fn of_option(option: Arg) -> Arg {
    let Some([name]) = option.get_value_names() else { return option };
    let hint = match name.as_str() {
        "FILE" | "PATH" => ValueHint::FilePath,
        "DIR" => ValueHint::DirPath,
        name => {
            let values = fixed(name);
            // One that takes its values as a type has them already.
            if values.is_empty() || !option.get_possible_values().is_empty() {
                return option;
            }
            return option.value_parser(Suggested(values)).hide_possible_values(true);
        }
    };
    match option.get_value_hint() {
        ValueHint::Unknown => option.value_hint(hint),
        _ => option,
    }
}

/// The values in the name of a value, as in `auto|containerd` and `docker|kind://CLUSTER`. Words in capitals stand for others.
fn fixed(name: &str) -> Vec<&'static str> {
    if name == "BOOL" {
        return vec!["true", "false"];
    }
    let is_word = |value: &&str| value.chars().all(|letter| letter.is_ascii_lowercase() || letter == '-');
    let values: Vec<_> = name.split('|').filter(is_word).collect();
    match values.len() {
        0 | 1 => Vec::new(),
        // There are some dozens in a process.
        _ => values.into_iter().map(|value| &*value.to_owned().leak()).collect(),
    }
}

/// Any text, and values to propose. The configuration checks the text together with those of other sources.
#[derive(Debug, Clone)]
struct Suggested(Vec<&'static str>);

impl TypedValueParser for Suggested {
    type Value = String;

    fn parse_ref(&self, command: &Command, option: Option<&Arg>, value: &OsStr) -> Result<String, clap::Error> {
        StringValueParser::new().parse_ref(command, option, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(self.0.iter().map(|value| PossibleValue::new(*value))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_a_value_s_name_are_values_and_its_capitals_are_none() {
        assert_eq!(fixed("auto|layout|kind://CLUSTER"), ["auto", "layout"]);
        for name in ["NAME|GID", "FILE|DIR|-", "ADDR", "FILE|-"] {
            assert_eq!(fixed(name), Vec::<&str>::new(), "{name}");
        }
    }

    #[test]
    fn every_option_whose_help_lists_values_proposes_them_and_takes_what_it_took() {
        let program = crate::cli::program();
        let serve = program.find_subcommand("serve").unwrap();
        let values = |name: &str| {
            let option = serve.get_arguments().find(|option| option.get_long() == Some(name)).unwrap();
            option.get_possible_values().iter().map(|value| value.get_name().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(values("load-compression"), ["as-asked", "fast", "zstd", "uncompressed"]);
        assert_eq!(values("log-format"), ["text", "json"]);
        assert_eq!(values("registry-writable"), ["true", "false"]);
        assert!(values("engine").contains(&"docker-classic".to_owned()));
        for (engine, format) in [("kind://dev", "xml"), ("podman", "json")] {
            let line = ["linkspan", "serve", "--engine", engine, "--log-format", format, "--deny-tag-move=maybe"];
            let matches = crate::cli::program().try_get_matches_from(line).unwrap();
            let (_, serve) = matches.subcommand().unwrap();
            assert_eq!(serve.get_one::<String>("engine").unwrap(), engine);
        }
        let mut script = Vec::new();
        clap_complete::generate(clap_complete::Shell::Bash, &mut crate::cli::program(), "linkspan", &mut script);
        let script = String::from_utf8(script).unwrap();
        assert!(script.contains(r#"compgen -W "as-asked fast zstd uncompressed""#), "{script}");
    }
}
