//! A PC, whose second CPU can be taken away and plugged in again.

use serde_json::Value;

/// What QEMU is called.
pub(crate) const PROGRAM: &str = "qemu-system-x86_64";

/// The machine, with two CPUs.
pub(crate) const MACHINE: &[&str] =
    &["-machine", "pc", "-smp", "1,sockets=2,cores=1,threads=1,maxcpus=2", "-device", DEVICE];

/// Its first serial port.
pub(crate) const CONSOLE: &str = "ttyS0";

const DEVICE: &str = "host-x86_64-cpu,id=second,socket-id=1,core-id=0,thread-id=0";

/// The CPU that can be taken away.
pub(crate) const SECOND: Option<&str> = Some(DEVICE);

/// What inspect says of a guest that is no longer in its firmware.
pub(crate) const ENABLED: &str = "msr_enabled";

/// Steal and version in the first words of `struct kvm_steal_time`.
pub(crate) const fn area(words: [u64; 4]) -> (u64, u64) {
    let [low, high, version, _flags] = words;
    (high << 32 | low, version)
}

/// What the guest knows by itself, of a row like `│ 0  12 ticks  0x1fc29041: enabled, area at ...`, and what that must be.
pub(crate) fn own(row: &str, inspected: &Value) -> (&'static str, Option<u64>, Option<u64>) {
    let msr = row.split_once(": enabled").and_then(|(before, _)| before.rsplit("0x").next());
    let msr = msr.and_then(|digits| u64::from_str_radix(digits, 16).ok());
    ("the guest's own MSR: the same", msr, inspected["msr"].as_u64())
}
