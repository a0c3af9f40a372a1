//! The live backend: load the kernel object, tell it the layout and the targets once, attach, drain.
//! Everything it attaches lives in file descriptors, so the kernel removes it with this process, however that ends.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
};

use anyhow::{Context as _, Result, bail};
use aya::{
    Btf, Ebpf,
    maps::{Array, HashMap, MapData, PerCpuArray, RingBuf},
    programs::{Iter, Program},
};
use aya_log::EbpfLogger;
use stealtrace_common::{
    layout::Layout,
    probe::{Attachment, Counter, Probe, ProbeRow, Set, probes},
    ring::Entry,
    vcpu::QuietVcpu,
};

use super::{
    BackendKind, Plan,
    attach::{Attached, attach_all, attach_calls, loaded, program},
    choose,
    load::{CounterPod, LayoutPod, QuietPod, VcpuPod, find_namespace, load, take, watch},
    rehearsal,
};
use crate::{
    kernel::KernelFacts,
    model::{Losses, Lost, ProbeLoss},
};

/// Probes attached to the running kernel; detached when dropped.
pub struct EbpfBackend {
    ebpf: Ebpf,
    ring: RingBuf<MapData>,
    counters: PerCpuArray<MapData, CounterPod>,
    quiet: Array<MapData, QuietPod>,
    vcpus: HashMap<MapData, u64, VcpuPod>,
    /// Is anything passed over? Else there is nothing in `quiet`.
    passes_over: bool,
    attached: Vec<Attached>,
    kind: BackendKind,
    logger: EbpfLogger<&'static dyn log::Log>,
    /// Is a vCPU's file told from others?
    knows_files: bool,
    undecodable: u64,
}

impl EbpfBackend {
    /// Load and attach.
    ///
    /// # Errors
    /// When the kernel has no place for a required probe, or refuses a program; says which.
    pub fn attach(plan: &Plan, facts: &KernelFacts) -> Result<Self> {
        let types = facts.require_traceable()?;
        let kind = choose(plan.wanted, facts)?;
        let layout = types.layout(facts.symbols.address("kvm_vcpu_ioctl"))?;
        let layout = if types.are_of_kvm { layout } else { rehearsal::confirmed(layout, kind, facts)? };
        Self::attach_by(layout, kind, plan, facts)
    }

    /// The same in this way, where everything is where this layout says.
    pub(super) fn attach_by(
        layout: Layout,
        kind: BackendKind,
        plan: &Plan,
        facts: &KernelFacts,
    ) -> Result<Self> {
        let namespace = facts.own_namespace()?;
        let knows_files = layout.kvm_vcpu_ioctl != 0;
        let layout = LayoutPod(layout);
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
        let vcpus = HashMap::try_from(take(&mut ebpf, "VCPUS")?)?;
        watch(&mut ebpf, &plan.processes)?;
        let mut attached = attach_calls(&mut ebpf, plan, kind, facts)?; // first, so that ours run before them
        attached.extend(attach_all(&mut ebpf, plan, kind, facts)?);
        Ok(Self {
            ebpf,
            ring,
            counters,
            quiet,
            vcpus,
            attached,
            kind,
            logger,
            knows_files,
            undecodable: 0,
            passes_over: plan.passes_over(),
        })
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

    /// What was lost so far, by probe: cheaper than [`Self::losses`].
    ///
    /// # Errors
    /// When the kernel does not let us read the counters.
    pub fn lost(&self) -> Result<Lost> {
        let mut lost = Lost::from([("undecodable", self.undecodable)]);
        for one in &self.attached {
            *lost.entry(one.target).or_default() += self.loss(one.probe, one.target)?.lost;
        }
        Ok(lost)
    }

    /// Let the kernel side forget vCPUs that were there before this moment and live no more: a backend that sees no end of
    /// them would keep them for ever, and has no room for ever.
    ///
    /// # Errors
    /// When the kernel does not let us.
    pub fn forget(&mut self, before_ns: u64, lives: &dyn Fn(u64) -> bool) -> Result<()> {
        let mut gone = Vec::new();
        for entry in self.vcpus.iter() {
            let (address, VcpuPod(state)) = entry.context("read which vCPUs the kernel side knows")?;
            if !lives(address) && state.generation < before_ns {
                gone.push(address);
            }
        }
        if !gone.is_empty() {
            log::debug!("{} vCPUs forgotten", gone.len());
        }
        for address in gone {
            let _gone_by_now = self.vcpus.remove(&address);
            let slot = QuietVcpu::slot(address);
            let QuietPod(quiet) = self.quiet.get(&slot, 0).context("read what was quiet")?;
            if quiet.vcpu == address {
                let free = QuietVcpu { entered: quiet.entered, left: quiet.left, ..QuietVcpu::default() };
                self.quiet.set(slot, QuietPod(free), 0).context("free a slot")?;
            }
        }
        Ok(())
    }

    /// Hits of which there was nothing to tell.
    fn quiet_hits(&self) -> Result<(u64, u64)> {
        let mut hits = (0, 0);
        if !self.passes_over {
            return Ok(hits);
        }
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
