//! Two lengths of help: `-h` is a short list, `--help` the full text.

use clap::builder::StyledStr;
use clap::{Arg, Command};

/// The ends of the first clause, which is an option's short help. A colon is none, because values follow it.
const ENDS: [&str; 4] = ["; ", ". ", " [env", " [default"];

/// Turns the help of every option into its long help, and the first clause of it into the short one.
pub(super) fn shortened(command: Command) -> Command {
    let names: Vec<_> = command.get_subcommands().map(|command| command.get_name().to_owned()).collect();
    let command = command.mut_args(short);
    names.into_iter().fold(command, |command, name| command.mut_subcommand(name, shortened))
}

/// The same program, called `called` in its examples.
pub(super) fn called(called: &'static str, program: Command) -> Command {
    let commands: Vec<_> = program.get_subcommands().flat_map(Command::get_name_and_visible_aliases).collect();
    let commands: Vec<_> = commands.into_iter().map(str::to_owned).collect();
    renamed(called, &commands, program)
}

fn renamed(called: &str, commands: &[String], command: Command) -> Command {
    let names: Vec<_> = command.get_subcommands().map(|command| command.get_name().to_owned()).collect();
    let text = command.get_after_long_help().map(|text| with_name(called, commands, &text.to_string()));
    let command = match text {
        Some(text) => command.after_long_help(text),
        None => command,
    };
    names.into_iter().fold(command, |command, name| command.mut_subcommand(name, |it| renamed(called, commands, it)))
}

/// `text` with `called` where a command line has the program's name: before a command, and not as a part of another word.
fn with_name(called: &str, commands: &[String], text: &str) -> String {
    let name = format!("{} ", env!("CARGO_PKG_NAME"));
    let (mut new, mut rest) = (String::new(), text);
    while let Some(at) = rest.find(&name) {
        let (before, after) = (&rest[..at], &rest[at + name.len()..]);
        let is_end = |letter: char| !letter.is_ascii_alphanumeric() && letter != '-';
        let word = after.split(is_end).next().unwrap_or_default();
        let is_whole = before.is_empty() || before.ends_with([' ', '\n', '`']);
        let is_program = is_whole && !before.ends_with("docker ") && commands.iter().any(|command| command == word);
        new.push_str(before);
        match is_program {
            true => new = new + called + " ",
            false => new.push_str(&name),
        }
        rest = after;
    }
    new + rest
}

fn short(option: Arg) -> Arg {
    let Some(long) = option.get_help().map(StyledStr::to_string) else { return option };
    if option.get_long_help().is_some() {
        return option;
    }
    option.help(first_clause(&long).to_owned()).long_help(long)
}

/// The text until its first end that is in no parentheses and in nothing quoted.
fn first_clause(text: &str) -> &str {
    let ends = ENDS.iter().flat_map(|end| text.match_indices(end)).map(|(at, _)| at);
    let end = ends.filter(|at| is_balanced(&text[..*at])).min().unwrap_or(text.len());
    &text[..end]
}

/// Whether every parenthesis and every backtick has its second one.
fn is_balanced(text: &str) -> bool {
    let count = |letter| text.matches(letter).count();
    count('`') % 2 == 0 && count('(') == count(')')
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The columns of a usual terminal.
    const WIDTH: usize = 80;

    fn each(command: &mut Command, path: &str, check: &mut impl FnMut(&mut Command, &str)) {
        check(command, path);
        for command in command.get_subcommands_mut() {
            let path = format!("{path} {}", command.get_name());
            each(command, &path, check);
        }
    }

    fn program() -> Command {
        let mut program = crate::cli::program().term_width(WIDTH);
        program.build();
        program
    }

    #[test]
    fn the_first_clause_keeps_values_together() {
        for (text, expected) in [
            ("Which: `a`, `b` or `c` [env: X]", "Which: `a`, `b` or `c`"),
            ("Where it is (as in `b; c`); can be repeated [env: X]", "Where it is (as in `b; c`)"),
            ("Say nothing", "Say nothing"),
            ("One. Two", "One"),
        ] {
            assert_eq!(first_clause(text), expected);
        }
    }

    #[test]
    fn examples_name_the_program_as_it_is_called() {
        let mut tree = called("docker linkspan", crate::cli::program()).term_width(WIDTH);
        tree.build();
        each(&mut tree, "docker linkspan", &mut |command, path| {
            let Some(text) = command.get_after_long_help().map(StyledStr::to_string) else { return };
            let is_example = |line: &&str| line.trim_start().starts_with("linkspan ");
            assert_eq!(text.lines().find(is_example), None, "{path}");
        });
        let commands = ["doctor".to_owned()];
        let text = "linkspan doctor; /x/linkspan doctor; linkspan is it, sudo linkspan doctor";
        let expected = "docker linkspan doctor; /x/linkspan doctor; linkspan is it, sudo docker linkspan doctor";
        assert_eq!(with_name("docker linkspan", &commands, text), expected);
        assert_eq!(with_name("docker linkspan", &commands, expected), expected);
    }

    #[test]
    fn the_short_help_of_every_option_is_whole() {
        each(&mut program(), "linkspan", &mut |command, path| {
            for option in command.get_arguments() {
                let help = option.get_help().map(StyledStr::to_string).unwrap_or_default();
                let is_whole = is_balanced(&help) && !help.ends_with("that match") && help != "The format";
                assert!(is_whole, "{path} {}: {help}", option.get_id());
            }
        });
    }

    #[test]
    fn examples_and_usage_lines_fit_a_terminal_as_they_are() {
        each(&mut program(), "linkspan", &mut |command, path| {
            if let Some(text) = command.get_after_long_help().map(StyledStr::to_string) {
                let shown = command.render_long_help().to_string();
                for line in text.lines() {
                    assert!(line.chars().count() <= WIDTH, "{path}: {line}");
                    assert!(shown.lines().any(|other| other == line), "{path}: {line}\n{shown}");
                }
            }
            let usage = command.render_usage().to_string();
            assert!(usage.lines().all(|line| line.chars().count() <= WIDTH), "{path}: {usage}");
        });
    }
}
