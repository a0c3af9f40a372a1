//! Text: a line per event, `**` before those that a rule objects to, findings as lines of their own, a table at the end.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Write},
};

use stealtrace_common::event::{
    Event, EventKind, HOST_INITIATED, NUMBERS_UNKNOWN, STEAL_AFTER_KNOWN, STEAL_BEFORE_KNOWN,
};

use super::{Clock, Paint, Reporter, Tone, Units, table, units};
use crate::{
    detect::Ruling,
    ioctl,
    model::{Field, Finding, RuleId, Severity, Summary, Thread, Value, VcpuName, VcpuSummary},
    os::shown::shown,
};

pub(crate) struct Text<W> {
    clock: Clock,
    paint: Paint,
    units: Units,
    /// Advice that was printed.
    advised: BTreeSet<&'static str>,
    alike: BTreeMap<Alike, BTreeSet<String>>,
    out: W,
}

/// Findings that differ in their ioctl only: the first has its line at once, the others one line together at the end.
type Alike = (VcpuName, Severity, RuleId, Thread);

impl<W: Write> Text<W> {
    pub(crate) fn new(clock: Clock, paint: Paint, units: Units, out: W) -> Self {
        Self { clock, paint, units, advised: BTreeSet::new(), alike: BTreeMap::new(), out }
    }

    pub(super) fn out(&mut self) -> &mut W {
        &mut self.out
    }

    /// `**` on what a rule objects to.
    pub(super) fn mark(&self, anomalous: bool) -> String {
        if anomalous { self.paint.text(" **", Tone::Marked) } else { "   ".to_owned() }
    }

    /// Which vCPU and when, as far as the source tells.
    fn place(&self, finding: &Finding) -> String {
        if finding.vcpu.vm == 0 {
            return String::new();
        }
        match finding.time_ns {
            NO_TIME => format!(" on vCPU {}", finding.vcpu),
            time_ns => format!(" on vCPU {} at {}", finding.vcpu, self.clock.show(time_ns)),
        }
    }
}

impl<W: Write> Reporter for Text<W> {
    fn event(&mut self, event: &Event, ruling: &Ruling) -> io::Result<()> {
        let mark = self.mark(ruling.is_anomalous());
        let time = match event.time_ns {
            NO_TIME => String::new(),
            time_ns => format!("{:>12}  ", self.clock.show(time_ns)),
        };
        let caller = Thread::caller(event).to_string();
        let vcpu = if event.vcpu == 0 { String::new() } else { ruling.vcpu.to_string() };
        writeln!(self.out, "{mark} {time}{caller:<22} {vcpu:<11} {}", details(event, self.units).trim_end())
    }

    fn finding(&mut self, finding: &Finding) -> io::Result<()> {
        if finding.about_ioctl {
            let alike = (finding.vcpu, finding.severity, finding.rule, finding.caller.clone());
            if let Some(ioctls) = self.alike.get_mut(&alike) {
                ioctls.insert(ioctl::name(finding.ioctl).into_owned());
                return Ok(());
            }
            self.alike.insert(alike, BTreeSet::new());
        }
        let severity = self.paint.text(&format!("{:>7}", finding.severity), finding.severity.into());
        let (place, what) = (self.place(finding), in_words(finding, self.units));
        writeln!(self.out, "{severity}: {}{place}: {what}", finding.rule)?;
        if self.advised.insert(finding.advice) {
            writeln!(self.out, "         do: {}", finding.advice)?;
        }
        Ok(())
    }

    fn note(&mut self, note: &str) -> io::Result<()> {
        writeln!(self.out, "   note: {}", shown(note))
    }

    fn summary(&mut self, summary: &Summary) -> io::Result<()> {
        let out = &mut self.out;
        for ((vcpu, severity, rule, caller), ioctls) in
            self.alike.iter().filter(|(_, ioctls)| !ioctls.is_empty())
        {
            let ioctls: Vec<_> = ioctls.iter().map(String::as_str).collect();
            writeln!(out, "{severity:>7}: {rule} on vCPU {vcpu} by {caller}, also: {}", ioctls.join(", "))?;
        }
        if !summary.vcpus.is_empty() {
            writeln!(out, "{}", vcpu_table(summary))?;
        }
        if summary.unlisted > 0 {
            writeln!(out, "and {} vCPUs before them that ended", summary.unlisted)?;
        }
        for ((rule, severity), count) in &summary.findings {
            writeln!(out, "{severity:>7}: {rule} × {count}")?;
        }
        writeln!(out, "{}", outcome(summary))?;
        for probe in summary.losses.probes.iter().filter(|probe| probe.lost > 0) {
            writeln!(
                out,
                "lost at {}: {} (by CPU: {:?})",
                shown(&probe.probe),
                probe.lost,
                probe.lost_by_cpu
            )?;
        }
        match summary.inconclusive() {
            Some(reason) => writeln!(out, "inconclusive: {}", shown(&reason)),
            None => Ok(()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Of what a log tells without saying when.
const NO_TIME: u64 = 0;

fn details(event: &Event, units: Units) -> String {
    let ioctl = ioctl::name(event.ioctl);
    let numbers = numbers(event, units);
    match event.kind {
        EventKind::Created => "created".to_owned(),
        EventKind::Destroyed => "destroyed".to_owned(),
        EventKind::ThreadEnded => "thread ended".to_owned(),
        EventKind::Call => format!("call    {ioctl}"),
        EventKind::Return => format!("return  {ioctl}"),
        EventKind::Ioctl => format!("ioctl   {ioctl}  {numbers}"),
        EventKind::Load => format!("load    {ioctl}  {numbers}"),
        EventKind::EnablingWrite => format!(
            "{:<8}{ioctl}  {:#x} -> {:#x} by the {}  {numbers} -> {}",
            event.source.key(),
            event.source.given(event.enabling_before),
            event.source.given(event.enabling_after),
            if event.has(HOST_INITIATED) { "host" } else { "guest" },
            units.ns(event.last_steal_after_ns),
        ),
        EventKind::Update => format!(
            "update  {ioctl}  {numbers}  guest steal={} -> {}",
            known(event.has(STEAL_BEFORE_KNOWN), event.steal_before_ns, units),
            known(event.has(STEAL_AFTER_KNOWN), event.steal_after_ns, units),
        ),
    }
}

/// What a delta is made of, and the delta where the guest has steal time enabled.
fn numbers(event: &Event, units: Units) -> String {
    if event.has(NUMBERS_UNKNOWN) {
        return String::new();
    }
    let run_delay = units.ns(event.run_delay_ns);
    let last_steal = units.ns(event.last_steal_before_ns);
    if event.was_enabled() {
        let delta = units.signed(event.delta().signed_ns());
        format!("run_delay={run_delay} last_steal={last_steal} delta={delta}")
    } else {
        format!("run_delay={run_delay} last_steal={last_steal}")
    }
}

fn known(known: bool, ns: u64, units: Units) -> String {
    if known { units.ns(ns) } else { "?".to_owned() }
}

/// What happened, and the evidence.
pub(super) fn in_words(finding: &Finding, units: Units) -> String {
    format!("{} [{}]", shown(&finding.what), evidence(finding, units))
}

fn evidence(finding: &Finding, units: Units) -> String {
    let field = |(name, value): &Field| format!("{name}={}", show(value, units));
    let fields: Vec<_> = finding.evidence.iter().map(field).collect();
    fields.join(" ")
}

pub(super) fn show(value: &Value, units: Units) -> String {
    match value {
        Value::Text(text) => shown(text).into_owned(),
        Value::Number(number) => number.to_string(),
        Value::Ns(number) => units.ns(*number),
        Value::SignedNs(number) => units.signed(*number),
        Value::Thread(thread) => thread.to_string(),
        Value::Unknown => "?".to_owned(),
    }
}

/// Of the columns that say what was seen of a vCPU.
pub(super) const fn titles(summary: &Summary) -> [&'static str; 6] {
    let [ioctls, updates] =
        if summary.edges { ["ioctls reported", "updates known"] } else { ["ioctls by thread", "updates"] };
    ["vCPU", "creator", "runner", ioctls, updates, "findings"]
}

fn vcpu_table(summary: &Summary) -> comfy_table::Table {
    let mut table = table(titles(summary));
    for vcpu in &summary.vcpus {
        table.add_row([
            vcpu.name.to_string(),
            thread(vcpu.creator.as_ref()),
            thread(vcpu.runner.as_ref()),
            ioctls(vcpu),
            vcpu.updates.to_string(),
            vcpu.findings.to_string(),
        ]);
    }
    table
}

pub(super) fn thread(thread: Option<&Thread>) -> String {
    thread.map_or_else(|| "?".to_owned(), Thread::to_string)
}

fn ioctls(vcpu: &VcpuSummary) -> String {
    let counts: Vec<_> = vcpu.ioctls.iter().map(|(thread, count)| format!("{thread} {count}")).collect();
    counts.join("\n")
}

pub(super) fn outcome(summary: &Summary) -> String {
    let found: u64 = summary.findings.values().sum();
    let time = match summary.duration_ns {
        0 => String::new(),
        duration_ns => format!(" in {}", units::seconds(duration_ns)),
    };
    let lost = summary.losses.total();
    format!("{} events{time} ({}); findings: {found}, lost: {lost}", summary.events, shown(&summary.source))
}
