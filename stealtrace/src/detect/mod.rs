//! The rules, and the engine that runs them over events. Pure: no clock, no I/O, no async.

mod cross_thread_ioctl;
mod engine;
mod foreign_steal_restore;
mod runner_hand_off;
mod steal_backwards;
mod steal_underflow;
#[cfg(test)]
mod testing;

pub use engine::{Engine, Judgement};

use stealtrace_common::event::{Event, EventKind};

use crate::model::{Finding, Vcpu};

/// An event and what was known of its vCPU before it.
#[derive(Clone, Copy)]
pub struct Case<'a> {
    /// What was known before.
    pub vcpu: &'a Vcpu,
    /// What happened.
    pub event: &'a Event,
    /// Its kind, decoded.
    pub kind: EventKind,
}

/// One rule: a pure function of an event and what was known before it.
pub struct Rule {
    /// Its id, as findings carry it.
    pub id: &'static str,
    /// The finding, if the event is one.
    pub judge: fn(Case<'_>) -> Option<Finding>,
    /// The finding about a vCPU that no further event will settle, for rules that wait.
    pub at_end: Option<fn(&Vcpu) -> Option<Finding>>,
}

/// Every rule. To add one: write its file, add its line.
pub const RULES: &[Rule] = &[
    cross_thread_ioctl::RULE,
    foreign_steal_restore::RULE,
    runner_hand_off::RULE,
    steal_underflow::RULE,
    steal_backwards::RULE,
];
