//! Summary: what a whole run saw, found and missed.

use std::collections::BTreeMap;

use super::{RuleId, Severity, Thread, VcpuName};

/// What one probe did, all CPUs together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeLoss {
    /// What it is attached to.
    pub probe: String,
    /// Times it ran.
    pub hits: u64,
    /// Events it reported.
    pub emitted: u64,
    /// Facts it lost.
    pub lost: u64,
    /// Losses by CPU, where there were any.
    pub lost_by_cpu: Vec<(usize, u64)>,
}

/// What was lost, by probe.
pub type Lost = std::collections::BTreeMap<&'static str, u64>;

/// What was missed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Losses {
    /// Per probe.
    pub probes: Vec<ProbeLoss>,
    /// Events that reached us but could not be read.
    pub undecodable: u64,
}

impl Losses {
    /// Everything that was missed.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.undecodable + self.probes.iter().map(|probe| probe.lost).sum::<u64>()
    }
}

/// What was seen of one vCPU.
#[derive(Clone, Debug)]
pub struct VcpuSummary {
    /// How it is shown.
    pub name: VcpuName,
    /// Thread that made it.
    pub creator: Option<Thread>,
    /// Last thread to run it.
    pub runner: Option<Thread>,
    /// ioctls by thread.
    pub ioctls: BTreeMap<Thread, u64>,
    /// Steal updates.
    pub updates: u64,
    /// Findings, repetitions included.
    pub findings: u64,
}

/// What a whole run saw, found and missed.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// How long it took.
    pub duration_ns: u64,
    /// Where the events came from: a backend, a recording of one, a log.
    pub source: String,
    /// Were only those events reported that can change a judgement?
    pub edges: bool,
    /// Events judged.
    pub events: u64,
    /// In order of appearance.
    pub vcpus: Vec<VcpuSummary>,
    /// vCPUs that ended too long ago to be among them.
    pub unlisted: u64,
    /// Findings by rule and severity, repetitions included.
    pub findings: BTreeMap<(RuleId, Severity), u64>,
    /// What was missed.
    pub losses: Losses,
    /// Why the run proves nothing although nothing was lost, if so.
    pub unproved: Option<String>,
}

impl Summary {
    /// The worst severity found.
    #[must_use]
    pub fn worst(&self) -> Option<Severity> {
        self.findings.keys().map(|(_, severity)| *severity).max()
    }

    /// Why the absence of findings proves nothing, if so.
    #[must_use]
    pub fn inconclusive(&self) -> Option<String> {
        let lost = self.losses.total();
        if lost > 0 {
            return Some(format!("{lost} events were lost"));
        }
        self.unproved.clone()
    }
}
