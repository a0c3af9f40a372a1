//! The command line: parses, and hands plain options to the commands.

use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::{
    backend::BackendKind, doctor::DoctorFormat, model::Severity, report::Format, session::TraceOptions,
    vmm::scenario::Class,
};

/// Finds out, on a live KVM host, why a guest's steal time is wrong.
#[derive(Debug, Parser)]
#[command(version, after_help = EXIT_CODES)]
pub struct Cli {
    /// Show diagnostics of stealtrace itself on stderr
    #[arg(short, long, global = true)]
    pub verbose: bool,
    #[command(subcommand)]
    #[expect(missing_docs, reason = "clap would show it")]
    pub command: Command,
}

const EXIT_CODES: &str = "\
Exit codes:
  0  nothing found and nothing missed
  1  findings at or above --fail-on, or a verdict not as expected
  2  could not run, or bad usage
  3  inconclusive: events were lost, or the traced command failed";

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Say what of this host stealtrace can use, and if not, why
    Doctor(Doctor),
    /// Trace vCPU ioctls and steal updates, and flag what corrupts steal time
    Trace(Trace),
    /// Prove what the running kernel's steal accounting can be trusted with
    Verify(Verify),
}

/// `stealtrace doctor`
#[derive(Args, Debug)]
#[expect(missing_docs, reason = "clap would show it")]
pub struct Doctor {
    #[arg(long, value_enum, default_value_t = DoctorFormat::Table)]
    pub format: DoctorFormat,
}

/// `stealtrace verify`
#[derive(Args, Debug)]
pub struct Verify {
    /// Scenarios to play; all if none are named
    pub scenarios: Vec<String>,
    /// List the scenarios instead
    #[arg(long)]
    pub list: bool,
    /// What this kernel should be; sound passes for fixed
    #[arg(long, value_enum, default_value_t = Class::Fixed)]
    pub expect: Class,
}

/// `stealtrace trace`
#[derive(Args, Debug)]
#[expect(missing_docs, reason = "clap shows the comments below as help")]
pub struct Trace {
    /// Where events come from
    #[arg(long, value_enum, default_value_t = BackendChoice::Auto)]
    pub backend: BackendChoice,
    /// Trace only this process (repeatable)
    #[arg(long = "pid", value_name = "PID", conflicts_with = "command")]
    pub pids: Vec<u32>,
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
    /// Print findings and the summary, not every event
    #[arg(long)]
    pub findings_only: bool,
    /// End after this time: 500ms, 10s, 5m, 1h
    #[arg(long, value_parser = parse_duration)]
    pub duration: Option<Duration>,
    /// Kernel memory for events that wait to be read, in KiB: a power of two
    #[arg(long, value_name = "KIB", default_value_t = 8192, value_parser = parse_buffer)]
    pub buffer: u32,
    /// Exit with 1 for findings of at least this severity
    #[arg(long, value_enum, default_value_t = Severity::Error)]
    pub fail_on: Severity,
    /// Run this command, trace it and its children, and end with it
    #[arg(last = true, value_name = "CMD")]
    pub command: Vec<String>,
}

/// `--backend`
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum BackendChoice {
    /// Kprobes if this kernel has them, else tracepoints
    Auto,
    /// Kprobes on KVM's functions
    Kprobe,
    /// Raw tracepoints on system calls
    Tracepoint,
}

impl From<BackendChoice> for Option<BackendKind> {
    fn from(choice: BackendChoice) -> Self {
        match choice {
            BackendChoice::Auto => None,
            BackendChoice::Kprobe => Some(BackendKind::Kprobe),
            BackendChoice::Tracepoint => Some(BackendKind::Tracepoint),
        }
    }
}

impl Trace {
    /// The same, without clap.
    #[must_use]
    pub fn options(self, verbose: bool) -> TraceOptions {
        TraceOptions {
            backend: self.backend.into(),
            pids: self.pids,
            format: self.format,
            findings_only: self.findings_only,
            duration: self.duration,
            ring_bytes: self.buffer * 1024,
            fail_on: self.fail_on,
            command: self.command,
            verbose,
        }
    }
}

/// `500ms`, `10s`, `5m`, `1h`.
fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let millis_per_unit = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err("expected a number and a unit: 500ms, 10s, 5m, 1h".to_owned()),
    };
    let number: u64 = number.parse().map_err(|_| "expected a number before the unit".to_owned())?;
    number.checked_mul(millis_per_unit).map(Duration::from_millis).ok_or_else(|| "too long".to_owned())
}

/// A power of two from 4 (a page) to 1 GiB.
fn parse_buffer(text: &str) -> Result<u32, String> {
    let kib: u32 = text.parse().map_err(|_| "expected a number of KiB".to_owned())?;
    let fits = (4..=1 << 20).contains(&kib) && kib.is_power_of_two();
    if fits { Ok(kib) } else { Err("expected a power of two from 4 to 1048576".to_owned()) }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use clap::CommandFactory as _;

    use super::{Cli, parse_duration};

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn durations_have_units() {
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("10s"), Ok(Duration::from_secs(10)));
        assert_eq!(parse_duration("1h"), Ok(Duration::from_secs(3600)));
        assert!(parse_duration("10").is_err());
        assert!(parse_duration("s").is_err());
        assert!(parse_duration("99999999999999999999s").is_err());
    }
}
