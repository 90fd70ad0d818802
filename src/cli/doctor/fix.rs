//! `linkspan doctor --fix`.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};
use std::process::ExitCode;

use serde::Serialize;

use crate::buildx::Store;
use crate::cli::{CommandError, output};
use crate::config::Config;
use crate::doctor::{self, Repair};
use crate::running::SearchFolders;
use crate::setup::SetupError;

/// How it is done.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fix {
    pub(super) yes: bool,
    pub(super) dry_run: bool,
    pub(super) json: bool,
}

/// What became of a repair.
#[derive(Debug, Serialize)]
struct Outcome<'a> {
    #[serde(flatten)]
    repair: &'a Repair,
    found: String,
    action: String,
    /// `done`, `failed`, `declined`, or `planned` where nothing is to be changed.
    state: &'static str,
    error: Option<String>,
}

/// A builder, or all of them, could not be looked at; everything else was.
#[derive(Debug, thiserror::Error)]
#[error("not all of your builders were looked at: {0}")]
struct Unread<'a>(&'a SetupError);

impl Fix {
    pub(super) fn run(self, config: &Config, users: Option<&Store>) -> Result<ExitCode, CommandError> {
        let folders = SearchFolders::new(|name| std::env::var_os(name));
        let (repairs, unread) = doctor::repairs(config, &folders, users);
        for error in &unread {
            output::complain(&Unread(error), None);
        }
        let asks = !self.yes && !self.dry_run;
        // A question among JSON would be read by a program.
        if asks && !repairs.is_empty() && (self.json || !io::stdin().is_terminal()) {
            return Err(CommandError::NobodyToAsk);
        }
        let mut outcomes = Vec::with_capacity(repairs.len());
        for repair in &repairs {
            outcomes.push(self.mend(repair, users)?);
        }
        match (self.json, outcomes.is_empty()) {
            (true, _) => output::print(&serde_json::to_string_pretty(&outcomes)?)?,
            (false, true) if unread.is_empty() => {
                output::print("there is nothing that can be mended here; `linkspan doctor` reports the rest")?
            }
            (false, _) => {}
        }
        let is_left = !unread.is_empty() || outcomes.iter().any(|outcome| outcome.state != "done");
        Ok(if is_left { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }

    /// Shows one, then mends it.
    fn mend<'a>(self, repair: &'a Repair, users: Option<&Store>) -> Result<Outcome<'a>, CommandError> {
        let (found, action) = (repair.found(), repair.action());
        let asks = !self.yes && !self.dry_run;
        let say = |text: String| if self.json { Ok(()) } else { output::print(&text) };
        if self.dry_run {
            say(format!("{found}; --fix would: {action}"))?;
        } else if asks {
            say(format!("{found}: {action}"))?;
        }
        let state = match self {
            Self { dry_run: true, .. } => Ok("planned"),
            Self { yes: false, .. } if !is_wanted(&action)? => Ok("declined"),
            _ => repair.apply(users).map(|()| "done"),
        };
        let error = state.as_ref().err().map(ToString::to_string);
        match &state {
            Ok("done") if asks => say(repair.done())?,
            Ok("done") => say(format!("{found}: {}", repair.done()))?,
            Err(error) if !self.json => {
                if !asks {
                    say(format!("{found}: it stays so, for this failed: {action}"))?;
                }
                output::complain(error, None);
            }
            _ => {}
        }
        Ok(Outcome { repair, found, action, state: state.unwrap_or("failed"), error })
    }
}

/// Asks on the terminal; the end of the input is a no.
fn is_wanted(action: &str) -> Result<bool, CommandError> {
    let mut stderr = io::stderr().lock();
    // A question that nobody sees has no answer.
    let asked = write!(stderr, "{action}? [y/N] ").and_then(|()| stderr.flush());
    asked.map_err(CommandError::Output)?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer).map_err(CommandError::Input)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
