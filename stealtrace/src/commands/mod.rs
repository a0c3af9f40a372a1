//! The command line: one file a subcommand, with its arguments and its run. Nothing else knows clap, but for the names that
//! the values of an enum have.

/// What a subcommand's help ends with.
macro_rules! help {
    ($examples:literal, $codes:literal) => {
        concat!("Examples:\n", $examples, "\n\nExit codes:\n", $codes)
    };
}

mod analyze;
mod completions;
mod doctor;
mod export;
mod guard;
mod guest;
mod inspect;
mod load;
mod options;
mod rules;
mod trace;
mod verify;
mod watch;

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Result, bail};
use clap::{CommandFactory as _, Parser};

use crate::{
    exit::Exit,
    os::{
        interrupt::outlive_file_limits,
        output::{Color, Output},
        talk::{be_quiet, say},
    },
};

/// A subcommand's run.
trait Run {
    /// Do it, and say by exit code how it went.
    fn run(self, shared: &Shared) -> Result<Exit>;

    /// A file that it reads or writes beside its results.
    fn file(&self) -> Option<&Path> {
        None
    }
}

/// What every subcommand is given.
struct Shared {
    /// Show diagnostics of our own?
    verbose: bool,
    /// Where results go.
    out: Output,
}

/// A subcommand is the arguments in its file, and their run.
macro_rules! subcommands {
    ($($file:ident: $Arguments:ident,)+) => {
        #[derive(clap::Subcommand, Debug)]
        enum Subcommand {
            $($Arguments(Box<$file::$Arguments>),)+
        }

        impl Run for Subcommand {
            fn run(self, shared: &Shared) -> Result<Exit> {
                match self {
                    $(Self::$Arguments(arguments) => arguments.run(shared),)+
                }
            }

            fn file(&self) -> Option<&Path> {
                match self {
                    $(Self::$Arguments(arguments) => arguments.file(),)+
                }
            }
        }
    };
}

// Every subcommand, in the order of the help. To add one: write its file, add its module and its line.
subcommands! {
    doctor: Doctor,
    trace: Trace,
    analyze: Analyze,
    rules: Rules,
    verify: Verify,
    export: Export,
    guard: Guard,
    inspect: Inspect,
    watch: Watch,
    guest: Guest,
    load: Load,
    completions: Completions,
}

/// Finds out, on a live KVM host, why a guest's steal time is wrong.
#[derive(Debug, Parser)]
#[command(name = "stealtrace", version = VERSION, after_help = EXIT_CODES)]
struct Cli {
    /// Show diagnostics of stealtrace itself on stderr
    #[arg(short, long, global = true)]
    verbose: bool,
    /// Say nothing on stderr but what went wrong
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    quiet: bool,
    /// Colour text; auto: on a terminal, unless NO_COLOR is set
    #[arg(long, global = true, value_name = "WHEN", value_enum, hide_possible_values = true, default_value_t = Color::Auto)]
    color: Color,
    /// Write the results to this file instead of standard output
    #[arg(long, global = true, value_name = "FILE", value_parser = options::parse_file)]
    output: Option<PathBuf>,
    #[command(subcommand)]
    subcommand: Subcommand,
}

/// `0.1.0 (1a2b3c4d5e6f 2026-11-26)`: the commit, and when that was made.
const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("STEALTRACE_COMMIT"), ")");

const EXIT_CODES: &str = "\
Exit codes:
  0  nothing found and nothing missed
  1  findings at or above --fail-on, or a verdict not as expected
  2  could not run, or bad usage
  3  inconclusive: events were lost, a file was cut off or damaged, the traced command failed,
     or verify was interrupted";

/// The command line, for who describes it.
#[must_use]
pub fn command() -> clap::Command {
    Cli::command()
}

/// Parse, do, say what went wrong in one line.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    outlive_file_limits();
    log_to_stderr(cli.verbose);
    if cli.quiet {
        be_quiet();
    }
    match run(cli) {
        Ok(exit) => exit.into(),
        Err(error) => {
            say(&format!("{error:#}"));
            Exit::Unusable.into()
        }
    }
}

fn run(Cli { verbose, color, output, subcommand, .. }: Cli) -> Result<Exit> {
    require_different_files(output.as_deref(), subcommand.file())?;
    let out = Output::open(output.as_deref(), color)?;
    let exit = subcommand.run(&Shared { verbose, out: out.clone() })?;
    out.settle()?;
    Ok(exit)
}

/// What is written must not be what is read, or written twice.
fn require_different_files(output: Option<&Path>, other: Option<&Path>) -> Result<()> {
    match (output, other) {
        (Some(output), Some(other)) if is_same_file(output, other) => {
            bail!("--output must be another file than {}", other.display())
        }
        _ => Ok(()),
    }
}

fn is_same_file(one: &Path, other: &Path) -> bool {
    let regular = |path: &Path| fs::metadata(path).ok().filter(fs::Metadata::is_file);
    match (regular(one), regular(other)) {
        (Some(one), Some(other)) => (one.dev(), one.ino()) == (other.dev(), other.ino()),
        _ => spelled(one) == spelled(other),
    }
}

/// The one way to name a file that is not there yet.
fn spelled(file: &Path) -> Option<PathBuf> {
    let folder = file.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."));
    Some(folder.canonicalize().ok()?.join(file.file_name()?))
}

fn log_to_stderr(verbose: bool) {
    let level = if verbose { log::LevelFilter::Debug } else { log::LevelFilter::Off };
    env_logger::Builder::new()
        .filter_level(level)
        .filter_module("aya_obj", log::LevelFilter::Warn) // a line per relocation
        .format_timestamp(None)
        .init();
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, Parser as _};

    use super::Cli;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_example_parses() {
        let mut examples = 0;
        for subcommand in Cli::command().get_subcommands() {
            let help = subcommand.get_after_help().map(ToString::to_string).unwrap_or_default();
            for line in help.lines().filter_map(|line| line.split_once("stealtrace ").map(|(_, rest)| rest)) {
                let Some((words, _)) = line.split_once("  ") else { continue };
                let words = words.split(' ').map(|word| word.trim_matches('\''));
                assert!(Cli::try_parse_from(std::iter::once("stealtrace").chain(words)).is_ok(), "{line}");
                examples += 1;
            }
            assert!(help.lines().all(|line| line.len() <= 100), "fits a terminal");
        }
        assert!(examples > 15);
    }
}
