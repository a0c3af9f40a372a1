//! The embedded test VMM: real vCPUs, a few bytes of guest code, threads that hand a vCPU over,
//! and pressure that makes run_delay grow where it is wanted.

mod arch;
mod guest;
mod load;
mod memory;
mod pressure;
pub mod scenario;
mod schedstat;
mod stage;
mod stats;
mod vm;
mod watched;

pub use load::{Done, Guest, Idle, Work, load};
pub use memory::{GuestMemory, StealArea};
pub use pressure::{accrue_run_delay, contended, on_one_cpu, outwait_past, wait_more};
pub use schedstat::{SchedStat, run_delay_ns};
pub use stage::StageThread;
pub use vm::{Vcpu, Vm, require_steal_time};
pub use watched::Watched;
