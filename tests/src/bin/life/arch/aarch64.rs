//! ARM's virtual machine, of which QEMU takes no CPU away.

use serde_json::Value;

/// What QEMU is called.
pub(crate) const PROGRAM: &str = "qemu-system-aarch64";

/// The machine, with two CPUs.
pub(crate) const MACHINE: &[&str] = &["-machine", "virt,gic-version=3", "-smp", "2"];

/// Its serial port.
pub(crate) const CONSOLE: &str = "ttyAMA0";

/// No CPU can be taken away.
pub(crate) const SECOND: Option<&str> = None;

/// What inspect says where QEMU offers a steal area.
pub(crate) const ENABLED: &str = "pvtime_enabled";

/// Steal in `struct pvclock_vcpu_stolen_time`; it has no version.
pub(crate) const fn area(words: [u64; 4]) -> (u64, u64) {
    let [_revision, _attributes, low, high] = words;
    (high << 32 | low, 0)
}

/// What the guest knows by itself, of a row like `│ 0  12 ticks │`, and what that must be: no more than its counter, which
/// went on until it stood still.
pub(crate) fn own(row: &str, inspected: &Value) -> (&'static str, Option<u64>, Option<u64>) {
    const TICK_NS: u64 = 10_000_000;
    let ticks = row.split_whitespace().nth(2).and_then(|ticks| ticks.parse::<u64>().ok());
    let counter = inspected["steal_ns"].as_u64();
    let expected = counter.map(|counter| ticks.unwrap_or(0).min(counter / TICK_NS + 1));
    ("the guest's own steal: no more", ticks, expected)
}
