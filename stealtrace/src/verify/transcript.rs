//! What the second witness saw of an attempt, in the order in which it happened: for a picture of it.

use stealtrace_common::event::Event;

use crate::model::{Finding, VcpuName};

/// More than a scenario has, but for those of many rounds, of which a picture shows the first.
const MOST: usize = 400;

/// Events as the engine named them, and what it found in each.
#[derive(Clone, Debug, Default)]
pub(crate) struct Transcript {
    pub(crate) moments: Vec<Moment>,
    /// Further events.
    pub(crate) left_out: u64,
}

/// One event.
#[derive(Clone, Debug)]
pub(crate) struct Moment {
    pub(crate) event: Event,
    pub(crate) vcpu: VcpuName,
    pub(crate) findings: Vec<Finding>,
}

impl Transcript {
    /// One more, if there is room.
    pub(crate) fn note(&mut self, event: &Event, vcpu: VcpuName, findings: &[Finding]) {
        if self.moments.len() < MOST {
            self.moments.push(Moment { event: *event, vcpu, findings: findings.to_vec() });
        } else {
            self.left_out += 1;
        }
    }

    /// What the engine found at the end.
    pub(crate) fn conclude(&mut self, findings: &[Finding]) {
        if let Some(last) = self.moments.last_mut().filter(|_| self.left_out == 0) {
            last.findings.extend_from_slice(findings);
        }
    }
}
