//! Attaching: each program to its place, or why the kernel refuses.

use anyhow::{Context as _, Result, anyhow, bail};
use aya::{
    Ebpf,
    programs::{KProbe, Program, ProgramError, RawTracePoint, TracePoint},
    sys::SyscallError,
};
use stealtrace_common::{
    probe::{Probe, ProbeRow, Set, probes},
    target::Volume,
};

use super::{
    BackendKind, Plan, Processes,
    table::{Hook, Place, label, place, planned, serves_edges},
};
use crate::kernel::KernelFacts;

/// A probe that is attached, and to what, as people say it.
#[derive(Clone, Copy)]
pub(super) struct Attached {
    pub(super) probe: Probe,
    pub(super) program: &'static str,
    pub(super) target: &'static str,
}

pub(super) fn attach_all(
    ebpf: &mut Ebpf,
    plan: &Plan,
    kind: BackendKind,
    facts: &KernelFacts,
) -> Result<Vec<Attached>> {
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
pub(super) fn attach_calls(
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

pub(super) fn attach_one(ebpf: &mut Ebpf, Place { program: name, hook, target }: Place) -> Result<()> {
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

pub(super) fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Program> {
    ebpf.program_mut(name).with_context(|| format!("the kernel side has no program {name}"))
}

/// A program is loaded once, however often it is attached.
pub(super) fn loaded(name: &str, result: Result<(), ProgramError>) -> Result<()> {
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
