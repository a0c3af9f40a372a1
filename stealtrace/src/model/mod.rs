//! What stealtrace knows: threads, vCPUs, findings, summary. No I/O, no clock.

mod finding;
mod summary;
mod threads;
mod vcpu;
mod vm_names;

pub use finding::{Field, Finding, RuleId, Severity, Value};
pub use summary::{Losses, ProbeLoss, Summary, VcpuSummary};
pub use threads::Threads;
pub use vcpu::{Enabling, HandOff, Pid, Restore, Thread, Unsettled, Vcpu, VcpuKey, VcpuName};
pub use vm_names::VmNames;
