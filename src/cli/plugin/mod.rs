//! Linkspan as a plugin of docker's command line: `docker linkspan …`.
//!
//! docker starts a file called `docker-linkspan` of its plugin folders with its own arguments: its global options, then the
//! name `linkspan`, then the plugin's arguments (docker/cli `cli-plugins/manager/manager.go`, `PluginRunCommand`). It asks for
//! metadata with one argument of a fixed name, and for completions as cobra does. Options that say which docker is meant
//! become the variables that mean the same, for this program started again: a process cannot change its own variables safely.

mod by_code;
mod cancel;
mod complete;
mod globals;

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::ExitCode;

use clap::Command;
use serde_json::json;

use self::globals::Globals;
use super::{CommandError, output};

pub(super) use self::globals::GlobalsError;

/// The file that docker looks for.
pub(super) const PROGRAM: &str = "docker-linkspan";
/// The name by which docker calls it.
const NAME: &str = "linkspan";
/// The words before it in help texts.
pub(super) const CALLED: &str = "docker linkspan";
/// The argument with which docker asks what a plugin is (docker/cli `cli-plugins/metadata/metadata.go`).
const METADATA: &str = "docker-cli-plugin-metadata";
/// The arguments with which cobra's shell scripts ask for completions.
const COMPLETE: [&str; 2] = ["__complete", "__completeNoDesc"];

/// What docker, or a shell, wants of a program that is called [`PROGRAM`].
#[derive(Debug, PartialEq, Eq)]
enum Call {
    Metadata,
    /// The words after the plugin's name; the last one is being typed.
    Complete {
        words: Vec<OsString>,
        describe: bool,
    },
    /// A command line of Linkspan, without the program's name.
    Run(Vec<OsString>, Globals),
}

/// What is left to do by [`super::run`].
pub(super) enum Next {
    /// The command line, the program's name first.
    Parse(Vec<OsString>),
    /// The end.
    Exit(ExitCode),
}

/// Whether the program was called as the plugin.
pub(super) fn is_plugin(program: Option<&OsString>) -> bool {
    program.is_some_and(|program| Path::new(program).file_name() == Some(OsStr::new(PROGRAM)))
}

/// Takes a call of docker as far as it is not a command of Linkspan.
pub(super) fn take(arguments: Vec<OsString>, program: impl FnOnce() -> Command) -> Result<Next, CommandError> {
    let told = by_code::begin().map_err(CommandError::Runtime)?;
    let mut arguments = arguments.into_iter();
    let name = arguments.next().unwrap_or_else(|| PROGRAM.into());
    match call(arguments.collect())? {
        Call::Metadata => {
            output::print(&metadata())?;
            Ok(Next::Exit(ExitCode::SUCCESS))
        }
        Call::Complete { words, describe } => {
            output::print(&complete::answer(program(), &words, describe))?;
            Ok(Next::Exit(ExitCode::SUCCESS))
        }
        Call::Run(arguments, globals) if globals.is_empty() => {
            cancel::follow_docker(told);
            Ok(Next::Parse([name].into_iter().chain(arguments).collect()))
        }
        Call::Run(arguments, globals) => Err(CommandError::Again(globals.start_again(&name, NAME, &arguments))),
    }
}

fn call(arguments: Vec<OsString>) -> Result<Call, GlobalsError> {
    let (globals, rest) = Globals::split(&arguments)?;
    let word = |at: usize| rest.get(at).and_then(|word| word.to_str());
    match (word(0), word(1)) {
        (Some(METADATA), _) => Ok(Call::Metadata),
        (Some(asked), Some(NAME)) if COMPLETE.contains(&asked) => {
            Ok(Call::Complete { words: rest[2..].to_vec(), describe: asked == COMPLETE[0] })
        }
        (Some(NAME), _) => Ok(Call::Run(rest[1..].to_vec(), globals)),
        // `docker help linkspan`.
        (Some("help"), Some(NAME)) => {
            Ok(Call::Run([OsString::from("help")].into_iter().chain(rest[2..].iter().cloned()).collect(), globals))
        }
        // It was not docker who started it: all is for Linkspan.
        _ => Ok(Call::Run(arguments, Globals::default())),
    }
}

fn metadata() -> String {
    json!({
        "SchemaVersion": "0.1.0",
        "Vendor": "Linkspan",
        "Version": env!("CARGO_PKG_VERSION"),
        "ShortDescription": "Send the engine only the blobs that it lacks",
    })
    .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn called(line: &str) -> Result<Call, GlobalsError> {
        call(line.split(' ').map(OsString::from).collect())
    }

    fn run_of(line: &str) -> (String, Globals) {
        match called(line).unwrap() {
            Call::Run(arguments, globals) => {
                (arguments.iter().map(|it| it.to_str().unwrap()).collect::<Vec<_>>().join(" "), globals)
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn docker_s_own_arguments_are_told_from_the_plugin_s() {
        assert_eq!(run_of("linkspan images -q").0, "images -q");
        assert_eq!(run_of("linkspan"), (String::new(), Globals::default()));
        assert_eq!(run_of("-D linkspan --help").0, "--help");
        assert_eq!(run_of("help linkspan save").0, "help save");
        assert_eq!(run_of("--log-level debug linkspan ps").0, "ps");
        // By hand.
        assert_eq!(run_of("images -q").0, "images -q");
        assert_eq!(run_of("--version").0, "--version");
        assert_eq!(called(METADATA).unwrap(), Call::Metadata);
        let words = vec![OsString::from("images"), OsString::from("--fo")];
        assert_eq!(called("__complete linkspan images --fo").unwrap(), Call::Complete { words, describe: true });
    }

    #[test]
    fn it_is_the_plugin_by_its_name_only() {
        for (program, expected) in [
            ("docker-linkspan", true),
            ("/usr/libexec/docker/cli-plugins/docker-linkspan", true),
            ("/usr/bin/linkspan", false),
            ("/docker-linkspan/linkspan", false),
        ] {
            assert_eq!(is_plugin(Some(&program.into())), expected, "{program}");
        }
        assert!(!is_plugin(None));
    }
}
