//! Perfetto: a trace for its user interface, written as it happens. A process for each VMM, with a track for each thread
//! (its ioctls, what it waited) and for each vCPU (the guest's counter, last_steal, findings).

mod annotations;
mod proto;

use std::{
    collections::{BTreeSet, HashMap},
    io::{self, Write},
};

use prost::Message as _;
use stealtrace_common::{
    event::{Event, EventKind, HOST_INITIATED, NUMBERS_UNKNOWN, STEAL_AFTER_KNOWN, STEAL_BEFORE_KNOWN},
    kvm::KVM_RUN,
};

use self::annotations::annotations;
use self::proto::{
    Clock, ClockSnapshot, CounterDescriptor, ProcessDescriptor, ThreadDescriptor, Trace, TracePacket,
    TrackDescriptor, TrackEvent,
};
use super::{Reporter, is_of_consumed};
use crate::{
    detect::Ruling,
    ioctl,
    model::{Finding, Summary, Thread, VcpuName},
    record::Header,
};

pub(crate) struct Perfetto<W> {
    out: W,
    /// Tracks by what they are of; their numbers count from 1.
    tracks: HashMap<Of, u64>,
    /// Threads whose last slice is open.
    open: BTreeSet<u64>,
    /// Of each vCPU: who runs it, and the flow that its last act began.
    vcpus: HashMap<VcpuName, Known>,
    flows: u64,
    last_ns: u64,
}

/// What a track is of.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Of {
    Process(u32),
    Thread(Thread),
    Vcpu(VcpuName),
    /// A number of a thread's or a vCPU's track.
    Counter(u64, &'static str),
}

#[derive(Clone, Copy, Default)]
struct Known {
    runner: u32,
    act: Option<u64>,
}

/// All packets are one sequence.
const SEQUENCE: u32 = 1;

impl<W: Write> Perfetto<W> {
    pub(crate) fn new(out: W) -> Self {
        Self {
            out,
            tracks: HashMap::new(),
            open: BTreeSet::new(),
            vcpus: HashMap::new(),
            flows: 0,
            last_ns: 0,
        }
    }

    fn write(&mut self, packet: TracePacket) -> io::Result<()> {
        let packet = TracePacket { trusted_packet_sequence_id: Some(SEQUENCE), ..packet };
        self.out.write_all(&Trace { packet: vec![packet] }.encode_to_vec())
    }

    /// The number of a track, which is described when it is first used.
    fn track(
        &mut self,
        of: Of,
        describe: impl FnOnce(&mut Self) -> io::Result<TrackDescriptor>,
    ) -> io::Result<u64> {
        if let Some(known) = self.tracks.get(&of) {
            return Ok(*known);
        }
        let descriptor = describe(self)?;
        let uuid = self.tracks.len() as u64 + 1;
        self.tracks.insert(of, uuid);
        let descriptor = TrackDescriptor { uuid: Some(uuid), ..descriptor };
        self.write(TracePacket { track_descriptor: Some(descriptor), ..TracePacket::default() })?;
        Ok(uuid)
    }

    fn process(&mut self, pid: u32) -> io::Result<u64> {
        self.track(Of::Process(pid), |_| {
            let process =
                ProcessDescriptor { pid: Some(pid.cast_signed()), process_name: Some("VMM".to_owned()) };
            Ok(TrackDescriptor { process: Some(process), ..TrackDescriptor::default() })
        })
    }

    fn thread(&mut self, pid: u32, thread: &Thread) -> io::Result<u64> {
        self.track(Of::Thread(thread.clone()), |all| {
            let parent_uuid = Some(all.process(pid)?);
            let thread = ThreadDescriptor {
                pid: Some(pid.cast_signed()),
                tid: Some(thread.tid.cast_signed()),
                thread_name: Some(thread.comm.clone()),
            };
            Ok(TrackDescriptor { parent_uuid, thread: Some(thread), ..TrackDescriptor::default() })
        })
    }

    fn vcpu(&mut self, name: VcpuName) -> io::Result<u64> {
        self.track(Of::Vcpu(name), |all| {
            let parent_uuid = Some(all.process(name.pid)?);
            Ok(TrackDescriptor {
                parent_uuid,
                name: Some(format!("vCPU {name}")),
                ..TrackDescriptor::default()
            })
        })
    }

    fn counter(&mut self, parent: u64, name: &'static str, at_ns: u64, value: u64) -> io::Result<()> {
        let uuid = self.track(Of::Counter(parent, name), |_| {
            let counter = Some(CounterDescriptor { unit: Some(proto::TIME_NS) });
            let name = Some(name.to_owned());
            Ok(TrackDescriptor { parent_uuid: Some(parent), name, counter, ..TrackDescriptor::default() })
        })?;
        let counter_value = Some(value.cast_signed()); // below zero it wrapped
        self.tell(
            at_ns,
            uuid,
            TrackEvent { r#type: Some(proto::COUNTER), counter_value, ..TrackEvent::default() },
        )
    }

    fn tell(&mut self, at_ns: u64, track: u64, event: TrackEvent) -> io::Result<()> {
        let event = TrackEvent { track_uuid: Some(track), ..event };
        self.write(TracePacket {
            timestamp: Some(at_ns),
            timestamp_clock_id: Some(proto::MONOTONIC),
            track_event: Some(event),
            ..TracePacket::default()
        })
    }

    /// An ioctl lasts until the thread's next one: when it returns is not reported.
    fn ioctl(&mut self, event: &Event, track: u64, flow_ids: Vec<u64>) -> io::Result<()> {
        self.end(event.time_ns, track)?;
        self.open.insert(track);
        let begin = TrackEvent {
            r#type: Some(proto::SLICE_BEGIN),
            name: Some(ioctl::name(event.ioctl).into_owned()),
            categories: vec!["ioctl".to_owned()],
            flow_ids,
            ..TrackEvent::default()
        };
        self.tell(event.time_ns, track, begin)
    }

    fn end(&mut self, at_ns: u64, track: u64) -> io::Result<()> {
        if self.open.remove(&track) {
            self.tell(at_ns, track, TrackEvent { r#type: Some(proto::SLICE_END), ..TrackEvent::default() })?;
        }
        Ok(())
    }

    /// What may put a wrong number into last_steal begins a flow.
    fn act(&mut self, name: VcpuName) -> u64 {
        self.flows += 1;
        self.vcpus.entry(name).or_default().act = Some(self.flows);
        self.flows
    }

    fn numbers(&mut self, event: &Event, thread: u64, vcpu: u64) -> io::Result<()> {
        let at_ns = event.time_ns;
        self.counter(thread, "run_delay", at_ns, event.run_delay_ns)?;
        if event.was_enabled() || event.is_enabled() {
            self.counter(vcpu, "last_steal", at_ns, event.last_steal_after_ns)?;
        }
        if event.kind == EventKind::Update {
            if event.has(STEAL_BEFORE_KNOWN) {
                self.counter(vcpu, "guest steal", at_ns, event.steal_before_ns)?;
            }
            if event.has(STEAL_AFTER_KNOWN) {
                self.counter(vcpu, "guest steal", at_ns, event.steal_after_ns)?;
            }
        }
        Ok(())
    }
}

impl<W: Write> Reporter for Perfetto<W> {
    fn draws(&self) -> bool {
        true
    }

    fn begin(&mut self, header: &Header) -> io::Result<()> {
        let clock = |clock_id, timestamp| Clock { clock_id: Some(clock_id), timestamp: Some(timestamp) };
        let mut clocks = vec![clock(proto::MONOTONIC, header.start_ns)];
        if header.utc_offset_ns != 0 {
            clocks.push(clock(proto::REALTIME, header.start_ns.saturating_add(header.utc_offset_ns)));
        }
        let snapshot = ClockSnapshot { clocks, primary_trace_clock: Some(proto::MONOTONIC) };
        self.write(TracePacket {
            clock_snapshot: Some(snapshot),
            sequence_flags: Some(proto::INCREMENTAL_STATE_CLEARED),
            ..TracePacket::default()
        })
    }

    fn event(&mut self, event: &Event, ruling: &Ruling) -> io::Result<()> {
        self.last_ns = self.last_ns.max(event.time_ns);
        let (name, caller) = (ruling.vcpu, Thread::caller(event));
        let thread = self.thread(event.caller_tgid, &caller)?;
        match event.kind {
            EventKind::Ioctl => {
                let runner = self.vcpus.get(&name).map_or(0, |known| known.runner);
                let hands_over = event.ioctl == KVM_RUN && runner != 0 && runner != caller.tid;
                let flows = if hands_over { vec![self.act(name)] } else { Vec::new() };
                self.ioctl(event, thread, flows)?;
                if event.ioctl == KVM_RUN {
                    self.vcpus.entry(name).or_default().runner = caller.tid;
                }
            }
            EventKind::EnablingWrite => {
                let by = if event.has(HOST_INITIATED) {
                    "steal time restored"
                } else {
                    "steal time written by the guest"
                };
                let flow_ids = vec![self.act(name)];
                let instant = TrackEvent {
                    r#type: Some(proto::INSTANT),
                    name: Some(format!("{by}, vCPU {name}")),
                    categories: vec!["steal".to_owned()],
                    flow_ids,
                    ..TrackEvent::default()
                };
                self.tell(event.time_ns, thread, instant)?;
            }
            EventKind::ThreadEnded => self.end(event.time_ns, thread)?,
            _ => {}
        }
        if event.vcpu != 0 && !event.has(NUMBERS_UNKNOWN) && !event.kind.is_of_thread() {
            let vcpu = self.vcpu(name)?;
            self.numbers(event, thread, vcpu)?;
        }
        Ok(())
    }

    fn finding(&mut self, finding: &Finding) -> io::Result<()> {
        let track = self.vcpu(finding.vcpu)?;
        let act =
            self.vcpus.get(&finding.vcpu).and_then(|known| known.act).filter(|_| is_of_consumed(finding));
        let instant = TrackEvent {
            r#type: Some(proto::INSTANT),
            name: Some(finding.rule.to_string()),
            categories: vec!["finding".to_owned()],
            debug_annotations: finding.fields().iter().flat_map(annotations).collect(),
            terminating_flow_ids: act.into_iter().collect(),
            ..TrackEvent::default()
        };
        self.tell(finding.time_ns, track, instant)
    }

    fn note(&mut self, _: &str) -> io::Result<()> {
        Ok(())
    }

    fn summary(&mut self, summary: &Summary) -> io::Result<()> {
        while let Some(track) = self.open.first() {
            self.end(self.last_ns, *track)?;
        }
        super::beside(summary);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
