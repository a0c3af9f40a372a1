//! Scenarios: each does something a VMM or guest may do and checks one property of the guest's steal time.
//! They judge by behaviour alone; no kernel version, no symbol.

#[cfg_attr(target_arch = "aarch64", path = "arm64/mod.rs")]
#[cfg_attr(target_arch = "x86_64", path = "x86/mod.rs")]
mod of_source;

mod area_unbacked;
mod charge;
mod class;
mod configure_then_start;
mod first_run_charge;
mod foreign_ioctls_between_runs;
mod guest_enables;
mod guest_zeroes_after_restore;
mod housekeeping_from_main;
mod memory_rewound;
mod memslot_replaced;
mod pinned_overcommit;
mod random_hand_offs;
mod refused;
mod replug;
mod restore_by_main_thread;
mod restore_by_runner;
mod restore_new_vm;
mod restore_two_vcpus;
mod run_hand_off_down;
mod run_hand_off_ping_pong;
mod run_hand_off_up;
mod same_thread;
mod vcpu_pool;

use std::{fmt, time::Duration};

use anyhow::Result;

use self::charge::{Charge, Growth, show};
pub use self::class::{Class, Decides, Expects};

/// One scenario.
pub struct Scenario {
    /// Its id.
    pub id: &'static str,
    /// What it does, in order.
    pub about: &'static str,
    /// What must hold for the guest.
    pub property: &'static str,
    /// What kernels of each class do to it.
    pub expects: Expects,
    /// What its result says about a kernel, if anything.
    pub decides: Option<Decides>,
    /// Do it once, on the calling thread and threads of its own.
    pub play: fn(&mut Play<'_>) -> Result<Observation>,
}

/// Every scenario of this source, in the order in which they are played.
pub fn scenarios() -> impl Iterator<Item = &'static Scenario> + Clone {
    EVERYWHERE.iter().chain(of_source::OF_SOURCE)
}

/// Those of other sources, and why they are not among these.
pub const ABSENT: &[(&str, &str)] = of_source::ABSENT;

/// Those of every source. To add one: write its file, add its line.
const EVERYWHERE: &[Scenario] = &[
    same_thread::SCENARIO,
    restore_by_main_thread::SCENARIO,
    restore_two_vcpus::SCENARIO,
    restore_by_runner::SCENARIO,
    restore_new_vm::SCENARIO,
    configure_then_start::SCENARIO,
    run_hand_off_down::SCENARIO,
    run_hand_off_up::SCENARIO,
    run_hand_off_ping_pong::SCENARIO,
    replug::SCENARIO,
    vcpu_pool::SCENARIO,
    guest_enables::SCENARIO,
    guest_zeroes_after_restore::SCENARIO,
    memslot_replaced::SCENARIO,
    memory_rewound::SCENARIO,
    area_unbacked::SCENARIO,
    foreign_ioctls_between_runs::SCENARIO,
    housekeeping_from_main::SCENARIO,
    first_run_charge::SCENARIO,
    pinned_overcommit::SCENARIO,
    random_hand_offs::SCENARIO,
];

/// What a scenario may use.
pub struct Play<'a> {
    /// Where random numbers start.
    pub seed: u64,
    /// Random hand-offs to make.
    pub rounds: u32,
    /// Who watches besides.
    pub witness: Option<&'a mut dyn Witness>,
}

/// A second witness: counts what it reports while a scenario plays.
pub trait Witness {
    /// Reports so far.
    ///
    /// # Errors
    /// When it can no longer see.
    fn reports(&mut self) -> Result<Reports>;
}

/// Findings at severity error, counted since the scenario began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reports {
    /// That the guest's counter was lowered.
    pub corruptions: u64,
    /// That the kernel copied a foreign thread's run_delay.
    pub foreign_restores: u64,
}

/// What was done to a guest's steal time, from harmless to worst.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Harm {
    /// Nothing.
    #[default]
    None,
    /// It was charged less than its thread waited.
    UnderCharged,
    /// It was charged more than the time that passed.
    OverCharged,
    /// Its counter went backwards or wrapped below zero.
    Corrupt,
    /// Another property does not hold; steal itself may be right.
    Broken,
}

impl fmt::Display for Harm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::None => "sound",
            Self::UnderCharged => "under-charged",
            Self::OverCharged => "over-charged",
            Self::Corrupt => "corrupt",
            Self::Broken => "broken",
        })
    }
}

/// What is wrong, in kind and in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// How bad.
    pub harm: Harm,
    /// What.
    pub what: String,
}

impl Fault {
    fn broken(what: impl Into<String>) -> Self {
        Self { harm: Harm::Broken, what: what.into() }
    }
}

/// What one attempt at a scenario showed.
#[derive(Clone, Debug, Default)]
pub struct Observation {
    /// What the guest saw, in words and numbers.
    pub saw: String,
    /// What is wrong with it; None if nothing.
    pub fault: Option<Fault>,
    /// What was done to steal on the way that this property does not judge; the other witness sees it too.
    pub aside: Harm,
    /// Would a fault have shown? On kernels with the bug of 2015 a runner that is rescheduled on its way into
    /// the guest overwrites the bad delta, and the guest is spared.
    pub conclusive: bool,
    /// Why it could not be played on this host.
    pub skipped: Option<String>,
    /// How the two witnesses compare, round by round.
    pub tally: Option<Tally>,
}

/// How the second witness's reports compare with what the VMM saw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Hand-offs made.
    pub rounds: u64,
    /// Corruptions the VMM saw.
    pub seen: u64,
    /// Of these, not reported.
    pub missed: u64,
    /// Reported at severity error, but not seen.
    pub false_reports: u64,
    /// Rounds in which the runner was rescheduled: several updates in one KVM_RUN, of which the VMM sees the sum;
    /// left out of `false_reports`.
    pub disturbed: u64,
}

impl Observation {
    fn new(saw: String, fault: Option<Fault>, conclusive: bool) -> Self {
        Self { saw, fault, conclusive, ..Self::default() }
    }

    /// The stage was not set: to be tried again.
    fn unprepared() -> Self {
        Self { saw: "threads that have waited alike".to_owned(), ..Self::default() }
    }

    #[cfg(target_arch = "x86_64")]
    fn skipped(why: &str) -> Self {
        Self { skipped: Some(why.to_owned()), ..Self::default() }
    }

    /// How bad it is.
    #[must_use]
    pub fn harm(&self) -> Harm {
        self.fault.as_ref().map_or(Harm::None, |fault| fault.harm)
    }

    /// Everything that was done to steal, judged or not; None where steal is not what is wrong. What a guest is not
    /// charged the other witness does not report.
    #[must_use]
    pub fn harm_to_steal(&self) -> Option<Harm> {
        match self.harm() {
            Harm::Broken => None,
            Harm::UnderCharged => Some(self.aside),
            harm => Some(harm.max(self.aside)),
        }
    }
}

impl Scenario {
    /// The scenario with this id.
    #[must_use]
    pub fn find(id: &str) -> Option<&'static Self> {
        scenarios().find(|scenario| scenario.id == id)
    }
}

/// How long a thread with a past has waited for a CPU; far more than a fresh one.
const PAST: Duration = Duration::from_millis(300);

/// Has one thread waited so much longer than the other that taking one for the other would show?
fn apart(more_ns: u64, less_ns: u64) -> bool {
    u128::from(more_ns.saturating_sub(less_ns)) > PAST.as_nanos() / 2
}

/// The worse of two faults.
fn worse(one: Option<Fault>, other: Option<Fault>) -> Option<Fault> {
    match (&one, &other) {
        (Some(first), Some(second)) if second.harm > first.harm => other,
        (None, _) => other,
        _ => one,
    }
}

#[cfg(test)]
mod tests {
    use super::{ABSENT, Fault, Harm, Observation, scenarios, worse};

    #[test]
    fn ids_are_unique() {
        let absent = ABSENT.iter().map(|(id, _)| *id);
        let mut ids: Vec<_> = scenarios().map(|scenario| scenario.id).chain(absent).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), scenarios().count() + ABSENT.len());
    }

    #[test]
    fn the_worse_fault_counts() {
        let fault = |harm| Some(Fault { harm, what: String::new() });
        assert_eq!(worse(None, fault(Harm::Corrupt)), fault(Harm::Corrupt));
        assert_eq!(worse(fault(Harm::Corrupt), fault(Harm::OverCharged)), fault(Harm::Corrupt));
        assert_eq!(worse(fault(Harm::OverCharged), fault(Harm::Broken)), fault(Harm::Broken));
    }

    #[test]
    fn what_a_property_leaves_aside_is_still_harm_to_steal() {
        let masked = Observation { aside: Harm::Corrupt, ..Observation::default() };
        assert_eq!((masked.harm(), masked.harm_to_steal()), (Harm::None, Some(Harm::Corrupt)));
        let broken = Observation { fault: Some(Fault::broken("x")), ..Observation::default() };
        assert_eq!(broken.harm_to_steal(), None);
        let lost = Observation {
            fault: Some(Fault { harm: Harm::UnderCharged, what: String::new() }),
            ..Observation::default()
        };
        assert_eq!((lost.harm(), lost.harm_to_steal()), (Harm::UnderCharged, Some(Harm::None)));
    }
}
