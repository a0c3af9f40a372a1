//! JSON: one object a line, `type` first, integers in ns. The summary carries the schema's version.

use std::{
    borrow::Cow,
    io::{self, Write},
};

use serde::{Serialize, Serializer};
use serde_json::{Map, Value as Json_, json};
use stealtrace_common::{
    event::{Event, EventKind, HOST_INITIATED, NUMBERS_UNKNOWN, STEAL_AFTER_KNOWN, STEAL_BEFORE_KNOWN},
    source::Source,
};

use super::{Clock, Reporter, SCHEMA, clock};
use crate::{
    detect::Ruling,
    ioctl,
    model::{Finding, Summary, Thread, Value, VcpuName, VcpuSummary},
    record::Header,
};

type Object = Map<String, Json_>;

pub(crate) struct Json<W> {
    clock: Clock,
    out: W,
    /// An event's line while it is made: of many small pieces, which cost less in memory than in `out`.
    line: Vec<u8>,
}

impl<W: Write> Json<W> {
    pub(crate) fn new(clock: Clock, out: W) -> Self {
        Self { clock, out, line: Vec::new() }
    }

    fn line(&mut self, object: &Json_) -> io::Result<()> {
        writeln!(self.out, "{object}")
    }
}

impl<W: Write> Reporter for Json<W> {
    fn begin(&mut self, header: &Header) -> io::Result<()> {
        self.line(&start_object(header))
    }

    fn event(&mut self, event: &Event, ruling: &Ruling) -> io::Result<()> {
        let line = EventLine::new(event, ruling.vcpu, self.clock);
        self.line.clear();
        serde_json::to_writer(&mut self.line, &line)?;
        self.line.push(b'\n');
        self.out.write_all(&self.line)
    }

    fn finding(&mut self, finding: &Finding) -> io::Result<()> {
        self.line(&finding_object(finding, self.clock))
    }

    fn note(&mut self, note: &str) -> io::Result<()> {
        self.line(&json!({"type": "note", "note": note}))
    }

    fn summary(&mut self, summary: &Summary) -> io::Result<()> {
        self.line(&summary_object(summary))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

fn start_object(header: &Header) -> Json_ {
    json!({
        "type": "start",
        "schema": SCHEMA,
        "utc": clock::utc(header.start_ns, header.utc_offset_ns),
        "utc_ns": header.start_ns.saturating_add(header.utc_offset_ns),
        "monotonic_ns": header.start_ns,
        "kernel": header.kernel,
        "era": header.era,
        "cpus": header.cpus,
        "backend": header.backend,
        "edges": header.edges,
    })
}

/// An event, as it is printed: a line each, so no tree of values is built for it.
#[derive(Serialize)]
struct EventLine<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    time_ns: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    utc: Option<String>,
    vm_pid: u32,
    vm: u32,
    vcpu_id: u32,
    #[serde(serialize_with = "hexadecimal")]
    vcpu: u64,
    generation: u64,
    caller: Cow<'a, str>,
    caller_tid: u32,
    caller_tgid: u32,
    cpu: u32,
    ioctl: Cow<'static, str>,
    host_initiated: bool,
    run_delay_ns: Option<u64>,
    last_steal_before_ns: Option<u64>,
    last_steal_after_ns: Option<u64>,
    delta_ns: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    msr_before: OfSource,
    #[serde(skip_serializing_if = "Option::is_none")]
    msr_after: OfSource,
    #[serde(skip_serializing_if = "Option::is_none")]
    pvtime_before: OfSource,
    #[serde(skip_serializing_if = "Option::is_none")]
    pvtime_after: OfSource,
    #[serde(skip_serializing_if = "Option::is_none")]
    xen_before: OfSource,
    #[serde(skip_serializing_if = "Option::is_none")]
    xen_after: OfSource,
    steal_before_ns: Option<u64>,
    steal_after_ns: Option<u64>,
    version_before: Option<u32>,
    version_after: Option<u32>,
}

/// What enables one source, if that is known; None for the others.
type OfSource = Option<Option<u64>>;

impl<'a> EventLine<'a> {
    fn new(event: &'a Event, vcpu: VcpuName, clock: Clock) -> Self {
        let measured = |number: u64| (!event.has(NUMBERS_UNKNOWN)).then_some(number);
        let of = |source: Source, value| (event.source == source).then(|| measured(source.given(value)));
        let delta = event.delta();
        Self {
            kind: kind(event),
            time_ns: clock.since_start(event.time_ns),
            utc: clock.utc(event.time_ns),
            vm_pid: vcpu.pid,
            vm: vcpu.vm,
            vcpu_id: vcpu.id,
            vcpu: event.vcpu,
            generation: event.generation,
            caller: Thread::comm_of(event),
            caller_tid: event.caller_tid,
            caller_tgid: event.caller_tgid,
            cpu: event.cpu,
            ioctl: ioctl::name(event.ioctl),
            host_initiated: event.has(HOST_INITIATED),
            run_delay_ns: measured(event.run_delay_ns),
            last_steal_before_ns: measured(event.last_steal_before_ns),
            last_steal_after_ns: measured(event.last_steal_after_ns),
            delta_ns: (!event.has(NUMBERS_UNKNOWN)).then_some(delta.signed_ns()),
            msr_before: of(Source::X86Msr, event.enabling_before),
            msr_after: of(Source::X86Msr, event.enabling_after),
            pvtime_before: of(Source::Arm64Pvtime, event.enabling_before),
            pvtime_after: of(Source::Arm64Pvtime, event.enabling_after),
            xen_before: of(Source::XenRunstate, event.enabling_before),
            xen_after: of(Source::XenRunstate, event.enabling_after),
            steal_before_ns: event.has(STEAL_BEFORE_KNOWN).then_some(event.steal_before_ns),
            steal_after_ns: event.has(STEAL_AFTER_KNOWN).then_some(event.steal_after_ns),
            version_before: event.has(STEAL_BEFORE_KNOWN).then_some(event.version_before),
            version_after: event.has(STEAL_AFTER_KNOWN).then_some(event.version_after),
        }
    }
}

fn kind(event: &Event) -> &'static str {
    match event.kind {
        EventKind::Created => "created",
        EventKind::Destroyed => "destroyed",
        EventKind::Ioctl => "ioctl",
        EventKind::Load => "load",
        EventKind::EnablingWrite => match event.source {
            Source::X86Msr => "msr_write",
            Source::Arm64Pvtime => "pvtime_write",
            Source::XenRunstate => "xen_write",
        },
        EventKind::Update => "update",
        EventKind::Call => "call",
        EventKind::Return => "return",
        EventKind::ThreadEnded => "thread_ended",
    }
}

/// `0x1f`, without the machinery of formats, which takes longer than all numbers of an event together.
fn hexadecimal<S: Serializer>(number: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    let digits = (64 - number.leading_zeros()).div_ceil(4).max(1) as usize;
    let digit = |place: usize| char::from_digit((number >> (4 * place)) as u32 & 0xf, 16).unwrap_or_default();
    let text: String = ['0', 'x'].into_iter().chain((0..digits).rev().map(digit)).collect();
    serializer.serialize_str(&text)
}

pub(super) fn finding_object(finding: &Finding, clock: Clock) -> Json_ {
    let mut object = Object::new();
    object.insert("type".to_owned(), "finding".into());
    object.insert("time_ns".to_owned(), clock.since_start(finding.time_ns).into());
    if let Some(utc) = clock.utc(finding.time_ns) {
        object.insert("utc".to_owned(), utc.into());
    }
    object.extend(finding_fields(finding));
    Json_::Object(object)
}

/// A finding's own fields, by their names with units.
pub(super) fn finding_fields(finding: &Finding) -> Object {
    let mut object = Object::new();
    for (name, value) in finding.fields() {
        insert(&mut object, name, value);
    }
    object
}

/// The unit is part of a number's name; a thread is a name and an id.
fn insert(object: &mut Object, name: &str, value: Value) {
    match value {
        Value::Text(text) => object.insert(name.to_owned(), text.into()),
        Value::Number(number) => object.insert(name.to_owned(), number.into()),
        Value::Ns(ns) => object.insert(format!("{name}_ns"), ns.into()),
        Value::SignedNs(ns) => object.insert(format!("{name}_ns"), ns.into()),
        Value::Unknown => object.insert(name.to_owned(), Json_::Null),
        Value::Thread(thread) => {
            object.insert(name.to_owned(), thread.comm.into());
            object.insert(format!("{name}_tid"), thread.tid.into())
        }
    };
}

fn summary_object(summary: &Summary) -> Json_ {
    let findings: Vec<_> = summary
        .findings
        .iter()
        .map(|((rule, severity), count)| json!({"rule": rule.as_str(), "severity": severity.to_string(), "count": count}))
        .collect();
    let probes: Vec<_> = summary
        .losses
        .probes
        .iter()
        .map(|p| json!({"probe": p.probe, "hits": p.hits, "emitted": p.emitted, "lost": p.lost, "lost_by_cpu": p.lost_by_cpu}))
        .collect();
    json!({
        "type": "summary",
        "schema": SCHEMA,
        "duration_ns": summary.duration_ns,
        "source": summary.source,
        "edges": summary.edges,
        "events": summary.events,
        "vcpus": summary.vcpus.iter().map(vcpu_object).collect::<Vec<_>>(),
        "unlisted_vcpus": summary.unlisted,
        "findings": findings,
        "probes": probes,
        "undecodable": summary.losses.undecodable,
        "lost": summary.losses.total(),
        "inconclusive": summary.inconclusive(),
    })
}

fn vcpu_object(vcpu: &VcpuSummary) -> Json_ {
    let ioctls: Vec<_> = vcpu
        .ioctls
        .iter()
        .map(|(thread, count)| json!({"caller": thread.comm, "caller_tid": thread.tid, "count": count}))
        .collect();
    json!({
        "vm_pid": vcpu.name.pid,
        "vm": vcpu.name.vm,
        "vcpu_id": vcpu.name.id,
        "creator_tid": vcpu.creator.as_ref().map(|thread| thread.tid),
        "runner_tid": vcpu.runner.as_ref().map(|thread| thread.tid),
        "ioctls": ioctls,
        "updates": vcpu.updates,
        "findings": vcpu.findings,
    })
}
