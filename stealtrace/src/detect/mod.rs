//! The rules, and the engine that runs them over events. Pure: no clock, no I/O, no async.

/// Advice that ends with what of QEMU's hides a source from its guests, in brackets.
macro_rules! hiding {
    ($source:expr, $advice:literal) => {
        match $source {
            Source::X86Msr => concat!($advice, "QEMU: -cpu ...,-kvm-steal-time)"),
            Source::Arm64Pvtime => concat!($advice, "QEMU: -cpu host,kvm-steal-time=off)"),
            Source::XenRunstate => {
                concat!($advice, "of a guest of Xen only with all of Xen: QEMU's xen-version)")
            }
        }
    };
}

pub(crate) mod cross_thread_ioctl;
mod engine;
pub(crate) mod foreign_steal_restore;
pub(crate) mod runner_hand_off;
pub(crate) mod steal_backwards;
pub(crate) mod steal_over_charge;
pub(crate) mod steal_poisoned;
pub(crate) mod steal_rewound;
pub(crate) mod steal_underflow;
#[cfg(test)]
mod testing;

pub use engine::{Engine, Ruling};
pub(crate) use steal_underflow::logged;

use stealtrace_common::{
    event::{Event, EventKind},
    source::Source,
};

use crate::model::{Finding, RuleId, Thread, Threads, Vcpu};

/// An event and what was known before it.
#[derive(Clone, Copy)]
pub struct Case<'a> {
    /// What was known of its vCPU.
    pub vcpu: &'a Vcpu,
    /// Names of threads.
    pub threads: &'a Threads,
    /// What happened.
    pub event: &'a Event,
}

impl Case<'_> {
    /// The thread whose run_delay was in last_steal.
    #[must_use]
    pub fn last_steal_of(&self) -> Option<Thread> {
        self.threads.find(self.event.last_steal_tid)
    }
}

/// What is known of a vCPU when something that waited may be decided.
#[derive(Clone, Copy)]
pub struct Open<'a> {
    /// The vCPU as it was before the next event.
    pub vcpu: &'a Vcpu,
    /// Threads by id.
    pub threads: &'a Threads,
    /// The next event; None if nothing follows.
    pub next: Option<&'a Event>,
}

impl Open<'_> {
    /// Does nothing follow that could decide more?
    fn is_over(&self) -> bool {
        self.next.is_none_or(|next| next.kind == EventKind::Destroyed)
    }
}

/// One rule: a pure function of an event and what was known before it.
pub struct Rule {
    /// Its id, as findings carry it.
    pub id: RuleId,
    /// The finding, if the event is one.
    pub judge: fn(Case<'_>) -> Option<Finding>,
    /// The findings about earlier events that waited for more, for rules that wait.
    pub settle: Option<fn(Open<'_>) -> Vec<Finding>>,
    /// For people.
    pub explanation: Explanation,
}

/// What `stealtrace rules` says of a rule.
#[derive(Clone, Copy, Debug)]
pub struct Explanation {
    /// What it finds.
    pub what: &'static str,
    /// Why that matters: what it does to a guest.
    pub why: &'static str,
    /// What must be seen for it, and how sure it then is.
    pub evidence: &'static str,
    /// What to do; goes with every finding.
    pub advice: &'static str,
    /// Kernel commits and reports.
    pub references: &'static [&'static str],
}

/// Every rule. To add one: write its file, add its line.
pub const RULES: &[Rule] = &[
    cross_thread_ioctl::RULE,
    foreign_steal_restore::RULE,
    runner_hand_off::RULE,
    steal_underflow::RULE,
    steal_backwards::RULE,
    steal_rewound::RULE,
    steal_over_charge::RULE,
    steal_poisoned::RULE,
];

/// The rule with this id.
#[must_use]
pub fn rule(id: &str) -> Option<&'static Rule> {
    RULES.iter().find(|rule| rule.id.as_str() == id)
}

/// The bug report.
const REPORT: &str = "Launchpad 1494350, Debian 785557: the report of 2015";
/// Linux 4.4's fix.
const FIX: &str = "7cae2bedcbd4 (Linux 4.4): KVM: x86: move steal time initialization to vcpu entry time";
/// What subtracts: on x86 since Linux 4.6's rework.
const SUBTRACTS: &str = match Source::HERE {
    Source::X86Msr | Source::XenRunstate => {
        "c54cdf141c40 (Linux 4.6): record_steal_time, at guest entry, does the subtraction"
    }
    Source::Arm64Pvtime => {
        "arch/arm64/kvm/pvtime.c: kvm_update_stolen_time, at guest entry, does the subtraction"
    }
};
/// What subtracts for guests of Xen, and copies.
const XEN: &str = "30b5c851af79 (Linux 5.12): kvm_xen_update_runstate does the same for guests of Xen, and setting the runstate \
                   copies the caller's run_delay";
/// As read, not run.
const LOONGARCH: &str = "arch/loongarch/kvm/vcpu.c, kvm_loongarch_pvtime_set_attr: `last_steal = current->sched_info.run_delay`, \
                         the shape of 2015 (read, not run here)";
/// The API's rule.
const API: &str =
    "Documentation/virt/kvm/api.rst: vCPU ioctls should come from the thread that created the vCPU";
