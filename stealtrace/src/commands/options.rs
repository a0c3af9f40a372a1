//! Options that several subcommands have, and how values are read.

use std::{path::PathBuf, time::Duration};

use anyhow::{Result, ensure};
use clap::{
    Args, ValueEnum,
    builder::{NonEmptyStringValueParser, PossibleValuesParser, TypedValueParser},
};

use crate::{
    backend::BackendKind,
    detect::RULES,
    model::Severity,
    os::output::Output,
    pipeline::{Filter, Selection},
    report::{Format, Paint, Style, Units},
};

/// One of those that can: a format that shows it, a backend that sees it.
pub(super) fn that<T: ValueEnum + Clone + Send + Sync + 'static>(
    can: fn(T) -> bool,
) -> impl TypedValueParser<Value = T> + use<T> {
    let able = T::value_variants().iter().filter(|one| can((*one).clone()));
    let names = able.filter_map(ValueEnum::to_possible_value);
    PossibleValuesParser::from(names.collect::<Vec<_>>()).try_map(|name| T::from_str(&name, false))
}

/// What the view of calls, of `--calls`, has no place for.
pub(super) const NOT_WITH_CALLS: [&str; 4] = ["findings_only", "format", "utc", "ns"];

/// What to show and how; the same for live traces and files.
#[derive(Args, Debug)]
pub(super) struct View {
    #[arg(long, default_value = "text", value_parser = that(Format::shows_runs))]
    pub(super) format: Format,
    /// Print findings and the summary, not every event
    #[arg(long)]
    pub(super) findings_only: bool,
    /// Apply only this rule (repeatable); `stealtrace rules` lists them
    #[arg(long = "rule", value_name = "ID", value_parser = rule_ids())]
    pub(super) rules: Vec<String>,
    /// Ignore findings below this severity
    #[arg(long, value_enum, default_value_t = Severity::Notice)]
    pub(super) min_severity: Severity,
    /// End after so many findings
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) stop_after: Option<u64>,
    /// Exit with 1 for findings of at least this severity
    #[arg(long, value_enum, default_value_t = Severity::Error)]
    pub(super) fail_on: Severity,
    /// Show times in text as plain nanoseconds
    #[arg(long)]
    pub(super) ns: bool,
    /// Show UTC beside the time since the start
    #[arg(long)]
    pub(super) utc: bool,
}

impl View {
    pub(super) fn selection(&self) -> Selection {
        Selection {
            findings_only: self.findings_only,
            rules: self.rules.clone(),
            min_severity: self.min_severity,
            stop_after: self.stop_after,
        }
    }

    pub(super) const fn units(&self) -> Units {
        if self.ns { Units::Plain } else { Units::Human }
    }

    pub(super) fn style(&self, calls: bool, out: &Output) -> Result<Style> {
        ensure!(
            !(self.format.is_binary() && out.is_terminal()),
            "this format is not for a terminal; use --output FILE"
        );
        Ok(Style { format: self.format, calls, paint: Paint::of(out), units: self.units(), utc: self.utc })
    }
}

/// Whose events.
#[derive(Args, Debug)]
pub(super) struct Only {
    /// Only this process (repeatable)
    #[arg(long = "pid", value_name = "PID")]
    pub(super) pids: Vec<u32>,
    /// Only this thread
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) tid: Option<u32>,
    /// Only vCPUs of this id
    #[arg(long, value_name = "ID", value_parser = clap::value_parser!(u32).range(..0xffff_ffff))]
    pub(super) vcpu: Option<u32>,
    /// Only threads of this name
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    pub(super) comm: Option<String>,
}

impl Only {
    pub(super) fn filter(&self) -> Filter {
        Filter { pids: self.pids.clone(), tid: self.tid, vcpu_id: self.vcpu, comm: self.comm.clone() }
    }
}

/// `--backend`
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum BackendChoice {
    /// The cheapest that this kernel has, function by function
    Auto,
    /// Programs on the entries of KVM's functions
    Fentry,
    /// Kprobes on KVM's functions
    Kprobe,
    /// Raw tracepoints on system calls
    Tracepoint,
}

impl BackendChoice {
    /// Does it see KVM's functions begin and end?
    pub(super) const fn sees_functions(self) -> bool {
        !matches!(self, Self::Tracepoint)
    }
}

impl From<BackendChoice> for Option<BackendKind> {
    fn from(choice: BackendChoice) -> Self {
        match choice {
            BackendChoice::Auto => None,
            BackendChoice::Fentry => Some(BackendKind::Fentry),
            BackendChoice::Kprobe => Some(BackendKind::Kprobe),
            BackendChoice::Tracepoint => Some(BackendKind::Tracepoint),
        }
    }
}

/// The ids of all rules.
pub(super) fn rule_ids() -> clap::builder::PossibleValuesParser {
    RULES.iter().map(|rule| rule.id.as_str()).collect::<Vec<_>>().into()
}

/// Longer ones are typing errors, and past what clocks can add.
const MOST_DAYS: u64 = 365;

/// `500ms`, `10s`, `5m`, `1h`: every duration there is.
pub(super) fn parse_time(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    let fits = time <= Duration::from_secs(MOST_DAYS * 24 * 3600);
    if fits { Ok(time) } else { Err(format!("expected at most {MOST_DAYS} days")) }
}

/// The same for what is done again and again.
pub(super) fn parse_pause(text: &str) -> Result<Duration, String> {
    let time = parse_time(text)?;
    if time >= Duration::from_millis(1) { Ok(time) } else { Err("expected at least 1ms".to_owned()) }
}

/// A file to write.
pub(super) fn parse_file(text: &str) -> Result<PathBuf, String> {
    match text {
        "-" => Err("expected a file; /dev/stdout is standard output, ./- a file of that name".to_owned()),
        "" => Err("expected a file".to_owned()),
        file => Ok(file.into()),
    }
}

/// A power of two from 4 (a page) to 1 GiB.
pub(super) fn parse_buffer(text: &str) -> Result<u32, String> {
    let kib: u32 = text.parse().map_err(|_| "expected a number of KiB".to_owned())?;
    let fits = (4..=1 << 20).contains(&kib) && kib.is_power_of_two();
    if fits { Ok(kib) } else { Err("expected a power of two from 4 to 1048576".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::{parse_buffer, parse_file, parse_pause, parse_time};

    #[test]
    fn every_duration_can_be_added_to_any_clock() {
        assert!(
            parse_time("365days").is_ok_and(|time| std::time::Instant::now().checked_add(time).is_some())
        );
        for bad in ["366days", "18446744073709551615s", "99999999999999999999s", "-1s", "10", "", "x"] {
            assert!(parse_time(bad).is_err(), "{bad}");
            assert!(parse_pause(bad).is_err(), "{bad}");
        }
        assert!(parse_time("0s").is_ok() && parse_pause("0s").is_err() && parse_pause("1ms").is_ok());
    }

    #[test]
    fn a_dash_is_no_file_to_write() {
        assert!(parse_file("-").is_err_and(|error| error.contains("/dev/stdout")));
        assert_eq!(parse_file("./-"), Ok("./-".into()));
    }

    #[test]
    fn the_buffer_is_what_the_kernel_accepts() {
        assert_eq!(parse_buffer("4"), Ok(4));
        assert_eq!(parse_buffer("1048576"), Ok(1 << 20));
        for bad in ["3", "5", "0", "2097152", "-4", "x"] {
            assert!(parse_buffer(bad).is_err(), "{bad}");
        }
    }
}
