//! What kernels showed, a row each.

use anyhow::Result;
use serde_json::{Value, json};

/// Exit code of `stealtrace verify` where it cannot run.
pub(super) const CANNOT_RUN: u8 = 2;

/// And where what it played proves nothing.
pub(super) const INCONCLUSIVE: u8 = 3;

/// What a kernel showed.
pub(super) struct Row {
    pub(super) name: String,
    /// `uname -r`; empty if it could not be had.
    pub(super) release: String,
    pub(super) expect: String,
    /// Per backend; why not, if the lab itself failed.
    pub(super) passes: Result<Vec<Pass>, String>,
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
    /// `kprobe`, `tracepoint`, or None where no second witness saw.
    pub(super) fn backend(&self) -> Option<&str> {
        self.summary.as_ref()?["witness"].as_str()
    }

    pub(super) fn class(&self) -> Option<&str> {
        self.summary.as_ref()?["class"].as_str()
    }
}

impl Row {
    /// A second pass that could not run there, or turned out to be the same backend, is left out.
    pub(super) fn of(name: &str, release: String, expect: &str, passes: Vec<Result<Pass>>) -> Self {
        let passes: Result<Vec<Pass>> = passes.into_iter().collect();
        let passes = passes.map_err(|error| format!("{error:#}")).map(|mut passes| {
            if let [first, second] = &passes[..]
                && (second.code == CANNOT_RUN || first.backend() == second.backend())
            {
                passes.truncate(1);
            }
            passes
        });
        Self { name: name.to_owned(), release, expect: expect.to_owned(), passes }
    }

    /// 0 as expected, 1 not, 3 nothing proved; the lab's own failure is 125.
    pub(super) fn code(&self) -> u8 {
        match &self.passes {
            Ok(passes) => passes.iter().map(|pass| pass.code).max().unwrap_or(0),
            Err(_) => crate::TROUBLE,
        }
    }

    pub(super) fn to_json(&self) -> Value {
        let pass = |pass: &Pass| json!({"verdicts": pass.verdicts, "summary": pass.summary, "exit": pass.code, "stderr": pass.said});
        json!({
            "kernel": self.name,
            "release": self.release,
            "expected": self.expect,
            "passes": self.passes.as_ref().ok().map(|passes| passes.iter().map(pass).collect::<Vec<_>>()),
            "lab_failed": self.passes.as_ref().err(),
        })
    }
}
