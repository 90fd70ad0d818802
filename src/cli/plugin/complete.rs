//! Completions in cobra's form: a line for each word, a tab before its description, and a line with a colon and a number that
//! says what the shell does with them (cobra `completions.go`).

use std::ffi::OsString;

use clap::{Arg, ArgAction, Command};

/// Complete the names of files.
const FILES: u8 = 0;
/// Complete no names of files.
const NO_FILES: u8 = 4;

/// The answer for `words`, of which the last one is being typed.
pub(super) fn answer(mut program: Command, words: &[OsString], describe: bool) -> String {
    program.build();
    let words: Vec<_> = words.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let (typed, before) = words.split_last().map_or(("", &[][..]), |(typed, before)| (typed.as_str(), before));
    let (found, then) = complete(&program, before, typed);
    let mut lines: Vec<_> = found
        .into_iter()
        .filter(|(word, _)| word.starts_with(typed))
        .map(|(word, about)| if describe && !about.is_empty() { format!("{word}\t{about}") } else { word })
        .collect();
    lines.push(format!(":{then}"));
    lines.join("\n")
}

fn complete(program: &Command, before: &[String], typed: &str) -> (Vec<(String, String)>, u8) {
    let mut command = program;
    let mut waiting: Option<&Arg> = None;
    let mut has_words = false;
    for word in before {
        if waiting.take().is_some() {
            continue;
        }
        if let Some(option) = option(command, word) {
            waiting = Some(option).filter(|option| takes_value(option) && !word.contains('='));
        } else if let Some(below) = command.find_subcommand(word).filter(|_| !has_words) {
            command = below;
        } else {
            has_words = true;
        }
    }
    if let Some(option) = waiting {
        return values(option);
    }
    if let Some((name, _)) = typed.split_once('=').filter(|_| typed.starts_with("--")) {
        let (found, then) = option(command, name).map(values).unwrap_or_default();
        return (found.into_iter().map(|(value, about)| (format!("{name}={value}"), about)).collect(), then);
    }
    if typed.starts_with('-') {
        let options = command.get_arguments().filter(|option| !option.is_hide_set());
        return (
            options.filter_map(|option| Some((format!("--{}", option.get_long()?), help(option)))).collect(),
            NO_FILES,
        );
    }
    let commands: Vec<_> = command.get_subcommands().filter(|below| !below.is_hide_set()).collect();
    if !commands.is_empty() {
        let about = |below: &Command| first_line(below.get_about().map(ToString::to_string));
        return (commands.iter().map(|below| (below.get_name().to_owned(), about(below))).collect(), NO_FILES);
    }
    let positional = command.get_positionals().next();
    positional.map(values).unwrap_or((Vec::new(), NO_FILES))
}

/// The option that `word` is, with or without a value.
fn option<'a>(command: &'a Command, word: &str) -> Option<&'a Arg> {
    let name = word.split_once('=').map_or(word, |(name, _)| name);
    command.get_arguments().find(|option| {
        let is_long = option.get_long().is_some_and(|long| name.strip_prefix("--") == Some(long));
        let mut short = [0; 4];
        is_long || option.get_short().is_some_and(|it| name.strip_prefix('-') == Some(&*it.encode_utf8(&mut short)))
    })
}

fn takes_value(option: &Arg) -> bool {
    matches!(option.get_action(), ArgAction::Set | ArgAction::Append)
}

/// The values that an option may have; where any may be, it may be a file.
fn values(option: &Arg) -> (Vec<(String, String)>, u8) {
    let values: Vec<_> = option.get_possible_values().into_iter().filter(|value| !value.is_hide_set()).collect();
    if values.is_empty() {
        return (Vec::new(), FILES);
    }
    let about = |value: &clap::builder::PossibleValue| first_line(value.get_help().map(ToString::to_string));
    (values.iter().map(|value| (value.get_name().to_owned(), about(value))).collect(), NO_FILES)
}

fn help(option: &Arg) -> String {
    first_line(option.get_help().map(ToString::to_string))
}

fn first_line(text: Option<String>) -> String {
    text.unwrap_or_default().lines().next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer_to(words: &[&str]) -> Vec<String> {
        let words: Vec<_> = words.iter().map(OsString::from).collect();
        answer(crate::cli::program(), &words, false).lines().map(str::to_owned).collect()
    }

    #[test]
    fn commands_options_and_values_are_completed() {
        assert_eq!(answer_to(&["comp"]), ["completion", ":4"]);
        assert_eq!(answer_to(&["cache", "l"]), ["ls", ":4"]);
        assert_eq!(answer_to(&["serve", "--load-comp"]), ["--load-compression", ":4"]);
        assert_eq!(answer_to(&["completion", "z"]), ["zsh", ":4"]);
        assert_eq!(answer_to(&["serve", "--log-format", "j"]), ["json", ":4"]);
        assert_eq!(answer_to(&["serve", "--load-compression=un"]), ["--load-compression=uncompressed", ":4"]);
        assert!(answer_to(&["images", "--engine", ""]).contains(&"containerd".to_owned()));
        assert_eq!(answer_to(&["serve", "--config", ""]), [":0"]);
        assert_eq!(answer_to(&["load", "-i", ""]), [":0"]);
        assert_eq!(answer_to(&["load", "--input", "file", "--ta"]), ["--tag", ":4"]);
        let all = answer_to(&[""]);
        assert!(all.contains(&"serve".to_owned()) && all.contains(&"images".to_owned()), "{all:?}");
        assert!(answer_to(&["nonsense", ""]).last().is_some_and(|last| last == ":4"));
        assert!(answer(crate::cli::program(), &["serv".into()], true).starts_with("serve\t"));
    }
}
