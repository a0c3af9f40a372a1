//! `stealtrace completions`: what a shell completes.

use anyhow::Result;
use clap::Args;
use clap_complete::{Shell, generate};

use super::{Run, Shared, command};
use crate::exit::Exit;

/// Print what a shell needs to complete stealtrace's command line
#[derive(Args, Debug)]
#[command(after_help = HELP)]
pub(super) struct Completions {
    #[arg(value_enum)]
    shell: Shell,
}

const HELP: &str = help!(
    "  stealtrace completions bash                          into bash-completion's folder
  stealtrace completions zsh                           into a folder of $fpath, as _stealtrace
  stealtrace completions fish                          into ~/.config/fish/completions",
    "  0  printed
  2  bad usage"
);

impl Run for Completions {
    fn run(self, shared: &Shared) -> Result<Exit> {
        generate(self.shell, &mut command(), "stealtrace", &mut shared.out.clone());
        Ok(Exit::Clean)
    }
}
