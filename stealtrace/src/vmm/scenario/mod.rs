//! Scenarios: each does something a VMM may do and checks one property of the guest's steal time.
//! They judge by behaviour alone; no kernel version, no symbol.

mod configure_then_start;
mod housekeeping_from_main;
mod memory_rewound;
mod replug;
mod restore_by_main_thread;
mod run_hand_off;
mod same_thread;
mod vcpu_pool;

use std::fmt;

use anyhow::Result;
use clap::ValueEnum;

use super::{StageThread, StealArea, Vcpu, outwait_past, run_watched};

/// One scenario.
pub struct Scenario {
    /// Its id.
    pub id: &'static str,
    /// What it does and checks.
    pub about: &'static str,
    /// What its result says about a kernel.
    pub decides: Decides,
    /// Do it once, on the calling thread and threads of its own.
    pub run: fn() -> Result<Observation>,
}

/// Every scenario. To add one: write its file, add its line.
pub const SCENARIOS: &[Scenario] = &[
    same_thread::SCENARIO,
    restore_by_main_thread::SCENARIO,
    configure_then_start::SCENARIO,
    housekeeping_from_main::SCENARIO,
    run_hand_off::SCENARIO,
    replug::SCENARIO,
    vcpu_pool::SCENARIO,
    memory_rewound::SCENARIO,
];

/// A runner that is rescheduled every time is not alone on its CPU.
const MOST_ATTEMPTS: u32 = 20;

/// What a scenario's result says about a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decides {
    /// Nothing: every kernel must pass.
    Control,
    /// Whether a restore from another thread is sound.
    Restore,
    /// Whether a KVM_RUN hand-off is sound.
    HandOff,
}

/// What the guest saw, and whether that is right.
#[derive(Clone, Debug)]
pub struct Observation {
    /// What the guest saw, in words and numbers.
    pub saw: String,
    /// What is wrong with it; None if nothing.
    pub fault: Option<String>,
    /// Would a fault have shown? On kernels with the bug of 2015 a runner that is rescheduled on its way into
    /// the guest overwrites the bad delta, and the guest is spared.
    pub conclusive: bool,
}

/// What a kernel's steal accounting can be trusted with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Class {
    /// A restore from another thread corrupts (the bug of 2015)
    Affected,
    /// A restore is sound, a KVM_RUN hand-off corrupts (Linux since 4.4)
    Fixed,
    /// Neither corrupts
    Sound,
}

impl Class {
    /// May a kernel of this class corrupt steal here? None: it may or may not.
    #[must_use]
    pub const fn expects_fault(self, decides: Decides) -> Option<bool> {
        match (self, decides) {
            (_, Decides::Control) => Some(false),
            (Self::Affected, Decides::Restore) => Some(true),
            (Self::Affected | Self::Fixed, Decides::HandOff) => None, // better than expected passes
            (Self::Fixed | Self::Sound, Decides::Restore) | (Self::Sound, Decides::HandOff) => Some(false),
        }
    }

    /// In one sentence.
    #[must_use]
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::Affected => {
                "affected: restoring the steal MSR from another thread corrupts the guest's steal time"
            }
            Self::Fixed => "fixed: restore is sound, but a KVM_RUN hand-off to another thread corrupts",
            Self::Sound => "sound: neither restore nor a KVM_RUN hand-off corrupts",
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Affected => "affected",
            Self::Fixed => "fixed",
            Self::Sound => "sound",
        })
    }
}

/// The scenario's final result.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// Whose.
    pub scenario: &'static str,
    /// What it decides.
    pub decides: Decides,
    /// The last attempt's observation.
    pub observation: Observation,
    /// Attempts made.
    pub attempts: u32,
}

impl Scenario {
    /// The scenario with this id.
    #[must_use]
    pub fn find(id: &str) -> Option<&'static Self> {
        SCENARIOS.iter().find(|scenario| scenario.id == id)
    }

    /// Run it until it is conclusive or the attempts are used up.
    ///
    /// # Errors
    /// When the scenario cannot be played on this host.
    pub fn verdict(&self) -> Result<Verdict> {
        let mut attempts = 1;
        let mut observation = (self.run)()?;
        while observation.fault.is_none() && !observation.conclusive && attempts < MOST_ATTEMPTS {
            observation = (self.run)()?;
            attempts += 1;
        }
        Ok(Verdict { scenario: self.id, decides: self.decides, observation, attempts })
    }
}

impl Verdict {
    /// Does it prove anything?
    #[must_use]
    pub const fn is_conclusive(&self) -> bool {
        self.observation.fault.is_some() || self.observation.conclusive
    }

    /// Is this what a kernel of that class does?
    #[must_use]
    pub fn as_expected(&self, class: Class) -> bool {
        class.expects_fault(self.decides).is_none_or(|fault| fault == self.observation.fault.is_some())
    }
}

/// The kernel's class, if these verdicts decide it.
#[must_use]
pub fn classify(verdicts: &[Verdict]) -> Option<Class> {
    let faulty = |decides: Decides| {
        let mut deciding = verdicts.iter().filter(move |verdict| verdict.decides == decides).peekable();
        deciding.peek()?;
        if !deciding.clone().all(Verdict::is_conclusive) {
            return None;
        }
        Some(deciding.any(|verdict| verdict.observation.fault.is_some()))
    };
    match (faulty(Decides::Control), faulty(Decides::Restore)?, faulty(Decides::HandOff)?) {
        (Some(true), _, _) => None, // not even one thread alone is accounted for
        (_, true, _) => Some(Class::Affected),
        (_, false, true) => Some(Class::Fixed),
        (_, false, false) => Some(Class::Sound),
    }
}

/// Run a vCPU for the first time on this thread: the guest must see no more than the thread's own waiting.
fn at_most_the_runners(runner: &StageThread, vcpu: Vcpu) -> Result<Observation> {
    let (vcpu, ran) = runner.act(move || {
        outwait_past()?;
        run_watched(vcpu)
    })?;
    let area = vcpu.steal_area();
    let most_ns = ran.after.run_delay_ns;
    let fault = (area.steal_ns > most_ns).then(|| format!("more than the runner's run_delay, {most_ns} ns"));
    Ok(Observation { saw: show(area), fault, conclusive: ran.undisturbed() })
}

/// A counter in decimal, and in hexadecimal and as a negative number where it has wrapped.
fn show(area: StealArea) -> String {
    let steal = area.steal_ns;
    let signed = steal.cast_signed();
    if signed < 0 { format!("{steal:#x} ({signed} ns)") } else { format!("{steal} ns") }
}

#[cfg(test)]
mod tests {
    use super::{Class, Decides, Observation, Verdict, classify};

    fn verdict(decides: Decides, faulty: bool) -> Verdict {
        let fault = faulty.then(|| "wrong".to_owned());
        Verdict {
            scenario: "x",
            decides,
            observation: Observation { saw: String::new(), fault, conclusive: true },
            attempts: 1,
        }
    }

    fn all(restore: bool, hand_off: bool) -> [Verdict; 3] {
        [
            verdict(Decides::Control, false),
            verdict(Decides::Restore, restore),
            verdict(Decides::HandOff, hand_off),
        ]
    }

    #[test]
    fn classes_follow_from_behaviour() {
        assert_eq!(classify(&all(true, true)), Some(Class::Affected));
        assert_eq!(classify(&all(true, false)), Some(Class::Affected));
        assert_eq!(classify(&all(false, true)), Some(Class::Fixed));
        assert_eq!(classify(&all(false, false)), Some(Class::Sound));
    }

    #[test]
    fn too_little_was_run_or_the_control_failed_is_no_class() {
        assert_eq!(classify(&[verdict(Decides::Restore, false)]), None);
        assert_eq!(classify(&[]), None);
        let mut disturbed = all(false, false);
        disturbed[1].observation.conclusive = false;
        assert_eq!(classify(&disturbed), None);
        let mut broken = all(false, true);
        broken[0] = verdict(Decides::Control, true);
        assert_eq!(classify(&broken), None);
    }

    #[test]
    fn better_than_fixed_passes_for_fixed_but_the_bug_does_not() {
        assert!(all(false, false).iter().all(|verdict| verdict.as_expected(Class::Fixed)));
        assert!(all(false, true).iter().all(|verdict| verdict.as_expected(Class::Fixed)));
        assert!(!all(true, true).iter().all(|verdict| verdict.as_expected(Class::Fixed)));
        assert!(!all(false, true).iter().all(|verdict| verdict.as_expected(Class::Sound)));
        assert!(!all(false, true).iter().all(|verdict| verdict.as_expected(Class::Affected)));
        assert!(all(true, true).iter().all(|verdict| verdict.as_expected(Class::Affected)));
    }
}
