//! `linkspan version`, `linkspan completion` and `linkspan man`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Command};
use clap_complete::Shell;
use serde_json::json;

use super::{CommandError, man, output};

/// The commit of the build; empty if unknown.
const COMMIT: &str = env!("LINKSPAN_COMMIT");
/// The date of that commit.
const DATE: &str = env!("LINKSPAN_COMMIT_DATE");

/// Prints the version, the commit of the build and its date.
#[derive(Debug, Args)]
pub(super) struct Version {
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

impl Version {
    pub(super) fn run(self) -> Result<ExitCode, CommandError> {
        let known = |text: &'static str| Some(text).filter(|text| !text.is_empty());
        let version = env!("CARGO_PKG_VERSION");
        let text = match (self.json, known(COMMIT)) {
            (true, commit) => {
                let (os, arch) = (std::env::consts::OS, std::env::consts::ARCH);
                json!({"version": version, "commit": commit, "date": known(DATE), "os": os, "arch": arch}).to_string()
            }
            (false, Some(commit)) => {
                let date = known(DATE).map(|date| format!(" of {date}")).unwrap_or_default();
                format!("linkspan {version} (commit {}{date})", commit.get(..12).unwrap_or(commit))
            }
            (false, None) => format!("linkspan {version}"),
        };
        output::print(&text)?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Prints a completion script for a shell.
#[derive(Debug, Args)]
#[command(after_long_help = COMPLETION)]
pub(super) struct Completion {
    /// The shell
    shell: Shell,
}

const COMPLETION: &str = "\
Examples:
  linkspan completion bash > /usr/share/bash-completion/completions/linkspan
  linkspan completion zsh > ~/.zfunc/_linkspan
  linkspan completion fish > ~/.config/fish/completions/linkspan.fish";

impl Completion {
    pub(super) fn run(self, mut program: Command) -> Result<ExitCode, CommandError> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut program, "linkspan", &mut script);
        output::raw(&script)?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Writes manual pages: the program's to standard output, or all of them into a folder.
#[derive(Debug, Args)]
#[command(after_long_help = MAN)]
pub(super) struct Man {
    /// The folder, which must exist
    #[arg(value_name = "DIR")]
    folder: Option<PathBuf>,
}

const MAN: &str = "\
Examples:
  linkspan man | man -l -
  linkspan man /usr/local/share/man/man1";

impl Man {
    pub(super) fn run(self, program: Command) -> Result<ExitCode, CommandError> {
        match self.folder {
            Some(folder) => {
                let failed = |error| CommandError::Pages { folder: folder.display().to_string(), error };
                man::write(program, &folder).map_err(failed)?;
            }
            None => {
                output::raw(&man::page(&program).map_err(CommandError::Output)?)?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}
