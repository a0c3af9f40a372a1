//! `stealtrace inspect`: every vCPU of every running VM, without its cooperation and without stopping it. KVM's side
//! comes from the kernel, the guest's counter from the memory of the VM's process. Changes nothing.

mod judge;
mod process;
mod show;

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write,
    time::Duration,
};

use anyhow::Result;
use stealtrace_common::{
    event::{Event, EventKind},
    kvm::{KVM_RUN, msr_enabled},
    target::Volume,
};

use self::{
    judge::{Judgement, judge},
    process::Area,
};
use crate::{
    backend::{self, EbpfBackend, Plan, Processes},
    doctor::DoctorFormat,
    exit::Exit,
    interrupt::Interrupt,
    kernel::KernelFacts,
    model::Thread,
};

const RING_BYTES: u32 = 8 << 20;
/// More than the ring holds: what is older than the look is read, what comes meanwhile is not waited for.
const MOST_EVENTS: usize = 100_000;

/// What to look at.
#[derive(Clone, Debug)]
pub struct InspectOptions {
    /// Only these processes; all if empty.
    pub pids: Vec<u32>,
    /// Look again after this time.
    pub watch: Option<Duration>,
    /// Wait so long for vCPUs to do something.
    pub wait: Duration,
    /// How to print.
    pub format: DoctorFormat,
}

/// Look and print.
///
/// # Errors
/// When nothing can be traced here.
pub fn inspect(options: &InspectOptions, mut out: impl Write) -> Result<Exit> {
    let facts = KernelFacts::gather(&[])?;
    facts.require_traceable()?;
    let kind = backend::choose(None, &facts)?;
    let interrupt = Interrupt::block()?;
    let mut backend = EbpfBackend::attach(&plan(options, kind, Volume::Edges), &facts)?;
    let unlisted = backend.look_at_files().err().map(|error| format!("{error:#}"));
    if unlisted.is_some() {
        // Then what vCPUs do is all there is to see.
        backend = EbpfBackend::attach(&plan(options, kind, Volume::All), &facts)?;
    }
    drop(facts);
    let mut seen = Seen::default();
    let mut pause = options.wait;
    loop {
        let over = interrupt.wait(pause);
        if unlisted.is_none() {
            backend.look_at_files()?;
        }
        seen.drain(&mut backend);
        seen.read_areas();
        if unlisted.is_none() {
            backend.look_at_files()?; // KVM's side again: an update may have come between
        }
        seen.drain(&mut backend);
        let look = look(&seen, &options.pids, unlisted.clone());
        show::show(&look, options.format, &mut out)?;
        match options.watch {
            Some(time) if !over => pause = time,
            _ => return Ok(if look.is_poisoned() { Exit::Found } else { Exit::Clean }),
        }
    }
}

fn plan(options: &InspectOptions, kind: backend::BackendKind, volume: Volume) -> Plan {
    Plan {
        kind,
        processes: if options.pids.is_empty() {
            Processes::All
        } else {
            Processes::These(options.pids.clone())
        },
        tid: None,
        vcpu_id: None,
        comm: None,
        volume,
        functions: Vec::new(),
        ring_bytes: RING_BYTES,
        guard: None,
        floor: false,
        verbose: false,
    }
}

/// The last that was seen of each vCPU, by address.
#[derive(Default)]
struct Seen(BTreeMap<u64, Last>);

struct Last {
    event: Event,
    runner_tid: Option<u32>,
    /// Host address of the guest's area.
    address: Option<u64>,
    area: Option<Area>,
    /// `last_steal` before the area was read.
    charged_before_ns: u64,
}

impl Seen {
    fn drain(&mut self, backend: &mut EbpfBackend) {
        backend.drain(MOST_EVENTS, |event| {
            self.learn(event);
            true
        });
    }

    fn read_areas(&mut self) {
        for last in self.0.values_mut() {
            last.charged_before_ns = last.event.last_steal_after_ns;
            last.area = last.address.and_then(|at| process::read_area(last.event.vm_tgid, at));
        }
    }

    fn learn(&mut self, event: &Event) {
        let Self(vcpus) = self;
        match EventKind::from_u32(event.kind) {
            Some(EventKind::Created | EventKind::Destroyed) => drop(vcpus.remove(&event.vcpu)),
            Some(
                EventKind::Ioctl
                | EventKind::Seen
                | EventKind::Load
                | EventKind::Update
                | EventKind::MsrWrite,
            ) => {
                let last = vcpus.entry(event.vcpu).or_insert(Last {
                    event: *event,
                    runner_tid: None,
                    address: None,
                    area: None,
                    charged_before_ns: 0,
                });
                last.event = *event;
                if event.kind == EventKind::Seen as u32 || event.ioctl == KVM_RUN {
                    last.runner_tid = Some(event.caller_tid).filter(|tid| *tid != 0);
                }
                if event.kind == EventKind::Seen as u32 || event.kind == EventKind::Ioctl as u32 {
                    last.address = Some(event.function).filter(|at| *at != 0).or(last.address);
                }
            }
            _ => {}
        }
    }
}

/// What one look shows.
struct Look {
    vcpus: Vec<VcpuRow>,
    /// Process and id of vCPUs that have a descriptor, and of which nothing was seen.
    unseen: Vec<(u32, String)>,
    /// Why open files could not be looked at.
    unlisted: Option<String>,
}

impl Look {
    fn is_poisoned(&self) -> bool {
        self.vcpus.iter().any(|vcpu| matches!(vcpu.judgement, Judgement::Poisoned(_)))
    }
}

/// One vCPU.
struct VcpuRow {
    pid: u32,
    comm: String,
    vm_name: Option<String>,
    id: u32,
    runner: Option<Thread>,
    run_delay_ns: Option<u64>,
    msr_val: u64,
    last_steal_ns: u64,
    area: Option<Area>,
    judgement: Judgement,
}

fn look(seen: &Seen, pids: &[u32], unlisted: Option<String>) -> Look {
    let descriptors = process::vcpu_descriptors(pids);
    let mut vcpus: Vec<_> =
        seen.0.values().filter(|last| descriptors.contains_key(&last.event.vm_tgid)).map(row).collect();
    vcpus.sort_by_key(|vcpu| (vcpu.pid, vcpu.id));
    let known: BTreeSet<_> = vcpus.iter().map(|vcpu| (vcpu.pid, vcpu.id.to_string())).collect();
    let unseen = descriptors
        .into_iter()
        .flat_map(|(pid, ids)| ids.into_iter().map(move |id| (pid, id)))
        .filter(|vcpu| !known.contains(vcpu))
        .collect();
    Look { vcpus, unseen, unlisted }
}

fn row(last: &Last) -> VcpuRow {
    let Last { event, runner_tid, area, charged_before_ns, .. } = last;
    let pid = event.vm_tgid;
    let runner = runner_tid.map(|tid| Thread { tid, comm: process::comm(tid) });
    let steal_ns = area.as_ref().map(|area| area.steal_ns).filter(|_| msr_enabled(event.msr_val));
    VcpuRow {
        pid,
        comm: process::comm(pid),
        vm_name: process::vm_name(pid),
        id: event.vcpu_id,
        run_delay_ns: runner.as_ref().and_then(|runner| process::run_delay_ns(runner.tid)),
        runner,
        msr_val: event.msr_val,
        last_steal_ns: event.last_steal_after_ns,
        judgement: judge(
            event.msr_val,
            steal_ns,
            *charged_before_ns..=event.last_steal_after_ns,
            process::uptime_ns(),
        ),
        area: *area,
    }
}
