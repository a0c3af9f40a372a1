//! Where events come from. The only place that names aya.

mod attach;
mod ebpf;
mod fentry;
mod load;
mod plan;
mod rehearsal;
mod table;

pub use ebpf::EbpfBackend;
pub(crate) use plan::padded;
pub use plan::{Plan, Processes, Task};
pub use table::{BackendKind, guard_problem, label, place};

use anyhow::{Result, bail};

use crate::kernel::KernelFacts;

/// In which ways to see: the one that a user asked for, or those that see the same, the cheapest first.
///
/// # Errors
/// When none is usable, with the first reason of each.
fn ways(wanted: Option<BackendKind>, facts: &KernelFacts) -> Result<Vec<BackendKind>> {
    if let Some(kind) = wanted {
        return match kind.problem(facts) {
            None => Ok(vec![kind]),
            Some(reason) => bail!("the {kind} backend is not usable: {reason}"),
        };
    }
    let mut of_functions = [BackendKind::Fentry, BackendKind::Kprobe];
    if facts.is_realtime {
        of_functions.reverse(); // a thread that is preempted in a program on fentry keeps the next from it
    }
    if BackendKind::are_enough(&of_functions, facts) {
        return Ok(of_functions.into_iter().filter(|kind| kind.absence(facts).is_none()).collect());
    }
    if BackendKind::Tracepoint.problem(facts).is_none() {
        return Ok(vec![BackendKind::Tracepoint]);
    }
    let problems =
        BackendKind::ALL.map(|kind| format!("{kind}: {}", kind.problem(facts).unwrap_or_default()));
    bail!("no backend is usable: {}", problems.join("; "))
}
