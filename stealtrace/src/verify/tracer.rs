//! The second witness: the tracer, watching this very process, from edges.

use std::process;

use anyhow::Result;
use stealtrace_common::{ring::Entry, target::Volume};

use super::{Transcript, verdict::Testimony};
use crate::{
    backend::{BackendKind, EbpfBackend, Plan, Processes},
    detect::{Engine, foreign_steal_restore, steal_backwards, steal_over_charge, steal_underflow},
    kernel::KernelFacts,
    model::{Finding, RuleId, Severity},
    vmm::scenario::{Harm, Reports, Witness},
};

/// Enough for what a scenario does between two looks.
const RING_BYTES: u32 = 4 << 20;
/// Findings that say that KVM lowered the guest's counter.
const CORRUPTIONS: [RuleId; 2] = [steal_underflow::RULE.id, steal_backwards::RULE.id];

pub(crate) struct Tracer {
    backend: EbpfBackend,
    engine: Engine,
    told: Findings,
    /// What it saw, if anybody wants a picture of it.
    transcript: Option<Transcript>,
}

/// What its findings were, beyond their number.
#[derive(Default)]
struct Findings {
    /// Corruptions of which it is known that they reached the guest.
    corruptions: u64,
    /// Over-charges of a first run, and others.
    first_runs: u64,
    over_charges: u64,
}

impl Findings {
    fn learn(&mut self, finding: &Finding) {
        let over_charge = finding.rule == steal_over_charge::RULE.id && finding.severity == Severity::Warning;
        let first_run = over_charge && finding.cause == steal_over_charge::FIRST_RUN;
        self.corruptions += u64::from(is_corruption(finding) && !steal_underflow::is_unsure(finding));
        self.first_runs += u64::from(first_run);
        self.over_charges += u64::from(over_charge && !first_run);
    }
}

fn is_corruption(finding: &Finding) -> bool {
    finding.severity == Severity::Error && CORRUPTIONS.contains(&finding.rule)
}

impl Tracer {
    /// Watch this process, and keep what is seen for pictures if they are wanted.
    pub(crate) fn attach(wanted: Option<BackendKind>, pictures: bool) -> Result<Self> {
        let this = Processes::These(vec![process::id()]);
        let plan = Plan { wanted, ..Plan::of(this, Volume::Edges, RING_BYTES) };
        Ok(Self {
            backend: EbpfBackend::attach(&plan, &KernelFacts::gather(&[]))?,
            engine: Engine::default(),
            told: Findings::default(),
            transcript: pictures.then(Transcript::default),
        })
    }

    pub(crate) const fn kind(&self) -> BackendKind {
        self.backend.kind()
    }

    /// Forget what was; every scenario makes its own VMs.
    pub(crate) fn begin(&mut self) {
        self.drain();
        self.engine = Engine::default();
        self.told = Findings::default();
        self.transcript();
    }

    /// What it has to say of the scenario that just ended.
    pub(crate) fn testimony(&mut self) -> Testimony {
        self.drain();
        let last = self.engine.finish();
        last.iter().for_each(|finding| self.told.learn(finding));
        if let Some(transcript) = &mut self.transcript {
            transcript.conclude(&last);
        }
        let Findings { corruptions, first_runs, over_charges } = self.told;
        match self.corruptions() {
            _ if self.engine.saw_nothing() => Testimony::Blind,
            0 if over_charges > 0 => Testimony::Saw(Harm::OverCharged),
            0 if first_runs > 0 => Testimony::FirstRun,
            0 => Testimony::Saw(Harm::None),
            _ if corruptions > 0 => Testimony::Saw(Harm::Corrupt),
            _ => Testimony::Unsure,
        }
    }

    /// All that was seen since the last time this was asked.
    pub(crate) fn transcript(&mut self) -> Transcript {
        self.transcript.as_mut().map(std::mem::take).unwrap_or_default()
    }

    fn corruptions(&self) -> u64 {
        CORRUPTIONS.into_iter().map(|rule| self.engine.count(rule, Severity::Error)).sum()
    }

    pub(crate) fn lost(&self) -> Result<u64> {
        Ok(self.backend.losses()?.total())
    }

    fn drain(&mut self) {
        let Self { backend, engine, told, transcript } = self;
        let judge = |entry: &Entry| {
            if let Entry::Event(event) = entry {
                let ruling = engine.judge(event);
                ruling.told.iter().for_each(|finding| told.learn(finding));
                if let Some(transcript) = transcript {
                    transcript.note(event, ruling.vcpu, &ruling.told);
                }
            }
            true
        };
        backend.drain(usize::MAX, judge);
    }
}

impl Witness for Tracer {
    fn reports(&mut self) -> Result<Reports> {
        self.drain();
        Ok(Reports {
            corruptions: self.corruptions(),
            foreign_restores: self.engine.count(foreign_steal_restore::RULE.id, Severity::Error),
        })
    }
}
