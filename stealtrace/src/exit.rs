//! Exit codes: what a run's end means to a script.

use std::process::ExitCode;

use crate::model::{Severity, Summary};

/// What the process's exit code says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// 0: nothing found and nothing missed; a verdict as expected.
    Clean,
    /// 1: findings at or above `--fail-on`, or a verdict not as expected.
    Found,
    /// 2: could not run, or bad usage.
    Unusable,
    /// 3: something was missed, so nothing is proved.
    Inconclusive,
}

impl Exit {
    /// The exit of a trace.
    #[must_use]
    pub fn of(summary: &Summary, fail_on: Severity) -> Self {
        if summary.worst().is_some_and(|worst| worst >= fail_on) {
            Self::Found
        } else if summary.inconclusive().is_some() {
            Self::Inconclusive
        } else {
            Self::Clean
        }
    }
}

impl Exit {
    /// Of two, the one that a script should know.
    #[must_use]
    pub fn worse(self, other: Self) -> Self {
        let rank = |exit| {
            [Self::Clean, Self::Inconclusive, Self::Found, Self::Unusable].iter().position(|one| *one == exit)
        };
        if rank(other) > rank(self) { other } else { self }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Clean => 0,
            Exit::Found => 1,
            Exit::Unusable => 2,
            Exit::Inconclusive => 3,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Exit;
    use crate::model::{Losses, RuleId, Severity, Summary};

    fn summary(findings: &[Severity], undecodable: u64) -> Summary {
        Summary {
            findings: findings.iter().map(|severity| ((RuleId::new("rule"), *severity), 1)).collect(),
            losses: Losses { undecodable, ..Losses::default() },
            ..Summary::default()
        }
    }

    #[test]
    fn nothing_found_and_nothing_missed_is_clean() {
        assert_eq!(Exit::of(&summary(&[], 0), Severity::Error), Exit::Clean);
    }

    #[test]
    fn findings_count_from_fail_on_upwards() {
        assert_eq!(Exit::of(&summary(&[Severity::Warning], 0), Severity::Error), Exit::Clean);
        assert_eq!(Exit::of(&summary(&[Severity::Warning], 0), Severity::Warning), Exit::Found);
        assert_eq!(Exit::of(&summary(&[Severity::Error], 0), Severity::Notice), Exit::Found);
    }

    #[test]
    fn a_loss_makes_a_clean_run_inconclusive_but_not_a_found_one() {
        assert_eq!(Exit::of(&summary(&[], 1), Severity::Error), Exit::Inconclusive);
        assert_eq!(Exit::of(&summary(&[Severity::Error], 1), Severity::Error), Exit::Found);
    }

    #[test]
    fn a_command_that_failed_proves_nothing() {
        let failed = Summary { unproved: Some("the command failed".to_owned()), ..Summary::default() };
        assert_eq!(Exit::of(&failed, Severity::Error), Exit::Inconclusive);
    }
}
