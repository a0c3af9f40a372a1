//! Host orchestration: set-up, builds, the lab, checks. Depends on none of our crates.

mod arch;
mod bench;
mod build;
mod cache;
mod check;
mod cross;
mod debian;
mod demo;
mod elf;
mod fuzz;
mod lab;
mod ledger;
mod package;
mod peers;
mod process;
mod setup;

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand, builder::PossibleValuesParser};

use crate::arch::Arch;

/// The lab or a check could not do its work; a lab guest's command never means this.
const TROUBLE: u8 = 125;

/// stealtrace's own workshop.
#[derive(Parser)]
#[command(name = "cargo xtask", version)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Install what is missing: eBPF toolchain, bpf-linker, QEMU, kernel build tools
    Setup,
    /// Boot a kernel that has the bug of 2015 and one that has not, and watch both
    Demo {
        /// Make README's picture anew, too
        #[arg(long)]
        picture: bool,
    },
    /// Run every check and test
    Test,
    /// Measure what watching costs
    Bench {
        /// Only these parts
        #[arg(value_name = "PART", value_parser = PossibleValuesParser::new(bench::parts()))]
        parts: Vec<String>,
    },
    /// Feed every reader of files with inputs that libFuzzer makes up
    Fuzz {
        /// Inputs for each reader
        #[arg(long, value_name = "N", default_value_t = 200_000)]
        inputs: u64,
    },
    /// Build the static binary that runs on any host
    Dist {
        /// Of this processor
        #[arg(long, value_enum, default_value_t)]
        arch: Arch,
    },
    /// Make what hosts install, from the static binary
    Package {
        /// Only these kinds
        #[arg(value_name = "KIND", value_parser = PossibleValuesParser::new(package::kinds()))]
        kinds: Vec<String>,
        /// Of this processor
        #[arg(long, value_enum, default_value_t)]
        arch: Arch,
        /// Build and pack once more, elsewhere: the same bytes must come out
        #[arg(long, conflicts_with = "arch")]
        twice: bool,
    },
    /// Say where a program is that tests let stealtrace meet (prometheus, promtool, ...); fetch it if need be
    Peer {
        /// Its name
        name: String,
    },
    /// Boot real kernels
    #[command(subcommand)]
    Lab(lab::Verb),
}

fn main() -> ExitCode {
    match run(Cli::parse().verb) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            process::say(&format!("{error:#}"));
            ExitCode::from(TROUBLE)
        }
    }
}

fn run(verb: Verb) -> Result<u8> {
    if !(matches!(verb, Verb::Lab(_)) && build::is_done()) {
        setup::setup()?;
    }
    match verb {
        Verb::Setup => process::say("nothing is missing"),
        Verb::Demo { picture } => demo::demo(picture)?,
        Verb::Test => return check::check(),
        Verb::Bench { parts } => bench::bench(&parts)?,
        Verb::Fuzz { inputs } => fuzz::fuzz(inputs)?,
        Verb::Dist { arch } => {
            let binary = build::dist(arch)?;
            process::say(&format!("{} runs on any {} host", binary.display(), arch.name()));
        }
        Verb::Package { kinds, arch, twice } => {
            let made = if twice { package::twice(&kinds) } else { package::package(&kinds, arch) };
            for package in made? {
                writeln!(io::stdout(), "{}", package.display()).context("print")?;
            }
        }
        Verb::Peer { name } => {
            writeln!(io::stdout(), "{}", peers::find(&name)?.display()).context("print")?;
        }
        Verb::Lab(verb) => return lab::run(verb),
    }
    Ok(0)
}
