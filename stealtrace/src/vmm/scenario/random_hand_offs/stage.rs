//! Performs steps and records what came of each.

use std::{
    fmt,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::steps::{Act, Step, THREADS, VCPUS};
use crate::vmm::{
    SchedStat, StageThread, Vcpu, Vm, Watched, accrue_run_delay,
    scenario::{Charge, Fault, Reports, Witness},
};

/// By how much the pasts of the threads differ.
const PAST: Duration = Duration::from_millis(40);

/// One step and what came of it.
#[derive(Clone, Debug)]
pub(super) struct Record {
    pub(super) step: Step,
    /// The thread's run_delay was in this range.
    pub(super) run_delay_ns: (u64, u64),
    /// Times the thread was preempted meanwhile.
    pub(super) preemptions: u64,
    /// What a KVM_RUN charged to the guest.
    pub(super) charge: Option<Charge>,
    /// Was the vCPU's last KVM_RUN another thread's?
    pub(super) hand_off: bool,
    /// Did one thread restore what another runs?
    pub(super) restored_by_another: bool,
    /// What the second witness reported of it.
    pub(super) reported: Reports,
}

impl Record {
    pub(super) fn fault(&self) -> Option<Fault> {
        self.charge.as_ref()?.fault()
    }

    pub(super) const fn undisturbed(&self) -> bool {
        self.preemptions == 0
    }

    /// What the guest's counter grew by; negative if it went back.
    pub(super) fn growth_ns(&self) -> Option<i64> {
        self.charge.as_ref().map(Charge::grew_ns)
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Step { thread, vcpu, act } = self.step;
        let (least, most) = self.run_delay_ns;
        write!(f, "thread {thread} (run_delay {least}..={most} ns) {act:?} vCPU {vcpu}")?;
        match self.growth_ns() {
            Some(growth) => write!(f, ": steal {growth:+} ns"),
            None => Ok(()),
        }
    }
}

/// The first thread enables every vCPU's steal time.
fn enabling() -> impl Iterator<Item = Step> {
    (0..VCPUS).map(|vcpu| Step { thread: 0, vcpu, act: Act::Restore })
}

/// Do the steps in a new VM with new threads.
pub(super) fn perform(
    steps: &[Step],
    vm: Vm,
    mut witness: Option<&mut (dyn Witness + '_)>,
) -> Result<Vec<Record>> {
    let threads = threads_with_pasts()?;
    let mut vcpus = vcpus(&threads[0], vm)?;
    let mut pasts = [Past::default(); VCPUS];
    let mut reported = reports(witness.as_deref_mut())?;
    let mut records = Vec::with_capacity(VCPUS + steps.len());
    for step in enabling().chain(steps.iter().copied()) {
        let vcpu = vcpus[step.vcpu].take().context("a vCPU is on its way")?;
        let act = step.act;
        let (vcpu, done) = threads[step.thread].lend(vcpu, move |vcpu| Done::act(vcpu, act))?;
        vcpus[step.vcpu] = Some(vcpu);
        let so_far = reports(witness.as_deref_mut())?;
        records.push(pasts[step.vcpu].record(step, &done, so_far.since(reported)));
        reported = so_far;
    }
    Ok(records)
}

fn reports(witness: Option<&mut (dyn Witness + '_)>) -> Result<Reports> {
    witness.map_or_else(|| Ok(Reports::default()), |witness| witness.reports())
}

impl Reports {
    fn since(self, before: Self) -> Self {
        Self {
            corruptions: self.corruptions - before.corruptions,
            foreign_restores: self.foreign_restores - before.foreign_restores,
        }
    }
}

fn threads_with_pasts() -> Result<Vec<StageThread>> {
    let threads =
        (0..THREADS).map(|i| StageThread::spawn(&format!("random{i}"))).collect::<Result<Vec<_>>>()?;
    for (past, thread) in (0..).zip(&threads) {
        thread.act(move || accrue_run_delay(past * PAST))?;
    }
    Ok(threads)
}

/// Created by one thread.
fn vcpus(creator: &StageThread, vm: Vm) -> Result<[Option<Vcpu>; VCPUS]> {
    creator.act(move || {
        let mut vcpus = [const { None }; VCPUS];
        for (id, vcpu) in (0..).zip(&mut vcpus) {
            *vcpu = Some(vm.create_vcpu(id)?);
        }
        Ok(vcpus)
    })
}

/// What a thread found while it did a step.
struct Done {
    before: SchedStat,
    after: SchedStat,
    ran: Option<Watched>,
    began: Instant,
}

impl Done {
    fn act(vcpu: &mut Vcpu, act: Act) -> Result<Self> {
        let (began, before) = (Instant::now(), SchedStat::now()?);
        let ran = match act {
            Act::Run => Some(Watched::run(vcpu)?),
            Act::Restore => {
                vcpu.restore()?;
                None
            }
            Act::Read => {
                vcpu.read_registers()?;
                None
            }
        };
        Ok(Self { before, after: SchedStat::now()?, ran, began })
    }
}

/// What happened to a vCPU before.
#[derive(Clone, Copy, Default)]
struct Past {
    /// Who ran it last, and when that began.
    ran: Option<(usize, Instant)>,
    /// Who restored it since.
    restored_by: Option<usize>,
}

impl Past {
    fn record(&mut self, step: Step, done: &Done, reported: Reports) -> Record {
        let charge = done.ran.map(|ran| Charge::of(&ran, self.ran.map_or(done.began, |(_, began)| began)));
        let ran_by_another = self.ran.is_some_and(|(runner, _)| runner != step.thread);
        let record = Record {
            step,
            run_delay_ns: (done.before.run_delay_ns, done.after.run_delay_ns),
            preemptions: done.after.preemptions - done.before.preemptions,
            charge,
            hand_off: step.act == Act::Run && ran_by_another,
            restored_by_another: match step.act {
                Act::Restore => ran_by_another,
                Act::Run => self.restored_by.is_some_and(|restorer| restorer != step.thread),
                Act::Read => false,
            },
            reported,
        };
        match step.act {
            Act::Run => *self = Self { ran: Some((step.thread, done.began)), restored_by: None },
            Act::Restore => self.restored_by = Some(step.thread),
            Act::Read => {}
        }
        record
    }
}

#[cfg(test)]
pub(super) mod testing {
    use std::time::Duration;

    use super::{Act, Record, Step};
    use crate::vmm::{
        StealArea,
        scenario::{Charge, Reports},
    };

    const START: u64 = 1_000_000;

    /// Of vCPU 0.
    pub(in super::super) fn did(thread: usize, act: Act, run_delay_ns: (u64, u64)) -> Record {
        Record {
            step: Step { thread, vcpu: 0, act },
            run_delay_ns,
            preemptions: 0,
            charge: None,
            hand_off: false,
            restored_by_another: false,
            reported: Reports::default(),
        }
    }

    /// A KVM_RUN that charged this, in 1 ms.
    pub(in super::super) fn ran(thread: usize, run_delay_ns: (u64, u64), growth_ns: i64) -> Record {
        let area = |steal_ns| StealArea { steal_ns, ..StealArea::default() };
        let charge = Charge {
            before: area(START),
            after: area(START.wrapping_add_signed(growth_ns)),
            passed: Duration::from_millis(1),
        };
        Record { charge: Some(charge), ..did(thread, Act::Run, run_delay_ns) }
    }
}
