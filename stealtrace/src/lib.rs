//! stealtrace finds out, on a live KVM host, why a guest's steal time is wrong.
//!
//! One way: probe, event, backend, engine, finding, reporter. See the README.

pub mod analyze;
pub mod backend;
pub mod cli;
mod descriptors;
pub mod detect;
pub mod doctor;
pub mod evidence;
pub mod exit;
pub mod guard;
pub mod guest;
mod help;
pub mod input;
pub mod inspect;
pub mod ioctl;
pub mod kernel;
pub mod model;
pub mod os;
pub mod pipeline;
pub mod record;
pub mod report;
pub mod rules;
pub mod session;
pub mod verify;
pub mod vmm;
