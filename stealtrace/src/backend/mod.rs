//! Where events come from. The only place that names aya.

mod attach;
mod ebpf;
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

/// The backend a user asked for, or the better usable one.
///
/// # Errors
/// When it is not usable, with the first reason.
fn choose(wanted: Option<BackendKind>, facts: &KernelFacts) -> Result<BackendKind> {
    let problem = |kind: BackendKind| kind.problem(facts);
    match wanted {
        Some(kind) => match problem(kind) {
            None => Ok(kind),
            Some(reason) => bail!("the {kind} backend is not usable: {reason}"),
        },
        None => match (problem(BackendKind::Kprobe), problem(BackendKind::Tracepoint)) {
            (None, _) => Ok(BackendKind::Kprobe),
            (_, None) => Ok(BackendKind::Tracepoint),
            (Some(kprobe), Some(tracepoint)) => {
                bail!("no backend is usable: kprobe: {kprobe}; tracepoint: {tracepoint}")
            }
        },
    }
}
