//! The live backend: load the kernel object, tell it the layout and the targets once, attach, drain.
//! Everything it attaches lives in file descriptors, so the kernel removes it with this process, however that ends.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
    thread,
};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use aya::{
    Btf, Ebpf, EbpfLoader, Pod, VerifierLogLevel,
    maps::{Array, HashMap, MapData, PerCpuArray, RingBuf},
    programs::{Iter, KProbe, Program, ProgramError, RawTracePoint, TracePoint},
    sys::SyscallError,
};
use aya_log::EbpfLogger;
use stealtrace_common::{
    layout::Layout,
    probe::{Attachment, Counter, Probe, ProbeRow, Set, probes},
    ring::Entry,
    target::{GuardOrders, PidNamespace, Target, Volume},
    vcpu::QuietVcpu,
};

use super::{
    BackendKind, Plan, Processes, choose,
    table::{Hook, Place, label, place, planned, serves_edges},
};
use crate::{
    kernel::KernelFacts,
    model::{Losses, ProbeLoss},
};

/// The kernel side, as the build script left it.
static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("STEALTRACE_OBJECT"));

/// Probes attached to the running kernel; detached when dropped.
pub struct EbpfBackend {
    ebpf: Ebpf,
    ring: RingBuf<MapData>,
    counters: PerCpuArray<MapData, CounterPod>,
    quiet: Array<MapData, QuietPod>,
    attached: Vec<Attached>,
    kind: BackendKind,
    logger: EbpfLogger<&'static dyn log::Log>,
    /// Is a vCPU's file told from others?
    knows_files: bool,
    undecodable: u64,
}

/// A probe that is attached, and to what, as people say it.
#[derive(Clone, Copy)]
struct Attached {
    probe: Probe,
    program: &'static str,
    target: &'static str,
}

/// `aya::Pod` is a promise about the type; it can only be made for our own.
#[repr(transparent)]
#[derive(Clone, Copy)]
struct LayoutPod(Layout);
#[repr(transparent)]
#[derive(Clone, Copy)]
struct TargetPod(Target);
#[repr(transparent)]
#[derive(Clone, Copy)]
struct GuardPod(GuardOrders);
#[repr(transparent)]
#[derive(Clone, Copy)]
struct NamespacePod(PidNamespace);
#[repr(transparent)]
#[derive(Clone, Copy)]
struct CounterPod(Counter);
#[repr(transparent)]
#[derive(Clone, Copy)]
struct QuietPod(QuietVcpu);

// SAFETY: Layout is repr(C) integers without padding.
unsafe impl Pod for LayoutPod {}
// SAFETY: Target is repr(C) integers without padding.
unsafe impl Pod for TargetPod {}
// SAFETY: GuardOrders is repr(C) integers without padding.
unsafe impl Pod for GuardPod {}
// SAFETY: QuietVcpu is repr(C) integers without padding.
unsafe impl Pod for QuietPod {}
// SAFETY: PidNamespace is repr(C) integers without padding.
unsafe impl Pod for NamespacePod {}
// SAFETY: Counter is repr(C) integers without padding.
unsafe impl Pod for CounterPod {}

impl EbpfBackend {
    /// Load and attach.
    ///
    /// # Errors
    /// When the kernel has no place for a required probe, or refuses a program; says which.
    pub fn attach(plan: &Plan, facts: &KernelFacts) -> Result<Self> {
        let types = facts.require_traceable()?;
        let kind = choose(plan.wanted, facts)?;
        let kvm_vcpu_ioctl = facts.symbols.address("kvm_vcpu_ioctl");
        let namespace = facts.own_namespace()?;
        let layout = LayoutPod(types.layout(kvm_vcpu_ioctl, namespace)?);
        let namespace = find_namespace(namespace, layout, plan)?;
        let mut ebpf = load(layout, plan, namespace)?;
        let logger = EbpfLogger::init(&mut ebpf).context("start the kernel side's log")?;
        let ring = RingBuf::try_from(take(&mut ebpf, "EVENTS")?).with_context(|| {
            format!(
                "map {} KiB for events that wait to be read (`trace --buffer` says how many)",
                plan.ring_bytes / 1024
            )
        })?;
        let counters = PerCpuArray::try_from(take(&mut ebpf, "COUNTERS")?)?;
        let quiet = Array::try_from(take(&mut ebpf, "QUIET")?)?;
        watch(&mut ebpf, &plan.processes)?;
        let mut attached = attach_calls(&mut ebpf, plan, kind, facts)?; // first, so that ours run before them
        attached.extend(attach_all(&mut ebpf, plan, kind, facts)?);
        let knows_files = kvm_vcpu_ioctl.is_some();
        Ok(Self { ebpf, ring, counters, quiet, attached, kind, logger, knows_files, undecodable: 0 })
    }

    /// How it sees.
    #[must_use]
    pub const fn kind(&self) -> BackendKind {
        self.kind
    }

    /// Hand over up to `limit` entries while `each` takes them; true if the ring is empty then.
    pub fn drain(&mut self, limit: usize, mut each: impl FnMut(&Entry) -> bool) -> bool {
        self.logger.flush();
        for _ in 0..limit {
            let Some(item) = self.ring.next() else {
                return true;
            };
            match Entry::decode(&item) {
                Ok(entry) if each(&entry) => {}
                Ok(_) => return false,
                Err(_) => self.undecodable += 1,
            }
        }
        false
    }

    /// Let every open file of every process be looked at: a [`stealtrace_common::ring::Sighting`] for each vCPU's.
    ///
    /// # Errors
    /// When this kernel has no such iterator, or refuses it.
    pub fn look_at_files(&mut self) -> Result<()> {
        if !self.knows_files {
            bail!(
                "/proc/kallsyms hides the address of kvm_vcpu_ioctl: run with CAP_SYSLOG, and kernel.kptr_restrict below 2"
            );
        }
        probes(Set::Files).try_for_each(|row| self.iterate(row))
    }

    fn iterate(&mut self, row: &'static ProbeRow) -> Result<()> {
        let Attachment::Iterator(target) = row.attachment else { bail!("{} is no iterator", row.program) };
        let iterator: &mut Iter = program(&mut self.ebpf, row.program)?.try_into()?;
        if iterator.fd().is_err() {
            let types = Btf::from_sys_fs().context("read the kernel's types")?;
            loaded(row.program, iterator.load(target, &types))?;
            self.attached.push(Attached { probe: row.probe, program: row.program, target });
        }
        let link = iterator.attach().context("make an iterator over open files")?;
        let mut files = iterator.take_link(link)?.into_file()?;
        loop {
            match io::copy(&mut files, &mut io::sink()) {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {} // a million files: go on
                Err(error) => return Err(error).context("iterate over open files"),
            }
        }
    }

    /// Remove every probe; what is in the ring stays there to be drained.
    pub fn detach(&mut self) {
        for Attached { program, .. } in self.attached.iter().rev() {
            // Dropping a program's links removes them; a program without links is inert.
            match self.ebpf.program_mut(program) {
                Some(Program::KProbe(program)) => drop(program.unload()),
                Some(Program::RawTracePoint(program)) => drop(program.unload()),
                Some(Program::TracePoint(program)) => drop(program.unload()),
                _ => {}
            }
        }
    }

    /// What was missed so far.
    ///
    /// # Errors
    /// When the kernel does not let us read the counters.
    pub fn losses(&self) -> Result<Losses> {
        let mut probes: Vec<_> =
            self.attached.iter().map(|one| self.loss(one.probe, one.target)).collect::<Result<_>>()?;
        let (entered, left) = self.quiet_hits()?;
        for (one, loss) in self.attached.iter().zip(&mut probes) {
            match one.probe {
                Probe::VcpuIoctl | Probe::SysEnter => loss.hits += entered,
                Probe::VcpuPut | Probe::SysExit => loss.hits += left,
                _ => {}
            }
        }
        Ok(Losses { probes, undecodable: self.undecodable })
    }

    /// Hits of which there was nothing to tell.
    fn quiet_hits(&self) -> Result<(u64, u64)> {
        let mut hits = (0, 0);
        for slot in self.quiet.iter() {
            let QuietPod(quiet) = slot.context("read what was quiet")?;
            hits.0 += quiet.entered;
            hits.1 += quiet.left;
        }
        Ok(hits)
    }

    fn loss(&self, probe: Probe, target: &str) -> Result<ProbeLoss> {
        let per_cpu = self.counters.get(&(probe as u32), 0).context("read the probes' counters")?;
        let sum = |of: fn(&Counter) -> u64| per_cpu.iter().map(|pod| of(&pod.0)).sum();
        Ok(ProbeLoss {
            probe: target.to_owned(),
            hits: sum(|counter| counter.hits),
            emitted: sum(|counter| counter.emitted),
            lost: sum(|counter| counter.lost),
            lost_by_cpu: per_cpu
                .iter()
                .map(|pod| pod.0.lost)
                .enumerate()
                .filter(|(_, lost)| *lost > 0)
                .collect(),
        })
    }
}

impl AsFd for EbpfBackend {
    /// Readable when there are events.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ring.as_fd()
    }
}

/// Where the kernel keeps stealtrace's own PID namespace, if that is not the initial one: a program looks while we make
/// a thread.
fn find_namespace(namespace: PidNamespace, layout: LayoutPod, plan: &Plan) -> Result<PidNamespace> {
    const FORK: &str = "sched_process_fork";
    if namespace == PidNamespace::INITIAL {
        return Ok(namespace);
    }
    let mut ebpf = load(layout, plan, namespace)?;
    attach_one(&mut ebpf, Place { program: "own_namespace", hook: Hook::RawTracepoint, target: FORK })?;
    thread::spawn(|| {}).join().map_err(|_| anyhow!("a thread that does nothing panicked"))?;
    let found = Array::<_, NamespacePod>::try_from(take(&mut ebpf, "NAMESPACE")?)?;
    let NamespacePod(found) = found.get(&0, 0).context("read where our PID namespace is")?;
    ensure!(found.level > 0, "the kernel side does not find PID namespace {}", namespace.inode);
    Ok(found)
}

fn load(layout: LayoutPod, plan: &Plan, namespace: PidNamespace) -> Result<Ebpf> {
    allow_locked_memory();
    allow_open_files();
    let target = TargetPod(plan.target(namespace));
    let guard = GuardPod(plan.guard_orders());
    let log_level = if plan.verbose { aya_log::Level::Debug as u8 } else { 0 };
    let verifier_log = if plan.verbose { VerifierLogLevel::default() } else { VerifierLogLevel::DISABLE };
    EbpfLoader::new()
        .verifier_log_level(verifier_log) // writing it takes longer than verifying
        .override_global("LAYOUT", &layout, true)
        .override_global("TARGET", &target, true)
        .override_global("GUARD", &guard, true)
        .override_global(aya_log::LEVEL, &log_level, false)
        .map_max_entries("EVENTS", plan.ring_bytes)
        .load(OBJECT)
        .map_err(|error| anyhow!(error))
        .map_err(|error| {
            if is_short_of_files(&error) { error.context("raise the limit with `ulimit -n`") } else { error }
        })
        .context("load the kernel side")
}

fn take(ebpf: &mut Ebpf, map: &str) -> Result<aya::maps::Map> {
    ebpf.take_map(map).with_context(|| format!("the kernel side has no map {map}"))
}

fn watch(ebpf: &mut Ebpf, processes: &Processes) -> Result<()> {
    let map = ebpf.map_mut("TARGETS").context("the kernel side has no map TARGETS")?;
    let mut map: HashMap<_, u32, u8> = HashMap::try_from(map)?;
    for pid in processes.pids() {
        map.insert(pid, 1, 0).with_context(|| format!("watch process {pid}"))?;
    }
    Ok(())
}

fn attach_all(ebpf: &mut Ebpf, plan: &Plan, kind: BackendKind, facts: &KernelFacts) -> Result<Vec<Attached>> {
    let follows = matches!(plan.processes, Processes::Tree(_));
    let mut attached = Vec::new();
    for row in planned(plan.task, kind).into_iter().filter(|row| row.probe != Probe::Fork || follows) {
        match place(row, facts) {
            Ok(place) if plan.volume == Volume::Edges && !serves_edges(row, &place) => {}
            Ok(place) => {
                let floor = place.hook.floor().filter(|_| plan.floor);
                let place = Place { program: floor.unwrap_or(place.program), ..place };
                attach_one(ebpf, place)?;
                attached.push(Attached { probe: row.probe, program: place.program, target: place.target });
            }
            Err(reason) if row.required => return Err(anyhow!(reason)),
            Err(reason) => log::info!("without {}: {reason}", label(row, facts)),
        }
    }
    Ok(attached)
}

/// The view of calls: one program on many functions.
fn attach_calls(
    ebpf: &mut Ebpf,
    plan: &Plan,
    kind: BackendKind,
    facts: &KernelFacts,
) -> Result<Vec<Attached>> {
    let present: Vec<_> = plan.functions.iter().filter(|name| facts.symbols.has(name)).collect();
    if present.is_empty() || kind == BackendKind::Tracepoint {
        return Ok(Vec::new());
    }
    for row in probes(Set::Calls) {
        let kprobe: &mut KProbe = program(ebpf, row.program)?.try_into()?;
        loaded(row.program, kprobe.load())?;
        for name in &present {
            kprobe.attach(name, 0).with_context(|| format!("attach kprobe to {name}"))?;
        }
    }
    let attached = |row: &ProbeRow| Attached { probe: row.probe, program: row.program, target: row.purpose };
    Ok(probes(Set::Calls).map(attached).collect())
}

fn attach_one(ebpf: &mut Ebpf, Place { program: name, hook, target }: Place) -> Result<()> {
    let program = program(ebpf, name)?;
    match hook {
        Hook::Kprobe => {
            let kprobe: &mut KProbe = program.try_into()?;
            loaded(name, kprobe.load())?;
            kprobe.attach(target, 0).with_context(|| format!("attach kprobe to {target}"))?;
        }
        Hook::RawTracepoint => {
            let tracepoint: &mut RawTracePoint = program.try_into()?;
            loaded(name, tracepoint.load())?;
            tracepoint.attach(target).with_context(|| format!("attach to raw tracepoint {target}"))?;
        }
        Hook::Syscall => {
            let tracepoint: &mut TracePoint = program.try_into()?;
            loaded(name, tracepoint.load())?;
            let context = || format!("attach to tracepoint syscalls:{target}");
            tracepoint.attach("syscalls", target).with_context(context)?;
        }
        Hook::Iterator => bail!("{name} is an iterator, which runs when it is asked to"),
    }
    Ok(())
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Program> {
    ebpf.program_mut(name).with_context(|| format!("the kernel side has no program {name}"))
}

/// A program is loaded once, however often it is attached.
fn loaded(name: &str, result: Result<(), ProgramError>) -> Result<()> {
    match result {
        Ok(()) | Err(ProgramError::AlreadyLoaded) => Ok(()),
        Err(error) => Err(refused(name, &error)),
    }
}

/// The kernel's reason in one line; the verifier's whole log is for `-v`.
fn refused(program: &str, error: &ProgramError) -> anyhow::Error {
    log::debug!("{error}");
    if let ProgramError::LoadError { io_error, .. }
    | ProgramError::SyscallError(SyscallError { io_error, .. }) = error
        && io_error.raw_os_error() == Some(libc::EMFILE)
    {
        return anyhow!("cannot load program {program}: {io_error}; raise the limit with `ulimit -n`");
    }
    let reason = match error {
        ProgramError::LoadError { io_error, .. } => io_error.to_string(),
        other => other.to_string().lines().next().unwrap_or_default().to_owned(),
    };
    anyhow!("the kernel refused program {program}: {reason}; -v shows the verifier's log")
}

fn is_short_of_files(error: &anyhow::Error) -> bool {
    let errors = error.chain().filter_map(|cause| cause.downcast_ref::<io::Error>());
    { errors }.any(|error| error.raw_os_error() == Some(libc::EMFILE))
}

/// Maps and programs are open files. As many as one may have; the command of `-- CMD` was started before.
fn allow_open_files() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: a valid pointer to fill, then the same to read.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) == 0 {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
        }
    }
}

/// Before Linux 5.11 maps count as locked memory, whose default limit is too low. Later kernels do not care.
fn allow_locked_memory() {
    let unlimited = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: a valid pointer to a valid struct, read only.
    let result = unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const unlimited) };
    if result != 0 {
        log::debug!("cannot raise RLIMIT_MEMLOCK; needed before Linux 5.11 only");
    }
}
