//! What kernels showed, a row each.

use anyhow::Result;
use serde_json::{Value, json};

/// Exit code of `stealtrace verify` where it cannot run.
pub(super) const CANNOT_RUN: u8 = 2;

/// And where what it played proves nothing.
pub(super) const INCONCLUSIVE: u8 = 3;

/// Exit codes from the best to the worst: what is wrong comes before what proves nothing.
const RANKED: [u8; 5] = [0, INCONCLUSIVE, CANNOT_RUN, 1, crate::TROUBLE];

/// The worst of them.
pub(super) fn worst(codes: impl Iterator<Item = u8>) -> u8 {
    let rank = |code: &u8| RANKED.iter().position(|ranked| ranked == code).unwrap_or(RANKED.len());
    codes.max_by_key(rank).unwrap_or(0)
}

/// What a kernel showed.
pub(super) struct Row {
    pub(super) name: String,
    /// `uname -r`; empty if it could not be had.
    pub(super) release: String,
    pub(super) expect: String,
    /// Per backend; why not, if the lab itself failed.
    pub(super) passes: Result<Vec<Pass>, String>,
    /// Why a second backend could not run there, if so.
    pub(super) unable: Vec<String>,
}

/// All scenarios with one backend.
#[derive(Default)]
pub(super) struct Pass {
    /// Objects of `stealtrace verify --format json`, and our own for scenarios that took the kernel along.
    pub(super) verdicts: Vec<Value>,
    /// Its summary; None if the kernel had to be booted again.
    pub(super) summary: Option<Value>,
    /// Exit code; 1 after a panic or hang.
    pub(super) code: u8,
    /// What was said on stderr.
    pub(super) said: String,
}

impl Pass {
    /// `fentry`, `kprobe`, `tracepoint`, or None where no second witness saw.
    pub(super) fn backend(&self) -> Option<&str> {
        self.summary.as_ref()?["witness"].as_str()
    }

    /// Of this scenario, if it was played.
    pub(super) fn verdict(&self, scenario: &str) -> Option<&Value> {
        self.verdicts.iter().find(|verdict| verdict["scenario"] == scenario)
    }

    pub(super) fn class(&self) -> Option<&str> {
        self.summary.as_ref()?["class"].as_str()
    }
}

impl Row {
    /// Of later passes those that turned out to be an earlier one's backend are left out, and those that could not run there,
    /// but for why.
    pub(super) fn of(name: &str, release: String, expect: &str, passes: Vec<Result<Pass>>) -> Self {
        let passes: Result<Vec<Pass>> = passes.into_iter().collect();
        let mut unable = Vec::new();
        let passes = passes.map_err(|error| format!("{error:#}")).map(|found| {
            let mut kept: Vec<Pass> = Vec::new();
            for pass in found {
                let is_known = |known: &Pass| known.backend().is_some() && known.backend() == pass.backend();
                if !kept.is_empty() && pass.code == CANNOT_RUN {
                    unable.push(pass.said.trim().replace('\n', "; "));
                } else if !kept.iter().any(is_known) {
                    kept.push(pass);
                }
            }
            kept
        });
        Self { name: name.to_owned(), release, expect: expect.to_owned(), passes, unable }
    }

    /// 0 as expected, 1 not, 3 nothing proved; the lab's own failure is 125.
    pub(super) fn code(&self) -> u8 {
        match &self.passes {
            Ok(passes) => worst(passes.iter().map(|pass| pass.code)),
            Err(_) => crate::TROUBLE,
        }
    }

    pub(super) fn to_json(&self) -> Value {
        let pass = |pass: &Pass| json!({"verdicts": pass.verdicts, "summary": pass.summary, "exit": pass.code, "stderr": pass.said});
        json!({
            "kernel": self.name,
            "release": self.release,
            "unable": self.unable,
            "expected": self.expect,
            "passes": self.passes.as_ref().ok().map(|passes| passes.iter().map(pass).collect::<Vec<_>>()),
            "lab_failed": self.passes.as_ref().err(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{INCONCLUSIVE, worst};

    #[test]
    fn what_is_wrong_is_worse_than_what_proves_nothing() {
        assert_eq!(worst([0, 1, INCONCLUSIVE].into_iter()), 1);
        assert_eq!(worst([INCONCLUSIVE, 0].into_iter()), INCONCLUSIVE);
        assert_eq!(worst([1, crate::TROUBLE, 2].into_iter()), crate::TROUBLE);
        assert_eq!(worst(std::iter::empty()), 0);
    }
}
