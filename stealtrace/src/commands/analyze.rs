//! `stealtrace analyze`.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Args;

use super::{
    Run, Shared,
    options::{NOT_WITH_CALLS, Only, View},
};
use crate::{
    analyze::{AnalyzeOptions, analyze},
    evidence::Kind,
    exit::Exit,
};

/// Judge a recording, or the logs of an old bug report
#[derive(Args, Debug)]
#[command(after_help = HELP)]
pub(super) struct Analyze {
    /// A recording, or a log; - for standard input
    file: PathBuf,
    /// What the file is; found out if not given
    #[arg(long, value_enum)]
    kind: Option<Kind>,
    #[command(flatten)]
    only: Only,
    #[command(flatten)]
    view: View,
    /// Show calls and returns, if the recording has them
    #[arg(long, conflicts_with_all = NOT_WITH_CALLS)]
    calls: bool,
}

const HELP: &str = help!(
    "  stealtrace analyze vm.stealtrace                     a recording, with every option of trace
  stealtrace analyze strace.log                        which thread issued which vCPU ioctl
  cat /proc/uptime /proc/stat | stealtrace analyze -   is this guest's steal possible?",
    "  0  nothing found and nothing missed
  1  findings at or above --fail-on
  2  the file cannot be read, or is none that is known
  3  inconclusive: cut off, damaged, or nothing of it was understood"
);

impl Run for Analyze {
    fn run(self, shared: &Shared) -> Result<Exit> {
        let options = AnalyzeOptions {
            kind: self.kind,
            selection: self.view.selection(),
            style: self.view.style(self.calls, &shared.out)?,
            fail_on: self.view.fail_on,
            filter: self.only.filter(),
            file: self.file,
        };
        analyze(&options, &shared.out)
    }

    fn file(&self) -> Option<&Path> {
        Some(&self.file)
    }
}
