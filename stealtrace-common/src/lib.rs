//! The facts that cross the kernel boundary: what a probe reports and what it must know to report it.
//! No dependencies, no allocation, no I/O.
#![no_std]

#[cfg(test)]
extern crate std;

pub mod event;
pub mod kvm;
pub mod layout;
pub mod probe;
pub mod ring;
pub mod source;
pub mod steal;
pub mod target;
pub mod vcpu;
