//! Attaching: each program to its place, or why the kernel refuses.

use anyhow::{Context as _, Error, Result, anyhow, bail};
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
    fentry::{Programs, Running},
    table::{Hook, Place, by, label, place, planned, serves_edges},
};
use crate::kernel::{KernelFacts, bpf::On};

/// A probe that is attached, in which way, and to what, as people say it.
#[derive(Clone, Copy)]
pub(super) struct Attached {
    pub(super) row: &'static ProbeRow,
    pub(super) program: &'static str,
    pub(super) target: &'static str,
    pub(super) kind: BackendKind,
}

/// The kernel side while it is attached: each probe in the first of the ways that the kernel lets it have.
pub(super) struct Attaching<'a> {
    pub(super) ebpf: &'a mut Ebpf,
    /// For fentry, if that is one of the ways.
    pub(super) programs: Option<Programs>,
    pub(super) running: Vec<Running>,
    pub(super) plan: &'a Plan,
    pub(super) ways: &'a [BackendKind],
    pub(super) facts: &'a KernelFacts,
}

impl Attaching<'_> {
    pub(super) fn all(&mut self) -> Result<Vec<Attached>> {
        let follows = matches!(self.plan.processes, Processes::Tree(_));
        let rows = planned(self.plan.task, self.ways).into_iter();
        let mut attached = self.calls()?; // first, so that ours run before them
        for row in rows.filter(|row| row.probe != Probe::Fork || follows) {
            match self.row(row) {
                Ok(one) => attached.extend(one),
                Err(reason) if row.required => return Err(reason),
                Err(reason) => log::info!("without {}: {reason:#}", label(row, self.facts)),
            }
        }
        Ok(attached)
    }

    /// None if it is not worth its price.
    fn row(&mut self, row: &'static ProbeRow) -> Result<Option<Attached>> {
        let label = label(row, self.facts);
        self.in_some_way(&label, |attaching, kind| attaching.row_by(row, kind))
    }

    /// In the first way that the kernel lets it have; else the last one's error.
    fn in_some_way<T>(
        &mut self,
        what: &str,
        attach: impl Fn(&mut Self, BackendKind) -> Result<T>,
    ) -> Result<T> {
        let mut refused = anyhow!("there is no way");
        for kind in self.ways {
            match attach(self, *kind) {
                Ok(one) => return Ok(one),
                Err(reason) => {
                    log::info!("{what} not by {kind}: {reason:#}");
                    refused = reason;
                }
            }
        }
        Err(refused)
    }

    fn row_by(&mut self, row: &'static ProbeRow, kind: BackendKind) -> Result<Option<Attached>> {
        let place = place(row, kind, self.facts).map_err(Error::msg)?;
        if self.plan.volume == Volume::Edges && !serves_edges(row, &place) {
            return Ok(None);
        }
        let floor = place.hook.floor().filter(|_| self.plan.floor);
        let place = Place { program: floor.unwrap_or(place.program), ..place };
        self.one(place)?;
        Ok(Some(Attached { row, program: place.program, target: place.target, kind }))
    }

    fn one(&mut self, place: Place<'_>) -> Result<()> {
        let on = match place.hook {
            Hook::Fentry => On::Entry,
            Hook::Fexit => On::Exit,
            Hook::Kprobe | Hook::Kretprobe => return self.kprobe(place),
            _ => return attach_one(self.ebpf, place),
        };
        let function = self.facts.fentry().ok().and_then(|fentry| fentry.function(place.target));
        let (Some(function), Some(programs)) = (function, &self.programs) else {
            bail!("no fentry for {}", place.target);
        };
        let running = programs.attach(place.program, on, function);
        self.running.push(running.with_context(|| format!("attach {} to {}", place.program, place.target))?);
        Ok(())
    }

    /// Without perf where the kernel can: that is cheaper, and takes fewer privileges.
    fn kprobe(&mut self, place: Place<'_>) -> Result<()> {
        let on_return = place.hook == Hook::Kretprobe;
        let address =
            self.facts.symbols.address(place.target).filter(|_| self.facts.symbols.has_kprobe_multi());
        if let (Some(programs), Some(address)) = (&self.programs, address) {
            match programs.attach_kprobe(place.program, address, on_return) {
                Ok(running) => {
                    self.running.push(running);
                    return Ok(());
                }
                Err(error) => log::info!("{} not without perf: {error:#}", place.target),
            }
        }
        attach_one(self.ebpf, place)
    }

    /// The view of calls: the same program on many functions.
    fn calls(&mut self) -> Result<Vec<Attached>> {
        let symbols = &self.facts.symbols;
        let present: Vec<_> = self.plan.functions.iter().filter(|name| symbols.has(name)).collect();
        if present.is_empty() || self.ways.contains(&BackendKind::Tracepoint) {
            return Ok(Vec::new());
        }
        let mut attached = Vec::new();
        for row in probes(Set::Calls) {
            let mut ways = Vec::new();
            for name in &present {
                ways.push(self.call(row, name)?);
            }
            let kind = ways.into_iter().max().unwrap_or(BackendKind::Kprobe);
            attached.push(Attached { row, program: by(row, kind).0, target: row.purpose, kind });
        }
        Ok(attached)
    }

    fn call(&mut self, row: &'static ProbeRow, function: &str) -> Result<BackendKind> {
        self.in_some_way(function, |attaching, kind| {
            let (program, hook) = by(row, kind);
            attaching.one(Place { program, hook, target: function })?;
            Ok(kind)
        })
    }
}

pub(super) fn attach_one(ebpf: &mut Ebpf, Place { program: name, hook, target }: Place<'_>) -> Result<()> {
    let program = program(ebpf, name)?;
    match hook {
        Hook::Kprobe | Hook::Kretprobe => {
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
        Hook::Fentry | Hook::Fexit => bail!("{name} is attached in another way"),
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
