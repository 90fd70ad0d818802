//! `linkspan setup`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::{CommandError, block_on, output, repeat};
use crate::buildx::Store;
use crate::config::{Config, Layer, ProcessEnvironment, Setting};
use crate::running::SearchFolders;
use crate::setup::{self, ChangedBuilder, Doors, PluginError, PluginFolders, SetupError};

/// Makes other programs use Linkspan, and undoes that.
#[derive(Debug, Args)]
pub(super) struct Setup {
    #[command(subcommand)]
    program: Program,
}

#[derive(Debug, Subcommand)]
enum Program {
    Buildx(Buildx),
    Plugin(Plugin),
}

/// Sends existing `docker-container` builders through the docker door.
///
/// buildx pins a builder to the address of the engine that it was created with. This changes that address, and nothing else:
/// the builder's container, its cache, its options, its history and the choice of the current builder stay.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
struct Buildx {
    /// The builders, by the names that `docker buildx ls` shows
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,

    /// Send them back to their former address
    #[arg(long)]
    undo: bool,

    /// Print one JSON document instead of text
    #[arg(long)]
    json: bool,

    /// Read this TOML file [env: LINKSPAN_CONFIG] [default: /etc/linkspan/config.toml, if it exists]
    #[arg(long, value_name = "FILE")]
    config: Option<String>,

    /// Where the docker door listens [env: LINKSPAN_DOCKER_LISTEN] [default: that of a Linkspan that runs here, found as
    /// `linkspan doctor` finds it, else unix:///run/linkspan/docker.sock]
    #[arg(long, value_name = "ADDR")]
    docker_listen: Option<String>,

    /// Where the engine behind it listens, if the door is not open to be asked; only builders of this engine are changed
    /// [env: LINKSPAN_DOCKER_HOST, DOCKER_HOST] [default: the docker context in DOCKER_CONTEXT, else the current one, else
    /// unix:///var/run/docker.sock]
    #[arg(long, value_name = "ADDR")]
    docker_host: Option<String>,
}

const EXAMPLES: &str = "\
Examples:
  linkspan setup buildx mybuilder
  linkspan setup buildx mybuilder --undo
  linkspan setup buildx mybuilder \\
    --docker-listen unix:///run/user/1000/linkspan.sock

Exit code: 0 when all builders go where they should, 1 when one does not, 2
for a wrong command line.";

/// Makes `docker linkspan …` work, for you: a link to this program among docker's plugins.
///
/// A Debian package of Linkspan brings the link for all users.
#[derive(Debug, Args)]
#[command(after_long_help = PLUGIN_EXAMPLES)]
struct Plugin {
    /// Remove the link
    #[arg(long)]
    undo: bool,

    /// Print one JSON document instead of text
    #[arg(long)]
    json: bool,

    /// The folder of docker's plugins [default: cli-plugins in DOCKER_CONFIG, else in ~/.docker]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

const PLUGIN_EXAMPLES: &str = "\
Examples:
  linkspan setup plugin && docker linkspan images
  sudo linkspan setup plugin --dir /usr/local/lib/docker/cli-plugins
  linkspan setup plugin --undo";

impl Setup {
    pub(super) fn run(self) -> Result<ExitCode, CommandError> {
        match self.program {
            Program::Buildx(buildx) => buildx.run(),
            Program::Plugin(plugin) => plugin.run(),
        }
    }
}

impl Plugin {
    fn run(self) -> Result<ExitCode, CommandError> {
        let docker = Store::find(|name| std::env::var_os(name)).map(|store| store.docker_folder().to_owned());
        let folders = PluginFolders::of(docker.as_deref());
        let folder = self.dir.clone().or_else(|| folders.own.clone()).ok_or(PluginError::Homeless)?;
        // docker looks for absolute paths.
        let folder = std::path::absolute(&folder).unwrap_or(folder);
        let own = std::env::current_exe().map_err(CommandError::Itself)?;
        let done = match self.undo {
            true => setup::remove_plugin(&folder, &own)?,
            false => setup::install_plugin(&folder, &own)?,
        };
        let is_searched = folders.have(&folder);
        if self.json {
            let mut document = serde_json::to_value(&done)?;
            document["searched"] = is_searched.into();
            output::print(&serde_json::to_string_pretty(&document)?)?;
            return Ok(ExitCode::SUCCESS);
        }
        let (link, program) = (done.link.display(), done.program.display());
        if self.undo {
            output::print(&format!("removed {link}, a link to {program}"))?;
            return Ok(ExitCode::SUCCESS);
        }
        let already = if done.changed { "" } else { " already" };
        let what = format!("{link} is a link to {program}{}", if is_searched { "" } else { already });
        let mut text = match is_searched {
            true => format!("`docker linkspan` works{already}: {what}"),
            false => {
                let all: Vec<_> = folders.all().map(|folder| format!("  {}", folder.display())).collect();
                format!(
                    "{what}, but docker does not look there. It looks in\n{}\nand in what cliPluginsExtraDirs in its config.json names.",
                    all.join("\n")
                )
            }
        };
        if done.changed {
            let dir = self.dir.is_some().then(|| folder.to_string_lossy().into_owned());
            text +=
                &format!("\nUndo it with: linkspan setup plugin --undo{}", repeat::flags([("dir", dir.as_deref())]));
        }
        output::print(&text)?;
        Ok(ExitCode::SUCCESS)
    }
}

impl Buildx {
    fn run(self) -> Result<ExitCode, CommandError> {
        let mut flags = Layer::default();
        flags.add_flag(Setting::Config, self.config.clone());
        flags.add_flag(Setting::DockerListen, self.docker_listen.clone());
        flags.add_flag(Setting::DockerHost, self.docker_host.clone());
        let config = Config::load(flags, &ProcessEnvironment)?;
        let store = Store::find(|name| std::env::var_os(name)).ok_or(SetupError::Homeless)?;
        let variable = |name: &str| std::env::var_os(name);
        let doors = block_on(Doors::probe(
            &config,
            &store,
            variable,
            &Config::default_docker_listen(&ProcessEnvironment),
            &SearchFolders::new(variable),
        ))?;
        let flags = [
            ("config", self.config.as_deref()),
            ("docker-listen", self.docker_listen.as_deref()),
            ("docker-host", self.docker_host.as_deref()),
        ];
        let flags = repeat::flags(flags);
        let change = if self.undo { setup::back } else { setup::through };
        // If one builder cannot be changed, the others are changed all the same.
        let mut code = ExitCode::SUCCESS;
        let mut all = Vec::new();
        let mut names: Vec<&str> = Vec::new();
        for name in &self.names {
            // The second time there would be nothing to undo. buildx takes names in any case.
            if !names.iter().any(|known| known.eq_ignore_ascii_case(name)) {
                names.push(name);
            }
        }
        for name in names {
            let builder = setup::existing(&store, name);
            let door = builder.and_then(|builder| doors.of(&store, &builder, self.undo));
            let changed = door.and_then(|door| Ok((change(&store, name, &door.listen, &door.engine)?, door)));
            match changed {
                Ok((done, _)) if self.json => all.push(done),
                Ok((done, door)) => output::print(&text(&done, &door.listen.to_string(), &flags, self.undo))?,
                Err(error) => {
                    output::complain(&error, error.hint());
                    code = ExitCode::FAILURE;
                }
            }
        }
        if self.json {
            output::print(&serde_json::to_string_pretty(&all)?)?;
        }
        Ok(code)
    }
}

fn text(done: &ChangedBuilder, door: &str, flags: &str, undone: bool) -> String {
    let builder = &done.builder;
    if done.moved.is_empty() {
        return format!("builder {builder} goes through the docker door at {door} already");
    }
    let mut text = String::new();
    for moved in &done.moved {
        let (node, to, from) = (&moved.node, &moved.to, &moved.from);
        text += &format!("builder {builder}: node {node} now goes to {to}\n  (before: {from})\n");
    }
    text += "Its container, cache and options are unchanged.";
    if !undone {
        text += &format!("\nUndo it with: linkspan setup buildx {builder} --undo{flags}");
    }
    text
}
