//! The demo: the bug of 2015 caught on a kernel that has it, silence on the same kernel fixed, today's hand-off.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::{lab, process::say};

struct Act {
    kernel: &'static str,
    title: &'static str,
    expect: &'static str,
}

const ACTS: [Act; 2] = [
    Act {
        kernel: "unfixed-6.1",
        title: "a kernel with the bug of 2015: the main thread restores the steal MSR, the guest sees 0xffff...",
        expect: "affected",
    },
    Act {
        kernel: "stock-6.1",
        title: "the same kernel, fixed: restore is quiet, but a KVM_RUN hand-off sets the guest's steal back",
        expect: "fixed",
    },
];

/// Enough for a verdict.
const SCENARIOS: &str = "same-thread restore-by-main-thread run-hand-off-down";

/// Play both acts; each must find corruption.
pub(crate) fn demo() -> Result<()> {
    for act in ACTS {
        say(&format!("=== {}: {}", act.kernel, act.title));
        let words = format!(
            "stealtrace trace --findings-only -- stealtrace verify --no-trace --expect {} {SCENARIOS}",
            act.expect
        );
        let command: Vec<_> = words.split(' ').map(str::to_owned).collect();
        let how = (lab::Clock::Real, lab::Counts::Life);
        let code = lab::run_in(lab::find(act.kernel)?, &command, how, Duration::from_secs(300))?;
        ensure!(code == 1, "stealtrace trace exited with {code} on {}, not with 1 (findings)", act.kernel);
    }
    Ok(())
}
