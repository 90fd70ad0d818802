//! Two lengths of help: `-h` is a short list, `--help` the full text.

use clap::builder::StyledStr;
use clap::{Arg, Command};

/// The ends of the first clause, which is an option's short help.
const ENDS: [&str; 5] = ["; ", ". ", ": ", " [env", " [default"];

/// Turns the help of every option into its long help, and the first clause of it into the short one.
pub(super) fn shortened(command: Command) -> Command {
    let names: Vec<_> = command.get_subcommands().map(|command| command.get_name().to_owned()).collect();
    let command = command.mut_args(short);
    names.into_iter().fold(command, |command, name| command.mut_subcommand(name, shortened))
}

fn short(option: Arg) -> Arg {
    let Some(long) = option.get_help().map(StyledStr::to_string) else { return option };
    let end = ENDS.iter().filter_map(|end| long.find(end)).min().unwrap_or(long.len());
    let short = long[..end].to_owned();
    if option.get_long_help().is_some() {
        return option;
    }
    option.help(short).long_help(long)
}
