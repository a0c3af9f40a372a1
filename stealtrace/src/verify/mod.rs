//! What scenarios that were played say of the running kernel: verdicts, its class, and whether two witnesses agree.

mod tracer;
mod transcript;
mod verdict;

pub(crate) use tracer::Tracer;
pub(crate) use transcript::Transcript;
pub(crate) use verdict::Attempt;
pub use verdict::{Agreement, Expectation, Status, Verdict};

use std::fmt;

use crate::{
    backend::BackendKind,
    exit::Exit,
    vmm::scenario::{Class, Decides, Harm, Scenario, scenarios},
};

/// Why there is no second witness.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoWitness {
    /// None was wanted.
    Declined,
    /// It cannot see here, for this reason.
    Missing(String),
}

impl fmt::Display for NoWitness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Declined => "--no-trace",
            Self::Missing(why) => why,
        })
    }
}

/// Everything that was played.
#[derive(Debug)]
pub struct Verified {
    /// What was expected.
    pub expectation: Expectation,
    /// Where random numbers started.
    pub seed: u64,
    /// The second witness, or why there was none.
    pub witness: Result<BackendKind, NoWitness>,
    /// Events that the second witness lost.
    pub lost: u64,
    /// In the order in which they were played.
    pub verdicts: Vec<Verdict>,
    /// Those that a signal, or a reader that left, kept from being played.
    pub not_played: Vec<&'static Scenario>,
}

impl Verified {
    /// The kernel's class, if what was played decides it.
    #[must_use]
    pub fn class(&self) -> Option<Class> {
        let harm = |decides: Decides| -> Option<Harm> {
            let deciding =
                || self.verdicts.iter().filter(|verdict| verdict.scenario.decides == Some(decides));
            let proved = deciding().all(Verdict::proves_something);
            deciding().map(|verdict| verdict.observation.harm()).max().filter(|_| proved)
        };
        Class::of(harm(Decides::Alone)?, harm(Decides::Restore)?, harm(Decides::HandOff)?)
    }

    /// Was enough played for a class?
    fn decides(&self) -> bool {
        [Decides::Alone, Decides::Restore, Decides::HandOff]
            .iter()
            .all(|decides| self.verdicts.iter().any(|verdict| verdict.scenario.decides == Some(*decides)))
    }

    /// A verdict's meaning under what was expected.
    #[must_use]
    pub fn status(&self, verdict: &Verdict) -> Status {
        verdict.status(self.expectation)
    }

    /// How many verdicts have this status.
    #[must_use]
    pub fn count(&self, status: Status) -> usize {
        self.verdicts.iter().filter(|verdict| self.status(verdict) == status).count()
    }

    /// Why this proves nothing although nothing failed, if so.
    #[must_use]
    pub fn inconclusive(&self) -> Option<String> {
        if !self.not_played.is_empty() {
            let all = self.verdicts.len() + self.not_played.len();
            return Some(format!(
                "interrupted: {} of {all} scenarios were not played",
                self.not_played.len()
            ));
        }
        if let Err(NoWitness::Missing(why)) = &self.witness {
            return Some(format!("no second witness: {why}; with --no-trace the VMM alone decides"));
        }
        if self.lost > 0 {
            return Some(format!("the second witness lost {} events", self.lost));
        }
        if let Some(unseen) = self.verdicts.iter().find(|verdict| verdict.agreement == Agreement::Blind) {
            return Some(format!("the second witness saw no vCPU in {}", unseen.scenario.id));
        }
        if self.verdicts.iter().all(|verdict| verdict.observation.skipped.is_some()) {
            return Some("nothing could be played".to_owned());
        }
        let unproved = self.verdicts.iter().find(|verdict| match self.status(verdict) {
            Status::Inconclusive => true,
            Status::Skipped => verdict.scenario.decides.is_some(),
            Status::Passed | Status::Failed => false,
        });
        let Some(unproved) = unproved else {
            return self.unconfirmed();
        };
        Some(match &unproved.observation.skipped {
            Some(_) => format!("{} could not be played, and the class depends on it", unproved.scenario.id),
            None => format!(
                "{} was disturbed by other work in each of {} attempts; run on an idle host",
                unproved.scenario.id, unproved.attempts
            ),
        })
    }

    /// Why the verdicts, all as expected, do not say what the kernel is.
    fn unconfirmed(&self) -> Option<String> {
        let Expectation { class, asked, .. } = self.expectation;
        if self.class().is_none() && self.decides() {
            return Some("what was seen fits no class".to_owned());
        }
        let missing = |decides: &&Decides| !self.verdicts.iter().any(|verdict| verdict.settles(**decides));
        let missing = class.needs().iter().find(missing).filter(|_| asked)?;
        let deciding = scenarios().find(|scenario| scenario.decides == Some(*missing))?;
        Some(format!(
            "nothing that was played tells whether this kernel is {class}; play {} too",
            deciding.id
        ))
    }

    /// What a script should know.
    #[must_use]
    pub fn exit(&self) -> Exit {
        if self.count(Status::Failed) > 0 {
            Exit::Found
        } else if self.inconclusive().is_some() {
            Exit::Inconclusive
        } else {
            Exit::Clean
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Agreement, Expectation, NoWitness, Status, Transcript, Verdict, Verified};
    use crate::{
        exit::Exit,
        vmm::scenario::{Class, Fault, Harm, Observation, Scenario},
    };

    const ALONE: &str = "same-thread";
    const RESTORE: &str = "restore-by-main-thread";
    const HAND_OFF: &str = "replug";

    pub(super) fn verdict(id: &str, harm: Harm) -> Verdict {
        let fault = (harm != Harm::None).then(|| Fault { harm, what: "wrong".to_owned() });
        Verdict {
            scenario: Scenario::find(id).unwrap(),
            observation: Observation { fault, conclusive: true, ..Observation::default() },
            attempts: 1,
            played: 1,
            harmful: 0,
            agreement: Agreement::Agree,
            transcript: Transcript::default(),
            took: std::time::Duration::ZERO,
        }
    }

    fn verified(expect: Class, strict: bool, verdicts: Vec<Verdict>) -> Verified {
        Verified {
            expectation: Expectation { class: expect, asked: true, strict },
            seed: 1,
            witness: Err(NoWitness::Declined),
            lost: 0,
            verdicts,
            not_played: Vec::new(),
        }
    }

    fn kernel(expect: Class, restore: Harm, hand_off: Harm) -> Verified {
        let all = [(ALONE, Harm::None), (RESTORE, restore), (HAND_OFF, hand_off)];
        verified(expect, false, all.map(|(id, harm)| verdict(id, harm)).into())
    }

    const FIXED: (Harm, Harm) = (Harm::None, Harm::Corrupt);
    const AFFECTED: (Harm, Harm) = (Harm::Corrupt, Harm::Corrupt);
    const SOUND: (Harm, Harm) = (Harm::None, Harm::None);

    #[test]
    fn a_kernel_passes_for_what_it_is_and_for_fixed_if_it_is_sound() {
        for (expect, (restore, hand_off), exit) in [
            (Class::Fixed, FIXED, Exit::Clean),
            (Class::Fixed, SOUND, Exit::Clean),
            (Class::Fixed, AFFECTED, Exit::Found),
            (Class::Sound, SOUND, Exit::Clean),
            (Class::Sound, FIXED, Exit::Found),
            (Class::Affected, AFFECTED, Exit::Clean),
            (Class::Affected, FIXED, Exit::Found),
        ] {
            assert_eq!(kernel(expect, restore, hand_off).exit(), exit, "{expect} {restore} {hand_off}");
        }
    }

    #[test]
    fn the_class_needs_every_deciding_scenario() {
        assert_eq!(kernel(Class::Fixed, Harm::None, Harm::Corrupt).class(), Some(Class::Fixed));
        assert_eq!(verified(Class::Fixed, false, vec![verdict(RESTORE, Harm::None)]).class(), None);
        let mut skipped = kernel(Class::Fixed, Harm::None, Harm::Corrupt);
        skipped.verdicts[1].observation.skipped = Some("no".to_owned());
        assert_eq!((skipped.class(), skipped.exit()), (None, Exit::Inconclusive));
        assert_eq!(skipped.status(&skipped.verdicts[1]), Status::Skipped);
        let mut disturbed = kernel(Class::Fixed, Harm::None, Harm::Corrupt);
        disturbed.verdicts[1].observation.conclusive = false;
        assert_eq!((disturbed.class(), disturbed.exit()), (None, Exit::Inconclusive));
    }

    #[test]
    fn a_kernel_that_fits_no_class_is_not_passed() {
        let odd = kernel(Class::Fixed, Harm::None, Harm::OverCharged);
        assert_eq!((odd.class(), odd.exit()), (None, Exit::Inconclusive));
    }

    #[test]
    fn a_skipped_scenario_is_not_passed_and_harmless_where_no_class_depends_on_it() {
        let mut skipped = verdict("no-cpuid-bit", Harm::None);
        skipped.observation.skipped = Some("not enforced".to_owned());
        let mut with = kernel(Class::Fixed, Harm::None, Harm::Corrupt);
        with.verdicts.push(skipped.clone());
        assert_eq!((with.count(Status::Passed), with.exit()), (3, Exit::Clean));
        let only = verified(Class::Fixed, false, vec![skipped]);
        assert_eq!((only.count(Status::Passed), only.exit()), (0, Exit::Inconclusive));
    }

    #[test]
    fn only_what_tells_classes_apart_confirms_one_that_was_asked_for() {
        for class in [Class::Affected, Class::Fixed, Class::Sound] {
            let mut alone = verified(class, false, vec![verdict(ALONE, Harm::None)]);
            assert_eq!(alone.exit(), Exit::Inconclusive, "{class}");
            assert!(alone.inconclusive().is_some_and(|why| why.contains(RESTORE)), "{class}");
            alone.expectation.asked = false;
            assert_eq!(alone.exit(), Exit::Clean, "{class}");
        }
        let restore = |class| verified(class, false, vec![verdict(RESTORE, Harm::None)]).exit();
        assert_eq!((restore(Class::Fixed), restore(Class::Sound)), (Exit::Clean, Exit::Inconclusive));
    }

    #[test]
    fn a_witness_that_saw_nothing_proves_nothing() {
        let mut blind = kernel(Class::Fixed, Harm::None, Harm::Corrupt);
        blind.verdicts[0].agreement = Agreement::Blind;
        assert_eq!(blind.exit(), Exit::Inconclusive);
    }

    #[test]
    fn a_witness_that_is_missing_proves_nothing_unless_it_was_declined() {
        let mut alone = kernel(Class::Fixed, Harm::None, Harm::Corrupt);
        assert_eq!(alone.exit(), Exit::Clean);
        alone.witness = Err(NoWitness::Missing("no types".to_owned()));
        assert_eq!(alone.exit(), Exit::Inconclusive);
        assert!(alone.inconclusive().unwrap().contains("no types"));
    }

    #[test]
    fn an_over_charge_counts_only_where_unexpected_or_strictly() {
        let exit = |id: &str, strict| {
            let mut verified = verified(Class::Fixed, strict, vec![verdict(id, Harm::OverCharged)]);
            verified.expectation.asked = false;
            verified.exit()
        };
        assert_eq!(exit("first-run-charge", false), Exit::Clean);
        assert_eq!(exit("first-run-charge", true), Exit::Found);
        assert_eq!(exit("housekeeping-from-main", false), Exit::Found);
    }

    #[test]
    fn broken_is_never_expected() {
        for id in [ALONE, RESTORE, HAND_OFF, "first-run-charge"] {
            for expect in [Class::Affected, Class::Fixed, Class::Sound] {
                assert_eq!(verified(expect, false, vec![verdict(id, Harm::Broken)]).exit(), Exit::Found);
            }
        }
    }

    #[test]
    fn a_lost_event_of_the_witness_proves_nothing() {
        let mut lossy = kernel(Class::Fixed, Harm::None, Harm::Corrupt);
        lossy.lost = 1;
        assert_eq!(lossy.exit(), Exit::Inconclusive);
    }

    #[test]
    fn what_was_not_played_proves_nothing_and_hides_no_failure() {
        for (restore, exit) in [(Harm::None, Exit::Inconclusive), (Harm::Corrupt, Exit::Found)] {
            let mut interrupted = kernel(Class::Fixed, restore, Harm::Corrupt);
            interrupted.not_played = vec![Scenario::find("vcpu-pool").unwrap()];
            assert_eq!(interrupted.exit(), exit);
            assert!(interrupted.inconclusive().unwrap().contains("1 of 4 scenarios were not played"));
        }
    }
}
