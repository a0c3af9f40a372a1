//! Loading: the kernel object, told the layout, the targets and where our PID namespace is.

use std::{io, thread};

use anyhow::{Context as _, Result, anyhow, ensure};
use aya::{
    Ebpf, EbpfLoader, Pod, VerifierLogLevel,
    maps::{Array, HashMap},
};
use stealtrace_common::{
    layout::Layout,
    probe::Counter,
    target::{GuardOrders, PidNamespace, Target},
    vcpu::VcpuState,
};

use super::{
    Plan, Processes,
    attach::attach_one,
    table::{Hook, Place},
};
use crate::kernel::KernelFacts;

/// The kernel side, as the build script left it.
pub(super) static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("STEALTRACE_OBJECT"));

/// `aya::Pod` is a promise about the type; it can only be made for our own.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub(super) struct LayoutPod(pub(super) Layout);
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
pub(super) struct CounterPod(pub(super) Counter);
#[repr(transparent)]
#[derive(Clone, Copy)]
pub(super) struct VcpuPod(pub(super) VcpuState);

// SAFETY: Layout is repr(C) integers without padding.
unsafe impl Pod for LayoutPod {}
// SAFETY: Target is repr(C) integers without padding.
unsafe impl Pod for TargetPod {}
// SAFETY: GuardOrders is repr(C) integers without padding.
unsafe impl Pod for GuardPod {}
// SAFETY: PidNamespace is repr(C) integers without padding.
unsafe impl Pod for NamespacePod {}
// SAFETY: VcpuState is repr(C) integers without padding.
unsafe impl Pod for VcpuPod {}
// SAFETY: Counter is repr(C) integers without padding.
unsafe impl Pod for CounterPod {}

/// Where the kernel keeps stealtrace's own PID namespace, if that is not the initial one: a program looks while we make
/// a thread.
pub(super) fn find_namespace(
    namespace: PidNamespace,
    layout: LayoutPod,
    plan: &Plan,
    facts: &KernelFacts,
) -> Result<PidNamespace> {
    const FORK: &str = "sched_process_fork";
    if namespace == PidNamespace::INITIAL {
        return Ok(namespace);
    }
    let mut ebpf = load(facts.loader(), layout, plan, namespace)?;
    attach_one(&mut ebpf, Place { program: "own_namespace", hook: Hook::RawTracepoint, target: FORK })?;
    thread::spawn(|| {}).join().map_err(|_| anyhow!("a thread that does nothing panicked"))?;
    let found = Array::<_, NamespacePod>::try_from(take(&mut ebpf, "NAMESPACE")?)?;
    let NamespacePod(found) = found.get(&0, 0).context("read where our PID namespace is")?;
    ensure!(found.level > 0, "the kernel side does not find PID namespace {}", namespace.inode);
    Ok(found)
}

pub(super) fn load(
    loader: EbpfLoader<'static>,
    layout: LayoutPod,
    plan: &Plan,
    namespace: PidNamespace,
) -> Result<Ebpf> {
    allow_locked_memory();
    allow_open_files();
    let target = TargetPod(plan.target(namespace));
    let guard = GuardPod(plan.guard_orders());
    let log_level = if plan.verbose { aya_log::Level::Debug as u8 } else { 0 };
    let verifier_log = if plan.verbose { VerifierLogLevel::default() } else { VerifierLogLevel::DISABLE };
    let mut loader: EbpfLoader<'_> = loader; // what it is told lives no longer than this
    loader
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

pub(super) fn take(ebpf: &mut Ebpf, map: &str) -> Result<aya::maps::Map> {
    ebpf.take_map(map).with_context(|| format!("the kernel side has no map {map}"))
}

pub(super) fn watch(ebpf: &mut Ebpf, processes: &Processes) -> Result<()> {
    let map = ebpf.map_mut("TARGETS").context("the kernel side has no map TARGETS")?;
    let mut map: HashMap<_, u32, u8> = HashMap::try_from(map)?;
    for pid in processes.pids() {
        map.insert(pid, 1, 0).with_context(|| format!("watch process {pid}"))?;
    }
    Ok(())
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
