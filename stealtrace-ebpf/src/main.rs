//! The kernel side: reports facts, judges nothing.
#![no_std]
#![no_main]

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
mod quiet;
mod read;
mod tracepoints;
mod x86_64;
mod x86_msr;

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
