//! The command line: parses, and hands plain options to the commands.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Result, bail};
use clap::{
    ArgAction, Args, Parser, Subcommand, ValueEnum,
    builder::{NonEmptyStringValueParser, RangedU64ValueParser},
};

use crate::{
    analyze::AnalyzeOptions,
    backend::BackendKind,
    detect::RULES,
    doctor::DoctorFormat,
    evidence::Kind,
    guard::GuardOptions,
    guest::GuestOptions,
    help,
    inspect::InspectOptions,
    model::Severity,
    os::output::{Color, Output},
    pipeline::{Filter, Selection},
    report::{Format, Paint, Style, Units, VerifyFormat},
    session::TraceOptions,
    verify::{Expectation, VerifyOptions},
    vmm::{Work, scenario::Class},
};

/// Finds out, on a live KVM host, why a guest's steal time is wrong.
#[derive(Debug, Parser)]
#[command(version, after_help = EXIT_CODES)]
pub struct Cli {
    /// Show diagnostics of stealtrace itself on stderr
    #[arg(short, long, global = true)]
    pub verbose: bool,
    /// Say nothing on stderr but what went wrong
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
    /// Colour text; auto: on a terminal, unless NO_COLOR is set
    #[arg(long, global = true, value_name = "WHEN", value_enum, hide_possible_values = true, default_value_t = Color::Auto)]
    pub color: Color,
    /// Write the results to this file instead of standard output
    #[arg(long, global = true, value_name = "FILE", value_parser = parse_file)]
    pub output: Option<PathBuf>,
    #[command(subcommand)]
    #[expect(missing_docs, reason = "clap would show it")]
    pub command: Command,
}

const EXIT_CODES: &str = "\
Exit codes:
  0  nothing found and nothing missed
  1  findings at or above --fail-on, or a verdict not as expected
  2  could not run, or bad usage
  3  inconclusive: events were lost, a file was cut off or damaged, the traced command failed,
     or verify was interrupted";

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Say what of this host stealtrace can use, and if not, why
    #[command(after_help = help::DOCTOR)]
    Doctor(Doctor),
    /// Trace vCPU ioctls and steal updates, and flag what corrupts steal time
    #[command(after_help = help::TRACE)]
    Trace(Box<Trace>),
    /// Judge a recording, or the logs of an old bug report
    #[command(after_help = help::ANALYZE)]
    Analyze(Analyze),
    /// Explain the rules
    Rules(Rules),
    /// Prove what the running kernel's steal accounting can be trusted with
    #[command(after_help = help::VERIFY)]
    Verify(Verify),
    /// Put the guest's steal counter back when KVM's update corrupted it, before the guest runs
    #[command(after_help = help::GUARD)]
    Guard(Guard),
    /// Every vCPU of every running VM, and whether its steal counter is sound
    #[command(after_help = help::INSPECT)]
    Inspect(Inspect),
    /// Inside a Linux guest: judge the steal time it shows
    #[command(after_help = help::GUEST)]
    Guest(Guest),
    /// Issue vCPU ioctls flat out and say how long one takes, to measure what watching costs
    #[command(hide = true)]
    Load(Load),
}

impl Cli {
    /// What is written must not be what is read, or written twice.
    ///
    /// # Errors
    /// When it is.
    pub fn require_different_files(&self) -> Result<()> {
        let other = match &self.command {
            Command::Trace(trace) => trace.record.as_deref(),
            Command::Analyze(analyze) => Some(&*analyze.file),
            _ => None,
        };
        match (&self.output, other) {
            (Some(output), Some(other)) if is_same_file(output, other) => {
                bail!("--output must be another file than {}", other.display())
            }
            _ => Ok(()),
        }
    }
}

fn is_same_file(one: &Path, other: &Path) -> bool {
    let regular = |path: &Path| fs::metadata(path).ok().filter(fs::Metadata::is_file);
    match (regular(one), regular(other)) {
        (Some(one), Some(other)) => (one.dev(), one.ino()) == (other.dev(), other.ino()),
        _ => one == other,
    }
}

/// `stealtrace load`
#[derive(Args, Debug)]
#[expect(missing_docs, reason = "clap would show it")]
pub struct Load {
    #[arg(value_enum)]
    pub work: Work,
    /// vCPUs at once
    #[arg(long, default_value_t = 1, value_parser = RangedU64ValueParser::<usize>::new().range(1..=1024))]
    pub vcpus: usize,
    /// vCPUs that exist beside them and do nothing
    #[arg(long, default_value_t = 0, value_parser = RangedU64ValueParser::<usize>::new().range(..=1_000_000))]
    pub idle: usize,
    /// Leave the guest's counter as an underflow does: a second below 2^64
    #[arg(long)]
    pub poison: bool,
    #[arg(long, default_value = "1s", value_parser = parse_time)]
    pub duration: Duration,
}

/// `stealtrace guard`
#[derive(Args, Debug)]
#[expect(missing_docs, reason = "clap would show it")]
pub struct Guard {
    /// Only VMs of this process (repeatable)
    #[arg(long = "pid", value_name = "PID")]
    pub pids: Vec<u32>,
    /// Print what would be written; write nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Do not ask before writing to guests' memory
    #[arg(long)]
    pub yes: bool,
    /// Also put back what an over-charge added
    #[arg(long)]
    pub over_charge: bool,
    /// Re-base, once per vCPU, a counter that was poisoned before guard began
    #[arg(long)]
    pub heal: bool,
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
    /// Run this command, guard it and its children, and end with it
    #[arg(last = true, value_name = "CMD", conflicts_with = "pids")]
    pub command: Vec<String>,
}

/// `stealtrace inspect`
#[derive(Args, Debug)]
#[expect(missing_docs, reason = "clap would show it")]
pub struct Inspect {
    /// Only VMs of this process (repeatable)
    #[arg(long = "pid", value_name = "PID")]
    pub pids: Vec<u32>,
    /// Look again after this time, until Ctrl-C
    #[arg(long, value_name = "TIME", value_parser = parse_pause)]
    pub watch: Option<Duration>,
    /// Time between the two looks that a judgement takes; 0s for one look
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = parse_time)]
    pub wait: Duration,
    #[arg(long, value_enum, default_value_t = DoctorFormat::Table)]
    pub format: DoctorFormat,
}

/// `stealtrace guest`
#[derive(Args, Debug)]
#[expect(missing_docs, reason = "clap would show it")]
pub struct Guest {
    /// Time between two looks
    #[arg(long, default_value = "1s", value_parser = parse_pause)]
    pub interval: Duration,
    /// Looks at /proc/stat; 0 for as many as there are until Ctrl-C [default: 2, more where a CPU is at 100 % steal]
    #[arg(long, value_name = "N")]
    pub count: Option<u64>,
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}

/// `stealtrace doctor`
#[derive(Args, Debug)]
#[expect(missing_docs, reason = "clap would show it")]
pub struct Doctor {
    #[arg(long, value_enum, default_value_t = DoctorFormat::Table)]
    pub format: DoctorFormat,
}

/// `stealtrace rules`
#[derive(Args, Debug)]
pub struct Rules {
    /// Only this one
    #[arg(value_parser = rule_ids())]
    pub id: Option<String>,
}

/// `stealtrace verify`
#[derive(Args, Debug)]
pub struct Verify {
    /// Scenarios to play, as globs ('restore-*'); all if none are named
    #[arg(value_name = "SCENARIO")]
    pub scenarios: Vec<String>,
    /// List the scenarios instead
    #[arg(long)]
    pub list: bool,
    #[arg(long, value_enum, default_value_t = VerifyFormat::Table)]
    #[expect(missing_docs, reason = "clap would show it")]
    pub format: VerifyFormat,
    /// What this kernel should be, and be shown to be; sound passes for fixed [default: fixed]
    #[arg(long, value_enum)]
    pub expect: Option<Class>,
    /// Let an over-charge count also where kernels of that class are known for it
    #[arg(long)]
    pub strict: bool,
    /// Play each scenario so often; the worst counts
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub repeat: u32,
    /// Where random-hand-offs starts; random if not given, and always printed
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Hand-offs that random-hand-offs makes
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub rounds: u32,
    /// Trust the VMM alone: on kernels too old or too locked for eBPF
    #[arg(long)]
    pub no_trace: bool,
    /// How the second witness sees
    #[arg(long, value_enum, default_value_t = BackendChoice::Auto, conflicts_with = "no_trace")]
    pub backend: BackendChoice,
}

/// What to show and how; the same for live traces and files.
#[derive(Args, Debug)]
#[expect(missing_docs, reason = "clap would show it")]
pub struct View {
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
    /// Print findings and the summary, not every event
    #[arg(long)]
    pub findings_only: bool,
    /// Apply only this rule (repeatable); `stealtrace rules` lists them
    #[arg(long = "rule", value_name = "ID", value_parser = rule_ids())]
    pub rules: Vec<String>,
    /// Ignore findings below this severity
    #[arg(long, value_enum, default_value_t = Severity::Notice)]
    pub min_severity: Severity,
    /// End after so many findings
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub stop_after: Option<u64>,
    /// Exit with 1 for findings of at least this severity
    #[arg(long, value_enum, default_value_t = Severity::Error)]
    pub fail_on: Severity,
    /// Show times in text as plain nanoseconds
    #[arg(long)]
    pub ns: bool,
    /// Show UTC beside the time since the start
    #[arg(long)]
    pub utc: bool,
}

/// Whose events.
#[derive(Args, Debug)]
pub struct Only {
    /// Only this process (repeatable)
    #[arg(long = "pid", value_name = "PID")]
    pub pids: Vec<u32>,
    /// Only this thread
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub tid: Option<u32>,
    /// Only vCPUs of this id
    #[arg(long, value_name = "ID", value_parser = clap::value_parser!(u32).range(..0xffff_ffff))]
    pub vcpu: Option<u32>,
    /// Only threads of this name
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    pub comm: Option<String>,
}

/// `stealtrace trace`
#[derive(Args, Debug)]
#[expect(missing_docs, reason = "clap would show it")]
pub struct Trace {
    /// Where events come from
    #[arg(long, value_enum, default_value_t = BackendChoice::Auto)]
    pub backend: BackendChoice,
    #[command(flatten)]
    pub only: Only,
    #[command(flatten)]
    pub view: View,
    /// Show calls and returns of KVM's functions, nested, as the systemtap script of 2015 did
    #[arg(long, conflicts_with_all = ["findings_only", "format"])]
    pub calls: bool,
    /// One more function for --calls (repeatable)
    #[arg(long = "function", value_name = "NAME", requires = "calls", action = ArgAction::Append)]
    pub functions: Vec<String>,
    /// End after this time: 500ms, 10s, 5m, 1h
    #[arg(long, value_parser = parse_time)]
    pub duration: Option<Duration>,
    /// Write the events to this file, for `stealtrace analyze`
    #[arg(long, value_name = "FILE", value_parser = parse_file)]
    pub record: Option<PathBuf>,
    /// Kernel memory for events that wait to be read, in KiB: a power of two; 32768, or 1024 with --findings-only
    #[arg(long, value_name = "KIB", value_parser = parse_buffer)]
    pub buffer: Option<u32>,
    /// Attach programs that do nothing, to measure what the probes alone cost
    #[arg(long, hide = true)]
    pub floor: bool,
    /// Run this command and trace it and its children until the last has ended; if the trace ends before, end it
    #[arg(last = true, value_name = "CMD", conflicts_with_all = ["pids", "tid"])]
    pub command: Vec<String>,
}

/// `stealtrace analyze`
#[derive(Args, Debug)]
#[expect(missing_docs, reason = "clap would show it")]
pub struct Analyze {
    /// A recording, or a log; - for standard input
    pub file: PathBuf,
    /// What the file is; found out if not given
    #[arg(long, value_enum)]
    pub kind: Option<Kind>,
    #[command(flatten)]
    pub only: Only,
    #[command(flatten)]
    pub view: View,
    /// Show calls and returns, if the recording has them
    #[arg(long, conflicts_with_all = ["findings_only", "format"])]
    pub calls: bool,
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

impl View {
    fn selection(&self) -> Selection {
        Selection {
            findings_only: self.findings_only,
            rules: self.rules.clone(),
            min_severity: self.min_severity,
            stop_after: self.stop_after,
        }
    }

    const fn units(&self) -> Units {
        if self.ns { Units::Plain } else { Units::Human }
    }

    fn style(&self, calls: bool, out: &Output) -> Style {
        Style { format: self.format, calls, paint: Paint::of(out), units: self.units(), utc: self.utc }
    }
}

impl Only {
    fn filter(self) -> Filter {
        Filter { pids: self.pids, tid: self.tid, vcpu_id: self.vcpu, comm: self.comm }
    }
}

/// The functions the systemtap script of 2015 followed.
const CALLS: [&str; 7] = [
    "kvm_arch_vcpu_load",
    "kvm_arch_vcpu_put",
    "kvm_arch_vcpu_ioctl",
    "kvm_arch_vcpu_ioctl_run",
    "kvm_put_guest_fpu",
    "kvm_arch_vcpu_runnable",
    "kvm_arch_vcpu_should_kick",
];

impl Trace {
    /// The same, without clap.
    #[must_use]
    pub fn options(self, verbose: bool, out: &Output) -> TraceOptions {
        let functions = if self.calls {
            CALLS.iter().map(|name| (*name).to_owned()).chain(self.functions).collect()
        } else {
            Vec::new()
        };
        let usual_buffer = if self.view.findings_only { 1024 } else { 32_768 };
        TraceOptions {
            backend: self.backend.into(),
            selection: self.view.selection(),
            style: self.view.style(self.calls, out),
            fail_on: self.view.fail_on,
            filter: self.only.filter(),
            functions,
            duration: self.duration,
            record: self.record,
            ring_bytes: self.buffer.unwrap_or(usual_buffer) * 1024,
            floor: self.floor,
            command: self.command,
            verbose,
        }
    }
}

impl Guard {
    /// The same, without clap.
    #[must_use]
    pub fn options(self, verbose: bool) -> GuardOptions {
        GuardOptions {
            pids: self.pids,
            dry_run: self.dry_run,
            yes: self.yes,
            over_charge: self.over_charge,
            heal: self.heal,
            format: self.format,
            command: self.command,
            verbose,
        }
    }
}

impl Inspect {
    /// The same, without clap.
    #[must_use]
    pub fn options(self) -> InspectOptions {
        InspectOptions { pids: self.pids, watch: self.watch, wait: self.wait, format: self.format }
    }
}

impl Guest {
    /// The same, without clap.
    #[must_use]
    pub fn options(&self, out: &Output) -> GuestOptions {
        let style = Style {
            format: self.format,
            calls: false,
            paint: Paint::of(out),
            units: Units::Human,
            utc: false,
        };
        GuestOptions { interval: self.interval, count: self.count, style }
    }
}

impl Verify {
    /// The same, without clap.
    #[must_use]
    pub fn options(self) -> VerifyOptions {
        VerifyOptions {
            scenarios: self.scenarios,
            expectation: Expectation {
                class: self.expect.unwrap_or(Class::Fixed),
                asked: self.expect.is_some(),
                strict: self.strict,
            },
            repeat: self.repeat,
            seed: self.seed.unwrap_or_else(|| fastrand::u32(..).into()), // short enough to type
            rounds: self.rounds,
            no_trace: self.no_trace,
            backend: self.backend.into(),
            format: self.format,
        }
    }
}

impl Analyze {
    /// The same, without clap.
    #[must_use]
    pub fn options(self, out: &Output) -> AnalyzeOptions {
        AnalyzeOptions {
            kind: self.kind,
            selection: self.view.selection(),
            style: self.view.style(self.calls, out),
            fail_on: self.view.fail_on,
            filter: self.only.filter(),
            file: self.file,
        }
    }
}

/// The ids of all rules.
fn rule_ids() -> clap::builder::PossibleValuesParser {
    RULES.iter().map(|rule| rule.id).collect::<Vec<_>>().into()
}

/// Longer ones are typing errors, and past what clocks can add.
const MOST_DAYS: u64 = 365;

/// `500ms`, `10s`, `5m`, `1h`: every duration there is.
fn parse_time(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    let fits = time <= Duration::from_secs(MOST_DAYS * 24 * 3600);
    if fits { Ok(time) } else { Err(format!("expected at most {MOST_DAYS} days")) }
}

/// The same for what is done again and again.
fn parse_pause(text: &str) -> Result<Duration, String> {
    let time = parse_time(text)?;
    if time >= Duration::from_millis(1) { Ok(time) } else { Err("expected at least 1ms".to_owned()) }
}

/// A file to write.
fn parse_file(text: &str) -> Result<PathBuf, String> {
    match text {
        "-" => Err("expected a file; /dev/stdout is standard output, ./- a file of that name".to_owned()),
        "" => Err("expected a file".to_owned()),
        file => Ok(file.into()),
    }
}

/// A power of two from 4 (a page) to 1 GiB.
fn parse_buffer(text: &str) -> Result<u32, String> {
    let kib: u32 = text.parse().map_err(|_| "expected a number of KiB".to_owned())?;
    let fits = (4..=1 << 20).contains(&kib) && kib.is_power_of_two();
    if fits { Ok(kib) } else { Err("expected a power of two from 4 to 1048576".to_owned()) }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::{Cli, parse_buffer, parse_file, parse_pause, parse_time};

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

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
