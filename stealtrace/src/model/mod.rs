//! What stealtrace knows: threads, vCPUs, findings, summary. No I/O, no clock.

mod account;
mod accounts;
mod board;
mod check;
mod finding;
mod guest_cpu;
mod judgement;
mod look;
mod opinion;
mod past;
mod scrape;
mod summary;
mod thread;
mod threads;
mod vcpu;
mod vm_names;

pub use account::{Account, Charge, LastFinding};
pub use accounts::Accounts;
pub(crate) use board::{Board, Line, Order, View};
pub(crate) use check::Check;
pub use finding::{Field, Finding, RuleId, Severity, Value};
pub(crate) use guest_cpu::GuestCpu;
pub(crate) use judgement::{Judgement, Sight, judge};
pub(crate) use look::{Look, Throttled, VcpuLook};
pub(crate) use opinion::Opinion;
pub use past::{Enabling, HandOff, Restore, Unsettled};
pub(crate) use scrape::{Own, Scrape};
pub use summary::{Losses, Lost, ProbeLoss, Summary, VcpuSummary};
pub use thread::{Pid, Thread};
pub use threads::Threads;
pub use vcpu::{Vcpu, VcpuKey, VcpuName};
pub use vm_names::VmNames;
