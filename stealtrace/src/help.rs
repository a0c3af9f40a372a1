//! What `help COMMAND` ends with: examples, and what each exit code means there.

macro_rules! help {
    ($name:ident, $examples:literal, $codes:literal) => {
        pub(crate) const $name: &str = concat!("Examples:\n", $examples, "\n\nExit codes:\n", $codes);
    };
}

help!(
    TRACE,
    "  stealtrace trace                                     everything, until Ctrl-C
  stealtrace trace --findings-only --pid 4711          one VM, only what is wrong
  stealtrace trace --duration 10s --format json        for scripts
  stealtrace trace --record vm.stealtrace --pid 4711   for `stealtrace analyze`
  stealtrace trace -- ./my-vmm --restore snapshot      a command and its children, to their end",
    "  0  nothing found and nothing missed
  1  findings at or above --fail-on
  2  cannot trace here, or bad usage
  3  inconclusive: events were lost, nothing was seen of what was named, or the command failed"
);
help!(
    ANALYZE,
    "  stealtrace analyze vm.stealtrace                     a recording, with every option of trace
  stealtrace analyze strace.log                        which thread issued which vCPU ioctl
  cat /proc/uptime /proc/stat | stealtrace analyze -   is this guest's steal possible?",
    "  0  nothing found and nothing missed
  1  findings at or above --fail-on
  2  the file cannot be read, or is none that is known
  3  inconclusive: cut off, damaged, or nothing of it was understood"
);
help!(
    VERIFY,
    "  stealtrace verify                                    every scenario
  stealtrace verify --expect sound --format junit      for CI of a host's kernel
  stealtrace verify --no-trace 'restore-*'             only these, on kernels without eBPF",
    "  0  as expected
  1  not as expected, or the two witnesses disagree
  2  this host cannot play any, or bad usage
  3  inconclusive: what decides was skipped or disturbed, the tracer saw nothing, or interrupted"
);
help!(
    INSPECT,
    "  stealtrace inspect                                   every vCPU of every VM
  stealtrace inspect --pid 4711 --watch 1s             one VM, again and again
  stealtrace inspect --wait 0s --format json           one look, which tells only what is impossible",
    "  0  no counter is impossible or counts wrong
  1  one is poisoned or off
  2  cannot look here, or bad usage
  3  one cannot be read or was not seen, or the process has no vCPU"
);
help!(
    GUARD,
    "  stealtrace guard --dry-run                           what would be written, until Ctrl-C
  stealtrace guard --yes --pid 4711                    keep one VM's guest sound
  stealtrace guard --yes --heal                        re-base counters that were poisoned before",
    "  0  everything corrupt was repaired
  1  something was not, or would have been with --dry-run
  2  cannot run here, or bad usage
  3  inconclusive: an update was missed, or the command failed"
);
help!(
    GUEST,
    "  stealtrace guest                                     two looks, a second apart
  stealtrace guest --count 0 --interval 10s            until Ctrl-C",
    "  0  nothing impossible
  1  a CPU's steal is poisoned or went backwards
  2  cannot be read here, or bad usage
  3  inconclusive: what was read cannot be judged"
);
help!(
    DOCTOR,
    "  stealtrace doctor                                    what can be used here
  stealtrace doctor --format json                      for scripts",
    "  0  `stealtrace trace` can run here
  2  it cannot"
);

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::{ANALYZE, DOCTOR, GUARD, GUEST, INSPECT, TRACE, VERIFY};
    use crate::cli::Cli;

    #[test]
    fn every_example_parses() {
        let mut examples = 0;
        for help in [ANALYZE, DOCTOR, GUARD, GUEST, INSPECT, TRACE, VERIFY] {
            for line in help.lines().filter_map(|line| line.split_once("stealtrace ").map(|(_, rest)| rest)) {
                let Some((words, _)) = line.split_once("  ") else { continue };
                let words = words.split(' ').map(|word| word.trim_matches('\''));
                assert!(Cli::try_parse_from(std::iter::once("stealtrace").chain(words)).is_ok(), "{line}");
                examples += 1;
            }
            assert!(help.lines().all(|line| line.len() <= 100), "fits a terminal");
        }
        assert!(examples > 15);
    }
}
