//! Which kernel functions exist, and where. Reads /proc/kallsyms once; nothing else.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, BufRead, BufReader},
};

use anyhow::{Context as _, Result};
use rustc_hash::FxHashSet;
use stealtrace_common::probe::functions;

/// The helper that says of which type `current` is.
pub(super) const TYPED_CURRENT: &str = "bpf_get_current_task_btf";

/// There where kprobes can be had without perf.
const KPROBE_MULTI: &str = "bpf_kprobe_multi_link_release";

/// There where a function's entry can call a program: by one name or the other since Linux 5.5, on arm64 since 6.4.
const DIRECT_CALLS: [&str; 2] = ["register_ftrace_direct", "register_ftrace_direct_multi"];

/// The symbols that matter to us, by name.
#[derive(Debug, Default)]
pub struct Symbols(HashMap<String, u64>);

impl Symbols {
    /// The running kernel's symbols: those that probes are for, and more if asked for.
    ///
    /// # Errors
    /// When /proc/kallsyms cannot be read.
    pub fn read(more: &[String]) -> Result<Self> {
        const FILE: &str = "/proc/kallsyms";
        let file = File::open(FILE).with_context(|| format!("read {FILE}"))?;
        Self::parse(BufReader::with_capacity(1 << 16, file), more).with_context(|| format!("read {FILE}"))
    }

    /// Line by line: the whole is more than ten megabytes.
    fn parse(mut text: impl BufRead, more: &[String]) -> io::Result<Self> {
        let ours: FxHashSet<&str> =
            functions().chain([TYPED_CURRENT, KPROBE_MULTI]).chain(DIRECT_CALLS).collect();
        let wanted = |name: &str| ours.contains(name) || more.iter().any(|wanted| wanted == name);
        let mut symbols = HashMap::new();
        let mut line = Vec::new();
        while text.read_until(b'\n', &mut line)? > 0 {
            symbols.extend(parse_line(&line, wanted));
            line.clear();
        }
        Ok(Self(symbols))
    }

    /// Is there a function of this name that a probe can attach to?
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// Its address; None if there is none or this user may not see addresses (CAP_SYSLOG).
    #[must_use]
    pub fn address(&self, name: &str) -> Option<u64> {
        self.0.get(name).copied().filter(|address| *address != 0)
    }

    /// Can kprobes be had without perf?
    #[must_use]
    pub fn has_kprobe_multi(&self) -> bool {
        self.has(KPROBE_MULTI)
    }

    /// Can a function's entry call a program?
    #[must_use]
    pub fn has_direct_calls(&self) -> bool {
        DIRECT_CALLS.iter().any(|name| self.has(name))
    }

    /// Why there is none.
    #[must_use]
    pub fn why_no_address(&self, name: &str) -> String {
        if self.has(name) {
            format!(
                "/proc/kallsyms hides the address of {name}: run with CAP_SYSLOG, and kernel.kptr_restrict below 2"
            )
        } else {
            format!("no function {name} in /proc/kallsyms")
        }
    }
}

/// `ffffffffc0a1b2c0 t record_steal_time  [kvm]`
fn parse_line(line: &[u8], wanted: impl Fn(&str) -> bool) -> Option<(String, u64)> {
    let mut words = str::from_utf8(line).ok()?.split_ascii_whitespace();
    let (address, kind, name) = (words.next()?, words.next()?, words.next()?);
    if !matches!(kind, "t" | "T") || !wanted(name) {
        return None;
    }
    Some((name.to_owned(), u64::from_str_radix(address, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use super::Symbols;

    fn parse(text: &str) -> Symbols {
        Symbols::parse(text.as_bytes(), &[]).expect("text")
    }

    #[test]
    fn functions_of_the_kernel_and_of_a_module_are_found() {
        let symbols = parse(
            "ffffffff8127ca20 t kvm_vcpu_ioctl\nffffffffc0a1b2c0 T kvm_arch_vcpu_load\t[kvm]\ngarbage\n",
        );
        assert_eq!(symbols.address("kvm_vcpu_ioctl"), Some(0xffff_ffff_8127_ca20));
        assert!(symbols.has("kvm_arch_vcpu_load"));
        assert!(!symbols.has("accumulate_steal_time"));
    }

    #[test]
    fn split_off_cold_parts_and_data_are_not_functions() {
        let symbols = parse("ffffffff8120152f t record_steal_time.cold\nffffffff81000000 d kvm_vcpu_ioctl\n");
        assert!(!symbols.has("record_steal_time"));
        assert!(!symbols.has("kvm_vcpu_ioctl"));
    }

    #[test]
    fn hidden_addresses_are_no_addresses() {
        let symbols = parse("0000000000000000 t kvm_vcpu_ioctl\n");
        assert!(symbols.has("kvm_vcpu_ioctl"));
        assert_eq!(symbols.address("kvm_vcpu_ioctl"), None);
    }
}
