//! export and trace, where kvm comes and goes under them.

use stealtrace_tests::{found, json_lines};

use super::Step;

pub(crate) static STEPS: &[&Step] = &[&RELOADED, &UNLOADED];

static RELOADED: Step = Step::once(
    "exported over a reload of kvm",
    "\
says() { until grep -q \"$1\" /tmp/metrics/stealtrace.prom 2> /dev/null; do sleep 0.1; done; }
mkdir /tmp/metrics
stealtrace export --textfile /tmp/metrics --interval 100ms > /tmp/findings 2> /tmp/said &
export=$!
says '^stealtrace_attached 1'
rmmod kvm-amd
until rmmod kvm; do sleep 0.1; done
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
    for said in
        ["letting go of kvm", "kvm was unloaded", "kvm was loaded again", "CAP_BPF", "backend=\"fentry\""]
    {
        assert!(step.stderr.contains(said), "{said}: {}", step.stderr);
    }
    let lines = json_lines(&step.stdout);
    let findings = found(&lines);
    assert!(findings.iter().any(|finding| finding["rule"] == "steal-underflow"), "{}", step.stdout);
}

static UNLOADED: Step = Step::once(
    "traced while kvm is unloaded",
    "\
rm -f /tmp/said
stealtrace trace --findings-only 2> /tmp/said &
trace=$!
until grep -qs tracing /tmp/said; do sleep 0.1; done
rmmod kvm && echo unloaded under a VM
rmmod kvm-amd
until rmmod kvm; do sleep 0.1; done
insmod /modules/kvm.ko && insmod /modules/kvm-amd.ko
kill -INT $trace
wait $trace
code=$?
cat /tmp/said >&2
exit $code",
);

#[test]
fn a_trace_does_not_keep_kvm_loaded_and_does_not_pass_over_its_loss() {
    let step = UNLOADED.alone();
    assert_eq!(step.code, 3, "{}{}", step.stdout, step.stderr);
    assert!(step.stderr.contains("letting go of kvm"), "{}", step.stderr);
    assert!(step.stdout.contains("inconclusive: kvm was unloaded"), "{}", step.stdout);
}
