//! The second witness: the tracer, watching this very process, from edges.

use std::process;

use anyhow::Result;
use stealtrace_common::target::Volume;

use crate::{
    backend::{self, BackendKind, EbpfBackend, Plan, Processes},
    detect::{Engine, steal_underflow},
    kernel::KernelFacts,
    model::Severity,
    vmm::scenario::{Harm, Reports, Witness},
};

/// Enough for what a scenario does between two looks.
const RING_BYTES: u32 = 4 << 20;
/// Findings that say that KVM lowered the guest's counter.
const CORRUPTIONS: [&str; 2] = ["steal-underflow", "steal-backwards"];

pub(super) struct Tracer {
    kind: BackendKind,
    backend: EbpfBackend,
    engine: Engine,
    /// Corruptions of which it is not known whether they reached the guest.
    unsure: u64,
}

impl Tracer {
    /// Watch this process.
    pub(super) fn attach(wanted: Option<BackendKind>) -> Result<Self> {
        let facts = KernelFacts::gather(&[]);
        facts.require_traceable()?;
        let kind = backend::choose(wanted, &facts)?;
        let this = Processes::These(vec![process::id()]);
        let plan = Plan::of(kind, this, Volume::Edges, RING_BYTES);
        Ok(Self { kind, backend: EbpfBackend::attach(&plan, &facts)?, engine: Engine::default(), unsure: 0 })
    }

    pub(super) const fn kind(&self) -> BackendKind {
        self.kind
    }

    /// Forget what was; every scenario makes its own VMs.
    pub(super) fn begin(&mut self) {
        self.drain();
        self.engine = Engine::default();
        self.unsure = 0;
    }

    /// The worst it has to say of the scenario that just ended, if it can say.
    pub(super) fn harm(&mut self) -> Option<Harm> {
        self.drain();
        self.engine.finish();
        match self.corruptions() {
            0 if self.engine.count("steal-over-charge", Severity::Warning) > 0 => Some(Harm::OverCharged),
            0 => Some(Harm::None),
            corruptions => (corruptions > self.unsure).then_some(Harm::Corrupt),
        }
    }

    fn corruptions(&self) -> u64 {
        CORRUPTIONS.iter().map(|rule| self.engine.count(rule, Severity::Error)).sum()
    }

    pub(super) fn lost(&self) -> Result<u64> {
        Ok(self.backend.losses()?.total())
    }

    fn drain(&mut self) {
        let Self { backend, engine, unsure, .. } = self;
        let judge = |event: &_| {
            let found = engine.judge(event).told;
            *unsure += found.iter().filter(|finding| steal_underflow::is_unsure(finding)).count() as u64;
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
            foreign_restores: self.engine.count("foreign-steal-restore", Severity::Error),
        })
    }
}
