//! `stealtrace guest`, inside a Linux guest: is the steal that this guest shows possible? Reads /proc/stat, judges it
//! as `analyze --kind proc-stat` does, and shows where the guest told KVM to count. Changes nothing.

use std::{
    fs, io,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use clap::Args;

use stealtrace_common::event::Event;

use super::{
    Run, Shared,
    options::{parse_pause, that},
};
use crate::{
    evidence::{Kind, Lines, Missed, ProcStat, Reader as _, Sink, Tally},
    exit::Exit,
    model::{Finding, GuestCpu, Severity, Summary, VcpuKey},
    os::interrupt::Interrupt,
    pipeline::{Pipeline, Selection},
    record::Header,
    report::{self, Format, Paint, Style, Units},
};

const STAT: &str = "/proc/stat";
const UPTIME: &str = "/proc/uptime";

/// Looks that tell a counter that moves from one that does not.
const LOOKS: u64 = 2;
/// What tells a CPU that is starved for a moment from one that shows nothing but steal; more than ten seconds.
const TIME_IF_STUCK: Duration = Duration::from_secs(12);

/// Inside a Linux guest: judge the steal time it shows
#[derive(Args, Debug)]
#[command(after_help = HELP)]
pub(super) struct Guest {
    /// Time between two looks
    #[arg(long, default_value = "1s", value_parser = parse_pause)]
    interval: Duration,
    /// Looks at /proc/stat; 0 for as many as there are until Ctrl-C [default: 2, more where a CPU is at 100 % steal]
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    #[arg(long, default_value = "text", value_parser = that(Format::shows_states))]
    format: Format,
}

const HELP: &str = help!(
    "  stealtrace guest                                     two looks, a second apart
  stealtrace guest --count 0 --interval 10s            until Ctrl-C",
    "  0  nothing impossible
  1  a CPU's steal is poisoned or went backwards
  2  cannot be read here, or bad usage
  3  inconclusive: what was read cannot be judged"
);

impl Run for Guest {
    fn run(self, shared: &Shared) -> Result<Exit> {
        let (interrupt, out) = (Interrupt::block()?, &shared.out);
        let style = Style {
            format: self.format,
            calls: false,
            paint: Paint::of(out),
            units: Units::Human,
            utc: false,
        };
        let reporter = report::reporter(style, &Header::of_log(), out.clone());
        let pipeline = Pipeline::new(&Selection::EVERYTHING, reporter);
        let mut judge = Judge { pipeline, missed: Missed::default() };
        let (mut reader, mut tally) = (ProcStat::default(), Tally::default());
        let (began, mut looks) = (Instant::now(), 0);
        loop {
            let read = |file: &str| fs::read_to_string(file).with_context(|| format!("read {file}"));
            let stat = read(STAT)?;
            look(&(read(UPTIME)? + &stat), &mut reader, &mut tally, &mut judge)?;
            looks += 1;
            if looks == 1 || self.format == Format::Json {
                report::guest::show(&cpus(&stat), self.format, out.clone())?;
            }
            let enough = match self.count {
                Some(count) => looks == count,
                None => looks >= LOOKS && !(reader.is_undecided() && began.elapsed() < TIME_IF_STUCK),
            };
            if enough || out.is_over() || interrupt.wait(self.interval) {
                break;
            }
        }
        let summary = judge.end(&tally, looks)?;
        Ok(Exit::of(&summary, Severity::Error))
    }
}

/// Judge what /proc says once.
fn look(text: &str, reader: &mut ProcStat, tally: &mut Tally, judge: &mut Judge) -> io::Result<()> {
    let mut lines = Lines::new(text.as_bytes());
    while tally.next_line(&mut lines, reader, judge)? {}
    reader.end(judge)
}

/// Hands what the reader says to the pipeline.
struct Judge {
    pipeline: Pipeline,
    missed: Missed,
}

impl Judge {
    fn end(&mut self, tally: &Tally, looks: u64) -> io::Result<Summary> {
        for note in self.missed.notes() {
            self.pipeline.note(&note)?;
        }
        let mut summary = self.pipeline.summary();
        summary.source = format!("{STAT}, {looks} times");
        summary.losses.undecodable = self.missed.total();
        summary.unproved = tally.unproved(Kind::ProcStat).map(|why| format!("{STAT}: {why}"));
        self.pipeline.end(&summary)?;
        Ok(summary)
    }
}

impl Sink for Judge {
    fn event(&mut self, event: &Event) -> io::Result<()> {
        self.pipeline.event(event).map(drop)
    }

    fn finding(&mut self, vcpu: VcpuKey, finding: Finding) -> io::Result<()> {
        self.pipeline.found(vcpu, finding).map(drop)
    }

    fn note(&mut self, note: &str) -> io::Result<()> {
        self.pipeline.note(note)
    }

    fn missed(&mut self, why: &'static str) {
        self.missed.add(why);
    }
}

fn cpus(stat: &str) -> Vec<GuestCpu> {
    stat.lines()
        .filter_map(steal_of_cpu)
        .map(|(id, steal_ticks)| GuestCpu { id, steal_ticks, enabling: enabling(id) })
        .collect()
}

/// `cpu3 user nice system idle iowait irq softirq steal …`
fn steal_of_cpu(line: &str) -> Option<(u32, u64)> {
    let cpu =
        line.strip_prefix("cpu").filter(|rest| rest.starts_with(|first: char| first.is_ascii_digit()))?;
    let mut words = cpu.split_ascii_whitespace();
    let id = words.next()?.parse().ok()?;
    Some((id, words.nth(7)?.parse().ok()?))
}

/// The guest's own view of its area's address: Linux keeps that to itself.
#[cfg(target_arch = "aarch64")]
fn enabling(_cpu: u32) -> Result<u64, String> {
    Err("not told; the kernel's log says whether stolen time is used".to_owned())
}

/// The guest's own view of the MSR, from the msr driver.
#[cfg(target_arch = "x86_64")]
fn enabling(cpu: u32) -> Result<u64, String> {
    use std::{fs::File, os::unix::fs::FileExt as _};

    use stealtrace_common::source::here::MSR;

    let name = format!("/dev/cpu/{cpu}/msr");
    let file = File::open(&name).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => "no msr driver; `modprobe msr`".to_owned(),
        io::ErrorKind::PermissionDenied => "no permission; run as root".to_owned(),
        _ => error.to_string(),
    })?;
    let mut value = [0; 8];
    match file.read_exact_at(&mut value, MSR.into()) {
        Ok(()) => Ok(u64::from_le_bytes(value)),
        Err(_) => Err("none: the host offers no steal time".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::{Judge, Summary, look, steal_of_cpu};
    use crate::{
        evidence::{Missed, ProcStat, Tally},
        exit::Exit,
        model::Severity,
        pipeline::{Pipeline, Selection},
        record::Header,
        report::{self, Format, Style, Units},
    };

    #[test]
    fn steal_is_the_eighth_column_of_a_cpu() {
        assert_eq!(steal_of_cpu("cpu3 1 2 3 4 5 6 7 88 9 10"), Some((3, 88)));
        for other in ["cpu  1 2 3 4 5 6 7 88 9 10", "intr 1 2", "cpu3 1 2 3"] {
            assert_eq!(steal_of_cpu(other), None, "{other}");
        }
    }

    fn looked_at(texts: &[&str]) -> (Exit, Summary) {
        let style = Style {
            format: Format::Text,
            calls: false,
            paint: report::Paint(false),
            units: Units::Human,
            utc: false,
        };
        let reporter = report::reporter(style, &Header::of_log(), io::sink());
        let pipeline = Pipeline::new(&Selection::EVERYTHING, reporter);
        let mut judge = Judge { pipeline, missed: Missed::default() };
        let (mut reader, mut tally) = (ProcStat::default(), Tally::default());
        for text in texts {
            look(text, &mut reader, &mut tally, &mut judge).unwrap();
        }
        let summary = judge.end(&tally, texts.len() as u64).unwrap();
        (Exit::of(&summary, Severity::Error), summary)
    }

    #[test]
    fn what_cannot_be_judged_is_inconclusive() {
        for stat in ["", "cpu  1 2 3 4 5 6 7 8\n", "cpu0 1 2 3 4 5 6 7 -8\n", "cpu0 1 2 3 4 5 6 7\n"] {
            let (exit, summary) = looked_at(&[&format!("9.00 1.00\n{stat}")]);
            assert_eq!(exit, Exit::Inconclusive, "{stat}");
            assert!(summary.inconclusive().is_some(), "{stat}");
        }
        assert_eq!(looked_at(&["9.00 1.00\ncpu0 1 2 3 4 5 6 7 8\n"]).0, Exit::Clean);
    }

    #[test]
    fn a_poisoned_cpu_is_one_finding_however_often_it_is_looked_at() {
        let look = |uptime: u32| format!("{uptime}.00 1.00\ncpu0 1 2 3 {uptime} 5 6 7 99999999\n");
        let (exit, summary) = looked_at(&[&look(5), &look(6), &look(7)]);
        assert_eq!((exit, summary.findings.values().sum::<u64>()), (Exit::Found, 1));
    }

    #[test]
    fn a_reboot_between_two_looks_is_none() {
        let looks = ["90.00 1.00\ncpu0 1 2 3 4 5 6 7 800\n", "5.00 1.00\ncpu0 1 2 3 4 5 6 7 8\n"];
        assert_eq!(looked_at(&looks).0, Exit::Clean);
    }
}
