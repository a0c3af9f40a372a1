//! `stealtrace inspect`: every vCPU of every running VM, without its cooperation and without stopping it. KVM's side
//! comes from the kernel, the guest's counter from the memory of the VM's process. Changes nothing.

mod seen;
mod vm;

use std::{
    collections::{BTreeMap, BTreeSet},
    thread,
    time::Duration,
};

use anyhow::{Result, bail};
use clap::Args;
use stealtrace_common::target::Volume;

use self::seen::{Last, Seen};
use super::{
    Run, Shared,
    options::{parse_pause, parse_time, that},
};
use crate::{
    backend::{EbpfBackend, Plan, Processes, Task},
    descriptors,
    exit::Exit,
    kernel::{Capability, KernelFacts},
    live::Live,
    model::{Judgement, Look, Sight, Sights, Thread, VcpuLook, judge},
    os::{clock::now_ns, command::Orphaned, interrupt::Interrupt, output::Output, process},
    report::{self, Format, Paint},
};

const RING_BYTES: u32 = 8 << 20;

/// An update that has begun is over by then.
const MOMENT: Duration = Duration::from_millis(50);

/// Every vCPU of every running VM, and whether its steal counter is sound
#[derive(Args, Debug)]
#[command(after_help = HELP)]
pub(super) struct Inspect {
    /// Only VMs of this process (repeatable)
    #[arg(long = "pid", value_name = "PID")]
    pids: Vec<u32>,
    /// Look again after this time, until Ctrl-C
    #[arg(long, value_name = "TIME", value_parser = parse_pause)]
    watch: Option<Duration>,
    /// Time between the two looks that a judgement takes; 0s for one look
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = parse_time)]
    wait: Duration,
    #[arg(long, default_value = "text", value_parser = that(Format::shows_states))]
    format: Format,
}

const HELP: &str = help!(
    "  stealtrace inspect                                   every vCPU of every VM
  stealtrace inspect --pid 4711 --watch 1s             one VM, again and again
  stealtrace inspect --wait 0s --format json           one look, which tells only what is impossible",
    "  0  no counter is impossible or counts wrong
  1  one is poisoned or off
  2  cannot look here, or bad usage
  3  one cannot be read or was not seen, or the process has no vCPU"
);

impl Run for Inspect {
    fn run(self, shared: &Shared) -> Result<Exit> {
        let interrupt = Interrupt::block()?;
        let facts = KernelFacts::gather(&[]);
        facts.require_traceable()?;
        if !Capability::SysPtrace.is_held()? {
            bail!("reading guests' memory needs CAP_SYS_PTRACE; run as root");
        }
        let inspection = Inspection::open(&self.pids, interrupt, &facts)?;
        drop(facts); // type information is large and has served
        self.inspect(inspection, &shared.out)
    }
}

impl Inspect {
    fn inspect(&self, mut inspection: Inspection, out: &Output) -> Result<Exit> {
        let mut over = inspection.no_iterator.is_some() && inspection.rest(self.wait)?;
        let mut earlier = Sights::default();
        if !self.wait.is_zero() {
            earlier = inspection.look(&self.pids, &earlier)?.sights();
            over |= inspection.rest(self.wait)?;
        }
        let mut worst = Exit::Clean;
        loop {
            let look = inspection.look_again_if_off(self, &earlier)?;
            worst = worst.worse(exit(&look, &self.pids));
            report::inspect::show(&look, self.format, Paint::of(out), &mut out.clone())?;
            match self.watch {
                Some(pause) if !over && !out.is_over() => over = inspection.rest(pause)?,
                _ => return Ok(worst),
            }
            if process::all_ended(&self.pids) {
                return Ok(worst);
            }
            earlier = look.sights();
        }
    }
}

/// What sees vCPUs.
struct Inspection {
    live: Live,
    seen: Seen,
    /// Why open files cannot be looked at. Then what vCPUs do is all there is to see.
    no_iterator: Option<String>,
}

impl Inspection {
    fn open(pids: &[u32], interrupt: Interrupt, facts: &KernelFacts) -> Result<Self> {
        let plan = Plan::of(Processes::named(pids), Volume::All, RING_BYTES);
        let files = Plan { task: Task::LookAtFiles, ..plan.clone() };
        let mut live = Live::open(interrupt, facts, files, (&[], Orphaned::Ends))?;
        let no_iterator = live.backend.look_at_files().err().map(|error| format!("{error:#}"));
        if no_iterator.is_some() {
            live.backend = EbpfBackend::attach(&plan, facts)?;
        }
        Ok(Self { live, seen: Seen::default(), no_iterator })
    }

    /// Wait, and learn what vCPUs do meanwhile; true if a signal ended it.
    fn rest(&mut self, pause: Duration) -> Result<bool> {
        self.live.follow(Some(pause), &mut self.seen)?;
        Ok(self.live.is_interrupted())
    }

    /// KVM may be about to put a charge into a counter: what is off must still be so a moment later, and once more after
    /// the time between two looks. What jumps once may be a snapshot that was loaded.
    fn look_again_if_off(&mut self, Inspect { pids, wait, .. }: &Inspect, earlier: &Sights) -> Result<Look> {
        let is_off = |judgement: &Judgement| matches!(judgement, Judgement::Off(_));
        if let look = self.look(pids, earlier)?
            && !look.any(is_off)
        {
            return Ok(look);
        }
        thread::sleep(MOMENT);
        let jumped = self.look(pids, earlier)?;
        if !jumped.any(is_off) {
            return Ok(jumped);
        }
        self.rest(*wait)?;
        let mut look = self.look(pids, &jumped.sights())?;
        look.doubt(&jumped);
        Ok(look)
    }

    /// KVM's side before and after the guests' counters: an update may come between.
    fn look(&mut self, pids: &[u32], earlier: &Sights) -> Result<Look> {
        if self.no_iterator.is_none() {
            self.seen = Seen::default();
        }
        self.look_at_files()?;
        self.seen.read_areas();
        self.look_at_files()?;
        let descriptors::Descriptors { vcpus: descriptors, refused } = descriptors::look(pids);
        let wanted = |last: &&Last| match self.no_iterator {
            None => pids.is_empty() || pids.contains(&last.now.holder_tgid),
            Some(_) => descriptors
                .get(&last.now.holder_tgid)
                .is_some_and(|ids| ids.contains(&last.now.vcpu_id.to_string())),
        };
        let now_ns = now_ns()?;
        let mut vcpus: Vec<_> =
            self.seen.vcpus.values().filter(wanted).map(|last| row(last, now_ns, earlier)).collect();
        number_vms(&mut vcpus);
        vcpus.sort_by_key(|vcpu| (vcpu.pid, vcpu.vm, vcpu.id));
        let known: BTreeSet<_> = vcpus.iter().map(|vcpu| (vcpu.pid, vcpu.id.to_string())).collect();
        let unseen: Vec<_> = descriptors
            .into_iter()
            .flat_map(|(pid, ids)| ids.into_iter().map(move |id| (pid, id)))
            .filter(|vcpu| !known.contains(vcpu) && !self.seen.holders.contains(vcpu))
            .collect();
        let none = (vcpus.is_empty() && unseen.is_empty()).then(|| descriptors::no_vcpu(pids, refused));
        let unread = self.seen.vcpus.values().find_map(|last| last.unread.clone());
        let lost = self.live.backend.losses()?.total();
        Ok(Look { vcpus, unseen, none, unread, no_iterator: self.no_iterator.clone(), lost })
    }

    fn look_at_files(&mut self) -> Result<()> {
        if self.no_iterator.is_none() {
            self.live.backend.look_at_files()?;
        }
        self.seen.drain(&mut self.live.backend);
        Ok(())
    }
}

/// What a look says.
fn exit(look: &Look, pids: &[u32]) -> Exit {
    if look.any(|judgement| matches!(judgement, Judgement::Poisoned(_) | Judgement::Off(_))) {
        Exit::Found
    } else if look.any(|judgement| matches!(judgement, Judgement::Unknown))
        || !look.unseen.is_empty()
        || (look.none.is_some() && !pids.is_empty())
        || look.lost > 0
    {
        Exit::Inconclusive
    } else {
        Exit::Clean
    }
}

fn row(last: &Last, now_ns: u64, earlier: &Sights) -> VcpuLook {
    let Last { now, area, charged_before_ns, .. } = last;
    let pid = now.holder_tgid;
    let key = (pid, now.vcpu);
    let runner = last.runner_tid().map(|tid| Thread { tid, comm: process::comm(tid) });
    let ago_ns = now_ns.saturating_sub(now.time_ns); // no more than that can have been charged since
    let sight = Sight {
        enabling: now.enabling,
        runner_tid: last.runner_tid(),
        counter: area.map(|area| (area.steal_ns, area.version)),
        charged_ns: *charged_before_ns..=now.last_steal_ns.saturating_add(ago_ns),
    };
    VcpuLook {
        key,
        kvm: now.vm,
        vm: None,
        pid,
        comm: process::comm(pid),
        vm_name: vm::name(pid),
        id: now.vcpu_id,
        run_delay_ns: runner.as_ref().and_then(|runner| vm::run_delay_ns(runner.tid)),
        runner,
        enabling: now.enabling,
        last_steal_ns: now.last_steal_ns,
        judgement: judge(earlier.get(&key), &sight),
        area: *area,
        sight,
    }
}

/// Tell the VMs of one process apart, in the order of their addresses.
fn number_vms(vcpus: &mut [VcpuLook]) {
    let mut vms: BTreeMap<u32, BTreeSet<u64>> = BTreeMap::new();
    for vcpu in &*vcpus {
        vms.entry(vcpu.pid).or_default().insert(vcpu.kvm);
    }
    for vcpu in vcpus {
        let of_process = vms.get(&vcpu.pid).filter(|vms| vms.len() > 1);
        let number = of_process.and_then(|vms| vms.iter().position(|kvm| *kvm == vcpu.kvm));
        vcpu.vm = number.and_then(|number| u32::try_from(number + 1).ok());
    }
}
