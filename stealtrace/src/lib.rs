//! stealtrace finds out, on a live KVM host, why a guest's steal time is wrong.
//!
//! One way: probe, event, backend, engine, finding, reporter. See ARCHITECTURE.md.

pub mod analyze;
pub mod backend;
mod commands;
mod descriptors;
pub mod detect;
pub mod evidence;
pub mod exit;
pub mod input;
pub mod ioctl;
pub mod kernel;
mod live;
pub mod model;
pub mod os;
pub mod pipeline;
mod publish;
pub mod record;
pub mod report;
pub mod verify;
pub mod vmm;

pub use commands::{command, main};
