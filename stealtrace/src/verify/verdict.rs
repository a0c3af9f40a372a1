//! Verdict: the worst that a scenario showed, what the second witness said of it, and what that means.

use std::{
    fmt,
    time::{Duration, Instant},
};

use anyhow::Result;

use super::Transcript;
use crate::vmm::scenario::{Class, Decides, Fault, Harm, Observation, Scenario, Tally};

/// A runner that is rescheduled every time is not alone on its CPU.
const MOST_ATTEMPTS: u32 = 20;

/// What the kernel should be.
#[derive(Clone, Copy, Debug)]
pub struct Expectation {
    /// Its class.
    pub class: Class,
    /// Was that asked for by name? Then it must be confirmed.
    pub asked: bool,
    /// Does an over-charge count where kernels of the class are known for it?
    pub strict: bool,
}

impl Expectation {
    /// The worst that passes.
    #[must_use]
    pub fn worst(self, scenario: &Scenario) -> Harm {
        match scenario.expects.on(self.class) {
            Harm::OverCharged if self.strict => Harm::None,
            harm => harm,
        }
    }
}

/// What a verdict means under an expectation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// No worse than expected.
    Passed,
    /// Worse, or not the bug that was expected, or the witnesses disagree.
    Failed,
    /// Could not be played here.
    Skipped,
    /// Nothing bad was seen, but it would not have shown.
    Inconclusive,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Passed => "passed",
            Self::Failed => "FAILED",
            Self::Skipped => "skipped",
            Self::Inconclusive => "inconclusive",
        })
    }
}

/// One attempt, as both witnesses tell it.
pub(crate) struct Attempt {
    /// What the VMM saw.
    pub(crate) played: Result<Observation>,
    /// What the second witness says, if there is one.
    pub(crate) told: Option<Testimony>,
    /// In detail, if that is kept.
    pub(crate) transcript: Transcript,
}

/// What the second witness says of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Testimony {
    /// It saw no vCPU, so it has nothing to say.
    Blind,
    /// It saw a corruption, but not whether that reached the guest.
    Unsure,
    /// It saw this.
    Saw(Harm),
    /// It saw nothing but a first run that charged its thread's past, which most scenarios do not judge.
    FirstRun,
}

/// How the witnesses' stories go together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Agreement {
    /// There is nothing to compare: no second witness, nothing played, a fault that is not about steal, or a
    /// corruption of which the second witness could not see whether it reached the guest.
    Nothing,
    /// The second witness saw no vCPU.
    Blind,
    /// They agree.
    Agree,
    /// They contradict each other: a fault of stealtrace.
    Disagree(String),
}

/// The worst that a scenario showed.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// Which.
    pub scenario: &'static Scenario,
    /// The worst observation, or the last.
    pub observation: Observation,
    /// Attempts at the observation until it was conclusive.
    pub attempts: u32,
    /// Times it was played to a conclusion.
    pub played: u32,
    /// Of these, with any harm.
    pub harmful: u32,
    /// How the witnesses' stories go together.
    pub agreement: Agreement,
    /// What the second witness saw, if that is kept.
    pub(crate) transcript: Transcript,
    /// How long all of it took.
    pub took: Duration,
}

impl fmt::Debug for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.id)
    }
}

impl Verdict {
    /// Play a scenario so often, each time until it is conclusive or the attempts are used up, or there is to be no
    /// more; None if there was none to the end.
    pub(crate) fn of(
        scenario: &'static Scenario,
        repeat: u32,
        mut play: impl FnMut(u32) -> Result<Option<Attempt>>,
    ) -> Result<Option<Self>> {
        let start = Instant::now();
        let mut worst: Option<Self> = None;
        let mut harmful = 0;
        for number in 0..repeat {
            let Some(mut verdict) = Self::once(scenario, || play(number))? else { break };
            harmful += u32::from(verdict.observation.harm() != Harm::None);
            let over = verdict.disagrees() || verdict.observation.skipped.is_some();
            (verdict.played, verdict.harmful) = (number + 1, harmful);
            worst = Some(match worst {
                Some(worst) if worst.rank() > verdict.rank() => Self { played: number + 1, harmful, ..worst },
                _ => verdict,
            });
            if over {
                break;
            }
        }
        Ok(worst.map(|verdict| Self { took: start.elapsed(), ..verdict }))
    }

    fn once(
        scenario: &'static Scenario,
        mut play: impl FnMut() -> Result<Option<Attempt>>,
    ) -> Result<Option<Self>> {
        let mut attempts = 0;
        loop {
            attempts += 1;
            let Some(Attempt { played, told, transcript }) = play()? else { return Ok(None) };
            let observation = played.unwrap_or_else(|error| could_not_play(&error));
            let agreement = Agreement::of(&observation, told);
            let verdict = Self {
                scenario,
                observation,
                attempts,
                played: 1,
                harmful: 0,
                agreement,
                transcript,
                took: Duration::ZERO,
            };
            let decided =
                verdict.disagrees() || verdict.observation.skipped.is_some() || verdict.proves_something();
            if decided || attempts == MOST_ATTEMPTS {
                return Ok(Some(verdict));
            }
        }
    }

    /// What is worth keeping of several.
    fn rank(&self) -> (bool, Harm, bool) {
        (self.disagrees(), self.observation.harm(), !self.proves_something())
    }

    /// Do the witnesses contradict each other?
    #[must_use]
    pub const fn disagrees(&self) -> bool {
        matches!(self.agreement, Agreement::Disagree(_))
    }

    /// Was harm seen, or would it have been?
    #[must_use]
    pub fn proves_something(&self) -> bool {
        let Observation { conclusive, skipped, fault, .. } = &self.observation;
        skipped.is_none() && (*conclusive || fault.is_some())
    }

    /// Does it tell this of a kernel?
    #[must_use]
    pub fn settles(&self, what: Decides) -> bool {
        self.scenario.decides == Some(what) && self.proves_something()
    }

    /// What it means.
    #[must_use]
    pub fn status(&self, expectation: Expectation) -> Status {
        if self.disagrees() || self.observation.harm() > expectation.worst(self.scenario) {
            Status::Failed
        } else if self.observation.skipped.is_some() {
            Status::Skipped
        } else if !self.proves_something() {
            Status::Inconclusive
        } else if self.lacks_the_bug(expectation) {
            Status::Failed
        } else {
            Status::Passed
        }
    }

    /// Better than expected passes, but a kernel that is said to be affected must show it.
    fn lacks_the_bug(&self, expectation: Expectation) -> bool {
        expectation.class == Class::Affected
            && self.scenario.decides == Some(Decides::Restore)
            && self.observation.harm() != Harm::Corrupt
    }

    /// Why, in words.
    #[must_use]
    pub fn why(&self) -> String {
        if let Agreement::Disagree(disagreement) = &self.agreement {
            return format!("the witnesses disagree: {disagreement}");
        }
        let Observation { skipped, fault, .. } = &self.observation;
        let often = match (self.harmful, self.played) {
            (0, _) | (_, 1) => String::new(),
            (harmful, played) => format!(" ({harmful} of {played} times)"),
        };
        match (skipped, fault) {
            (Some(why), _) => why.clone(),
            (None, Some(Fault { harm, what })) => format!("{harm}: {what}{often}"),
            (None, None) if self.proves_something() => Harm::None.to_string(),
            (None, None) => format!("disturbed in each of {} attempts", self.attempts),
        }
    }
}

/// Whatever KVM or the host refused is a fault until a scenario knows it as a reason to skip.
fn could_not_play(error: &anyhow::Error) -> Observation {
    Observation {
        fault: Some(Fault { harm: Harm::Broken, what: format!("could not be played: {error:#}") }),
        ..Observation::default()
    }
}

impl Agreement {
    /// Where rounds were compared one by one, that counts.
    fn of(observation: &Observation, told: Option<Testimony>) -> Self {
        let Some(told) = told.filter(|_| observation.skipped.is_none()) else {
            return Self::Nothing;
        };
        match (observation.tally, observation.harm_to_steal(), told) {
            (_, _, Testimony::Blind) => Self::Blind,
            (Some(tally), _, _) => Self::of_rounds(tally),
            (None, None, _) | (None, _, Testimony::Unsure) => Self::Nothing,
            (None, Some(seen), Testimony::Saw(told)) if seen != told => {
                Self::contradict(observation, seen, told)
            }
            (None, Some(seen @ Harm::Corrupt), Testimony::FirstRun) => {
                Self::contradict(observation, seen, Harm::OverCharged)
            }
            (None, Some(_), Testimony::Saw(_) | Testimony::FirstRun) => Self::Agree,
        }
    }

    fn of_rounds(Tally { seen, missed, false_reports, .. }: Tally) -> Self {
        if missed + false_reports == 0 {
            return Self::Agree;
        }
        Self::Disagree(format!(
            "the tracer missed {missed} of {seen} corruptions, and reported {false_reports} that were none"
        ))
    }

    fn contradict(observation: &Observation, seen: Harm, told: Harm) -> Self {
        Self::Disagree(format!("the VMM saw steal {seen} ({}), the tracer {told}", observation.saw))
    }
}

#[cfg(test)]
mod tests;
