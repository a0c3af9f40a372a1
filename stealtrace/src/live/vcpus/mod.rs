//! Every vCPU of every running VM, without its cooperation and without stopping it: KVM's side comes from the kernel, the
//! guest's counter from the memory of the VM's process. What is seen of a vCPU goes into its account.

mod cgroup;
mod names;
mod proc;
mod seen;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use stealtrace_common::{
    event::Event,
    ring::Sighting,
    target::{PidNamespace, Volume},
};

use self::{
    names::Names,
    seen::{Last, Seen},
};
use super::{Live, Sink};
use crate::{
    backend::{EbpfBackend, Plan, Processes, Task},
    descriptors::{self, Descriptors},
    detect::{Engine, Ruling, steal_over_charge},
    kernel::{Capability, KernelFacts},
    model::{Accounts, Charge, Finding, Look, RuleId, Severity, Sight, Thread, VcpuLook},
    os::{clock::now_ns, command::Orphaned, interrupt::Interrupt, process},
    pipeline::Flow,
};

/// More than the ring holds: what is older than the look is read, what comes meanwhile is not waited for.
const MOST_EVENTS: usize = 100_000;

/// Of edges, and of the files that a look shows.
const RING_BYTES: u32 = 2 << 20;
/// Of everything that vCPUs do, where it has to stand in for these.
const RING_BYTES_OF_ALL: u32 = 8 << 20;

/// The kernel side keeps what a backend does not see ending, and has room for some time.
const FORGET: Duration = Duration::from_secs(60);

/// What only has to be looked at now and then, where every event wakes us up.
const TICK: Duration = Duration::from_millis(500);

/// What the VM of a finding is called, or its process.
pub(crate) fn vm_name(finding: &Finding) -> String {
    let pid = finding.vcpu.pid;
    proc::name(pid).unwrap_or_else(|| format!("{}-{pid}", process::comm(pid)))
}

/// Is told findings as they come.
pub(crate) type Tell = Box<dyn FnMut(&Finding) -> Result<()>>;

/// What sees vCPUs.
pub(crate) struct Vcpus {
    pub(crate) live: Live,
    watched: Watched,
    names: Names,
    /// Why open files cannot be looked at. Then what vCPUs do is all there is to see.
    pub(crate) no_iterator: Option<String>,
    plan: Plan,
    /// Does the iterator show every process there is? Not from within a PID namespace.
    sees_all: bool,
    /// When the kernel side last forgot what ended.
    forgot: Instant,
}

/// What events and descriptors tell.
struct Watched {
    seen: Seen,
    engine: Engine,
    accounts: Accounts,
    tell: Tell,
}

impl Sink for Watched {
    fn event(&mut self, event: &Event) -> Result<Flow> {
        self.seen.event(event)?;
        let Ruling { fired, told, vcpu } = self.engine.judge(event);
        self.accounts.learn(event, &fired, charge(event, &fired));
        let of_it = told.iter().filter(|finding| finding.vcpu == vcpu); // others are of one that was there before
        of_it.for_each(|finding| self.accounts.keep_told(event.vcpu, finding));
        told.iter().try_for_each(&mut self.tell)?;
        Ok(Flow::Continue)
    }

    fn sighting(&mut self, sighting: &Sighting) -> Result<Flow> {
        self.seen.sighting(sighting)
    }
}

/// What the engine thinks of the charge of an update.
fn charge(event: &Event, fired: &[(RuleId, Severity)]) -> Charge {
    let over = fired.iter().find(|(rule, _)| *rule == steal_over_charge::RULE.id);
    match over {
        Some((_, Severity::Notice)) => Charge::Opening,
        Some(_) => Charge::Unsound,
        None if event.delta().is_underflow() => Charge::Unsound,
        None => Charge::Sound,
    }
}

impl Vcpus {
    /// Watch vCPUs by edges and by looks, and tell what is found.
    ///
    /// # Errors
    /// When this kernel cannot be traced so, a privilege is missing, or a process that is named is not there.
    pub(crate) fn watch(interrupt: Interrupt, facts: &KernelFacts, pids: &[u32], tell: Tell) -> Result<Self> {
        let plan = Plan::of(Processes::named(pids), Volume::Edges, RING_BYTES);
        let mut vcpus = Self::open(interrupt, facts, plan, tell)?;
        vcpus.live.tick = TICK; // edges wake us up
        Ok(vcpus)
    }

    /// Only look at them. Where open files cannot be looked at, what vCPUs do is all there is to see, and all of it is.
    ///
    /// # Errors
    /// The same.
    pub(crate) fn inspect(interrupt: Interrupt, facts: &KernelFacts, pids: &[u32]) -> Result<Self> {
        let plan = Plan::of(Processes::named(pids), Volume::All, RING_BYTES_OF_ALL);
        let files = Plan { task: Task::LookAtFiles, ..plan.clone() };
        let mut vcpus = Self::open(interrupt, facts, files, Box::new(|_| Ok(())))?;
        if vcpus.no_iterator.is_some() {
            vcpus.live.backend = EbpfBackend::attach(&plan, facts)?;
        }
        Ok(vcpus)
    }

    fn open(interrupt: Interrupt, facts: &KernelFacts, plan: Plan, tell: Tell) -> Result<Self> {
        facts.require_traceable()?;
        if !Capability::SysPtrace.is_held()? {
            bail!("reading guests' memory needs CAP_SYS_PTRACE; run as root");
        }
        let mut live = Live::open(interrupt, facts, plan.clone(), (&[], Orphaned::Ends))?;
        let no_iterator = live.backend.look_at_files().err().map(|error| format!("{error:#}"));
        let watched =
            Watched { seen: Seen::default(), engine: Engine::default(), accounts: Accounts::default(), tell };
        let sees_all = facts.own_namespace()? == PidNamespace::INITIAL;
        let (names, forgot) = (Names::default(), Instant::now());
        Ok(Self { live, watched, names, no_iterator, plan, sees_all, forgot })
    }

    /// Attach to a kvm that was loaded anew. What was found stays known.
    ///
    /// # Errors
    /// When it cannot be traced.
    pub(crate) fn attach_again(&mut self, facts: &KernelFacts) -> Result<()> {
        self.live.backend = EbpfBackend::attach(&self.plan, facts)?;
        self.no_iterator = self.live.backend.look_at_files().err().map(|error| format!("{error:#}"));
        self.watched.seen = Seen::default();
        Ok(())
    }

    /// Have all processes that were named ended?
    pub(crate) fn all_ended(&self) -> bool {
        process::all_ended(self.plan.processes.pids())
    }

    /// Wait, and learn what vCPUs do meanwhile; true if a signal ended it.
    pub(crate) fn rest(&mut self, pause: Duration) -> Result<bool> {
        self.live.follow(Some(pause), &mut self.watched)?;
        Ok(self.live.is_interrupted())
    }

    /// The same, or until somebody calls.
    pub(crate) fn rest_or(&mut self, pause: Duration, call: impl Future<Output = ()>) -> Result<bool> {
        self.live.follow_or(Some(pause), call, &mut self.watched)?;
        Ok(self.live.is_interrupted())
    }

    /// Findings by rule and severity, repetitions included.
    pub(crate) const fn findings(&self) -> &BTreeMap<(RuleId, Severity), u64> {
        self.watched.engine.findings()
    }

    /// What open files show, where they can be looked at; else those of which something was seen.
    pub(crate) fn look(&mut self) -> Result<Look> {
        if self.no_iterator.is_some() { self.look_closely() } else { self.look_among(None) }
    }

    /// ioctls of a vCPU by thread, as far as they were reported.
    pub(crate) fn ioctls(&self, vcpu: u64) -> BTreeMap<Thread, u64> {
        self.watched.engine.ioctls(vcpu)
    }

    /// Does the counter of one of them take another look?
    pub(crate) fn any_open(&self) -> bool {
        self.watched.accounts.any_open()
    }

    /// Those that have a descriptor and of which nothing was seen are told apart.
    pub(crate) fn look_closely(&mut self) -> Result<Look> {
        let pids = self.plan.processes.pids().to_vec();
        let found = descriptors::look(&pids);
        let mut look = self.look_among(Some(&found))?;
        let Descriptors { vcpus, refused } = found;
        let known: BTreeSet<_> = look.vcpus.iter().map(|vcpu| (vcpu.pid, vcpu.id.to_string())).collect();
        look.unseen = vcpus
            .into_iter()
            .flat_map(|(pid, ids)| ids.into_iter().map(move |id| (pid, id)))
            .filter(|vcpu| !known.contains(vcpu) && !self.watched.seen.holders.contains(vcpu))
            .collect();
        let is_empty = look.vcpus.is_empty() && look.unseen.is_empty();
        look.none = is_empty.then(|| descriptors::no_vcpu(&pids, refused));
        Ok(look)
    }

    /// KVM's side before and after the guests' counters: an update may come between.
    fn look_among(&mut self, found: Option<&Descriptors>) -> Result<Look> {
        if self.no_iterator.is_none() {
            self.watched.seen = Seen::default();
        }
        let look_ns = now_ns()?;
        let lost_before: u64 = self.live.backend.lost()?.values().sum();
        self.look_at_files()?;
        self.watched.seen.read_areas();
        self.look_at_files()?;
        let now_ns = now_ns()?;
        let Self { watched: Watched { seen, accounts, engine, tell }, names, .. } = self;
        let pids = self.plan.processes.pids();
        let wanted = |last: &&Last| match (&self.no_iterator, found) {
            (Some(_), Some(found)) => found.has(last.now.holder_tgid, last.now.vcpu_id),
            _ => pids.is_empty() || pids.contains(&last.now.holder_tgid),
        };
        names.begin_look();
        let is_of_now = self.no_iterator.is_none();
        let lasts = seen.vcpus.values().filter(wanted);
        let mut quotas = Quotas::default();
        let mut vcpus: Vec<_> =
            lasts.map(|last| row(last, now_ns, accounts, names, &mut quotas, is_of_now)).collect();
        number_vms(&mut vcpus);
        note_throttling(&mut vcpus, &quotas);
        vcpus.sort_by_key(|vcpu| (vcpu.pid, vcpu.vm, vcpu.id));
        let lost = self.live.backend.lost()?.values().sum();
        let is_whole = is_of_now && lost == lost_before && self.sees_all;
        let lives = |address| !is_whole || seen.vcpus.contains_key(&address);
        accounts.keep(|address| lives(*address));
        engine.forget(&lives, &process::is_there).iter().try_for_each(tell)?;
        if is_whole && self.forgot.elapsed() >= FORGET {
            self.forgot = Instant::now();
            self.live.backend.forget(look_ns, &lives)?;
        }
        let unread = seen.vcpus.values().find_map(|last| last.unread.clone());
        let no_iterator = self.no_iterator.clone();
        Ok(Look { time_ns: now_ns, vcpus, unseen: Vec::new(), none: None, unread, no_iterator, lost })
    }

    fn look_at_files(&mut self) -> Result<()> {
        if self.no_iterator.is_none() {
            self.live.backend.look_at_files()?;
        }
        let watched = &mut self.watched;
        self.live.backend.drain(MOST_EVENTS, |entry| watched.entry(entry).is_ok());
        Ok(())
    }
}

/// The control groups of each VM's process and of those threads that run its vCPUs.
type Quotas = BTreeMap<u32, BTreeSet<PathBuf>>;

fn row(
    last: &Last,
    now_ns: u64,
    accounts: &mut Accounts,
    names: &mut Names,
    quotas: &mut Quotas,
    is_of_now: bool,
) -> VcpuLook {
    let Last { now, area, charged_before_ns, .. } = last;
    let (pid, key) = (now.holder_tgid, now.vcpu);
    let runner = last.runner_tid().map(|tid| names.runner(key, tid));
    let run_delay_ns = Some(now.run_delay_ns).filter(|ns| *ns != 0);
    let run_delay_ns = run_delay_ns.or_else(|| proc::run_delay_ns(last.runner_tid()?));
    let ago_ns = now_ns.saturating_sub(now.time_ns); // no more than that can have been charged since
    let sight = Sight {
        enabling: now.enabling,
        runner_tid: last.runner_tid(),
        counter: area.map(|area| (area.steal_ns, area.version)),
        charged_ns: *charged_before_ns..=now.last_steal_ns.saturating_add(ago_ns),
    };
    let account = accounts.of(key, now.vcpu_id);
    let waits = last.runner_tid().zip(run_delay_ns).filter(|_| is_of_now); // else last_steal is of an event long ago
    let judgement = account.look(now.time_ns, now.last_steal_ns, waits, sight);
    let vm = names.vm(now.vm, pid);
    let groups = runner.as_ref().map(|runner| &runner.groups).into_iter().chain([&vm.groups]);
    let of_vm = quotas.entry(pid).or_default();
    groups.flat_map(|groups| groups.iter()).for_each(|group| {
        if !of_vm.contains(group) {
            of_vm.insert(group.clone());
        }
    });
    VcpuLook {
        address: key,
        kvm: now.vm,
        fd: now.fd,
        vm: None,
        pid,
        comm: vm.comm.clone(),
        vm_name: vm.name.clone(),
        id: now.vcpu_id,
        run_delay_ns,
        runner: runner.map(|runner| runner.thread),
        enabling: now.enabling,
        last_steal_ns: now.last_steal_ns,
        judgement,
        area: *area,
        account: account.clone(),
        throttled: None,
    }
}

fn note_throttling(vcpus: &mut [VcpuLook], quotas: &Quotas) {
    let throttled: BTreeMap<_, _> =
        quotas.iter().map(|(pid, groups)| (*pid, cgroup::throttled(groups))).collect();
    for vcpu in vcpus {
        vcpu.throttled = throttled.get(&vcpu.pid).copied().flatten();
    }
}

/// Tell the VMs of one process apart, in the order of their first descriptors.
fn number_vms(vcpus: &mut [VcpuLook]) {
    let mut vms: BTreeMap<u32, BTreeMap<u64, u32>> = BTreeMap::new();
    for vcpu in &*vcpus {
        let first = vms.entry(vcpu.pid).or_default().entry(vcpu.kvm).or_insert(vcpu.fd);
        *first = vcpu.fd.min(*first);
    }
    for vcpu in vcpus {
        let of_process = vms.get(&vcpu.pid).filter(|vms| vms.len() > 1);
        let first = of_process.and_then(|vms| Some((vms, vms.get(&vcpu.kvm)?)));
        vcpu.vm = first.map(|(vms, first)| {
            let before = vms.iter().filter(|(kvm, fd)| (*fd, *kvm) < (first, &vcpu.kvm));
            u32::try_from(before.count() + 1).unwrap_or(u32::MAX)
        });
    }
}
