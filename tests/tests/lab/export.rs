//! export, where kvm comes and goes under it.

use stealtrace_tests::{found, json_lines};

use super::Step;

pub(crate) static STEPS: &[&Step] = &[&RELOADED];

static RELOADED: Step = Step::once(
    "exported over a reload of kvm",
    "\
says() { until grep -q \"$1\" /tmp/metrics/stealtrace.prom 2> /dev/null; do sleep 0.1; done; }
mkdir /tmp/metrics
stealtrace export --textfile /tmp/metrics --interval 100ms > /tmp/findings 2> /tmp/said &
export=$!
says '^stealtrace_attached 1'
rmmod kvm-amd && rmmod kvm
says '^stealtrace_attached 0'
insmod /modules/kvm.ko && insmod /modules/kvm-amd.ko
says '^stealtrace_attached 1'
grep -o 'backend=.*' /tmp/metrics/stealtrace.prom >&2
stealtrace verify --no-trace run-hand-off-down > /dev/null
says 'steal-underflow.,severity=.error.} [1-9]'
kill $export
wait $export
code=$?
cat /tmp/findings
cat /tmp/said >&2
exit $code",
);

#[test]
fn export_goes_on_when_kvm_is_unloaded_and_loaded_again() {
    let step = RELOADED.alone();
    assert_eq!(step.code, 0, "{}", step.stderr);
    for said in ["kvm was unloaded", "kvm was loaded again", "CAP_BPF", "backend=\"kprobe\""] {
        assert!(step.stderr.contains(said), "{said}: {}", step.stderr);
    }
    let lines = json_lines(&step.stdout);
    let findings = found(&lines);
    assert!(findings.iter().any(|finding| finding["rule"] == "steal-underflow"), "{}", step.stdout);
}
