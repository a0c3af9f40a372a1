//! The live backend: load the kernel object, tell it the layout and the targets once, attach, drain.
//! Everything it attaches lives in file descriptors, so the kernel removes it with this process, however that ends.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
    path::PathBuf,
};

use anyhow::{Context as _, Result, bail};
use aya::{
    Btf, Ebpf,
    maps::{HashMap, Map, MapData, PerCpuArray, RingBuf},
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
    BackendKind, Plan, Task,
    attach::{Attached, Attaching, loaded, program},
    fentry::{Programs, Running},
    load::{CounterPod, LayoutPod, VcpuPod, find_namespace, load, take, watch},
    rehearsal, ways,
};
use crate::{
    kernel::{KernelFacts, bpf, kvm_is_a_module, vendor_folder},
    model::{Losses, Lost, ProbeLoss},
};

/// Probes attached to the running kernel; detached when dropped.
pub struct EbpfBackend {
    ebpf: Ebpf,
    /// On fentry.
    running: Vec<Running>,
    /// What those missed that run no more, by their programs.
    missed: Vec<(&'static str, u64)>,
    /// What goes before kvm where it is a module, which these keep there.
    vendor: Option<PathBuf>,
    ring: RingBuf<MapData>,
    counters: PerCpuArray<MapData, CounterPod>,
    quiet: MapData,
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
        let ways = ways(plan.wanted, facts)?;
        let layout = types.layout(&facts.symbols)?;
        let layout = if types.are_of_kvm { layout } else { rehearsal::confirmed(layout, &ways, facts)? };
        let attached = Self::attach_by(layout, &ways, plan, facts);
        let last = [BackendKind::Tracepoint];
        let may_be_last = plan.wanted.is_none() && ways != last && matches!(plan.task, Task::Watch);
        match attached {
            Err(error) if may_be_last && BackendKind::Tracepoint.problem(facts).is_none() => {
                log::info!("by no function: {error:#}");
                Self::attach_by(layout, &last, plan, facts)
            }
            attached => attached,
        }
    }

    /// The same in these ways, where everything is where this layout says.
    pub(super) fn attach_by(
        layout: Layout,
        ways: &[BackendKind],
        plan: &Plan,
        facts: &KernelFacts,
    ) -> Result<Self> {
        let namespace = facts.own_namespace()?;
        let knows_files = layout.kvm_vcpu_ioctl != 0;
        let layout = LayoutPod(layout);
        let namespace = find_namespace(namespace, layout, plan, facts)?;
        let mut ebpf = load(facts.loader(), layout, plan, namespace)?;
        let takes_more_than_aya = |kind: &BackendKind| match kind {
            BackendKind::Fentry => true,
            BackendKind::Kprobe => facts.symbols.has_kprobe_multi(),
            BackendKind::Tracepoint => false,
        };
        let programs =
            ways.iter().any(takes_more_than_aya).then(|| Programs::with_maps_of(&ebpf, plan.verbose));
        let logger = EbpfLogger::init(&mut ebpf).context("start the kernel side's log")?;
        let ring = RingBuf::try_from(take(&mut ebpf, "EVENTS")?).with_context(|| {
            format!(
                "map {} KiB for events that wait to be read (`trace --buffer` says how many)",
                plan.ring_bytes / 1024
            )
        })?;
        let counters = PerCpuArray::try_from(take(&mut ebpf, "COUNTERS")?)?;
        let Map::Array(quiet) = take(&mut ebpf, ".bss.quiet")? else { bail!("the kernel side has no slots") };
        let vcpus = HashMap::try_from(take(&mut ebpf, "VCPUS")?)?;
        watch(&mut ebpf, &plan.processes)?;
        let programs = programs.transpose()?;
        let mut attaching = Attaching { ebpf: &mut ebpf, programs, running: Vec::new(), plan, ways, facts };
        let attached = attaching.all()?;
        let running = attaching.running;
        let kind = cheapest(&attached).or(ways.first().copied()).unwrap_or(BackendKind::Tracepoint);
        Ok(Self {
            ebpf,
            vendor: (!running.is_empty() && kvm_is_a_module()).then(vendor_folder).flatten(),
            running,
            missed: Vec::new(),
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

    /// The same as people say it, and which probes are attached in another way.
    #[must_use]
    pub fn way(&self) -> String {
        let others: Vec<_> = told_by_way(&self.attached)
            .filter(|one| one.kind != self.kind)
            .map(|one| format!("{} by {}", one.target, one.kind))
            .collect();
        let others = if others.is_empty() { String::new() } else { format!(" ({})", others.join(", ")) };
        format!("{} backend{others}", self.kind)
    }

    /// Let go of kvm if the rest of it was unloaded, so that it can be, too: no VM is left. True if so, once.
    pub fn lets_go(&mut self) -> bool {
        let gone = self.vendor.take_if(|vendor| !vendor.exists());
        if gone.is_some() {
            self.stop_running();
        }
        gone.is_some()
    }

    /// The last first: what ends something goes after what begins it.
    fn stop_running(&mut self) {
        while let Some(one) = self.running.pop() {
            self.missed.extend(one.misses().map(|misses| (one.name, misses)));
        }
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
            let kind = self.kind;
            self.attached.push(Attached { row, program: row.program, target, kind });
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
        self.stop_running();
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
        let mut probes: Vec<_> = self.attached.iter().map(|one| self.loss(one)).collect::<Result<_>>()?;
        let (entered, left) = self.quiet_hits()?;
        for (one, loss) in self.attached.iter().zip(&mut probes) {
            match one.row.probe {
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
            *lost.entry(one.target).or_default() += self.loss(one)?.lost;
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
        }
        Ok(())
    }

    /// Hits of which there was nothing to tell.
    fn quiet_hits(&self) -> Result<(u64, u64)> {
        let mut hits = (0, 0);
        if !self.passes_over {
            return Ok(hits);
        }
        let mut slots = vec![QuietVcpu::default(); QuietVcpu::SLOTS as usize];
        bpf::look_up(self.quiet.fd().as_fd(), 0, &mut slots).context("read what was quiet")?;
        for quiet in slots {
            hits.0 += quiet.entered;
            hits.1 += quiet.left;
        }
        Ok(hits)
    }

    fn loss(&self, one: &Attached) -> Result<ProbeLoss> {
        let per_cpu = self.counters.get(&(one.row.probe as u32), 0).context("read the probes' counters")?;
        let sum = |of: fn(&Counter) -> u64| per_cpu.iter().map(|pod| of(&pod.0)).sum::<u64>();
        Ok(ProbeLoss {
            probe: one.target.to_owned(),
            hits: sum(|counter| counter.hits),
            emitted: sum(|counter| counter.emitted),
            lost: sum(|counter| counter.lost) + self.misses(one.program)?,
            lost_by_cpu: per_cpu
                .iter()
                .map(|pod| pod.0.lost)
                .enumerate()
                .filter(|(_, lost)| *lost > 0)
                .collect(),
        })
    }

    /// What the kernel did not let a program see.
    fn misses(&self, program: &str) -> Result<u64> {
        let running = self.running.iter().filter(|one| one.name == program);
        let running: u64 = running.map(Running::misses).sum::<Result<u64>>()?;
        let before = self.missed.iter().filter(|(name, _)| *name == program);
        Ok(running + before.map(|(_, misses)| misses).sum::<u64>())
    }
}

/// Those that may be attached in one way or another.
fn told_by_way(attached: &[Attached]) -> impl Iterator<Item = &Attached> {
    attached.iter().filter(|one| !matches!(one.row.set, Set::Common | Set::Calls | Set::Files))
}

fn cheapest(attached: &[Attached]) -> Option<BackendKind> {
    told_by_way(attached).map(|one| one.kind).min()
}

impl AsFd for EbpfBackend {
    /// Readable when there are events.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ring.as_fd()
    }
}
