//! The kernel side: reports facts, judges nothing.
#![no_std]
#![no_main]

#[cfg_attr(bpf_target_arch = "aarch64", path = "aarch64.rs")]
#[cfg_attr(bpf_target_arch = "x86_64", path = "x86_64.rs")]
mod arch;
mod area;
mod caller;
mod calls;
mod counters;
mod emit;
mod facts;
mod fentry;
mod files;
mod floor;
mod functions;
mod guard;
mod kprobes;
mod lifecycle;
mod maps;
#[cfg_attr(bpf_target_arch = "aarch64", path = "no_other.rs")]
#[cfg_attr(bpf_target_arch = "x86_64", path = "xen_runstate.rs")]
mod other;
mod quiet;
mod read;
#[cfg_attr(bpf_target_arch = "aarch64", path = "arm64_pvtime.rs")]
#[cfg_attr(bpf_target_arch = "x86_64", path = "x86_msr.rs")]
mod source;
mod tracepoints;

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
