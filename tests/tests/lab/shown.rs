//! What a trace shows: text, and calls as in the script of 2015.

use super::Step;

pub(crate) static STEPS: &[&Step] = &[&TEXT, &CALLS];

static TEXT: Step = Step::once("text", "stealtrace trace -- stealtrace verify --no-trace run-hand-off-down");

#[test]
fn text_marks_anomalies_and_ends_with_a_table() {
    let text = &TEXT.alone().stdout;
    // Whatever the first run charged: only the hand-off's delta is negative.
    let marked: Vec<_> =
        text.lines().filter(|line| line.starts_with(" **") && line.contains("delta=-")).collect();
    let [line] = marked[..] else { panic!("not one marked line: {text}") };
    assert!(line.contains("update  KVM_RUN  run_delay="), "{line}");
    let finding = text.lines().find(|line| line.contains("error: steal-underflow")).expect("a finding");
    for evidence in
        ["took KVM_RUN over from", "run_delay=", "last_steal=", "delta=-", "steal_before=", "steal_after="]
    {
        assert!(finding.contains(evidence), "{finding}");
    }
    for column in ["vCPU", "creator", "runner", "ioctls by thread", "updates", "findings"] {
        assert!(text.contains(column), "{text}");
    }
}

static CALLS: Step = Step::every(
    "calls",
    "stealtrace trace --calls --function kvm_no_such -- stealtrace verify --no-trace run-hand-off-down",
);

#[test]
fn calls_nest_as_in_the_script_of_2015() {
    for step in CALLS.on_every() {
        let text = &step.stdout;
        for part in [
            "): -> kvm_arch_vcpu_load\n",
            "): <- kvm_arch_vcpu_load\n",
            "): -> kvm_arch_vcpu_ioctl_run\n",
            "): <- kvm_arch_vcpu_put\n",
            ": kvm_arch_vcpu_load: run_delay=",
            ": delta: 1844674407",
        ] {
            assert!(text.contains(part), "no {part:?}: {text}");
        }
        let is_marked_load =
            |line: &str| line.starts_with(" ** ") && line.contains("kvm_arch_vcpu_load: run_delay=");
        assert!(text.lines().any(is_marked_load), "the hand-off's load is marked: {text}");
        assert!(step.stderr.contains("kvm_no_such"), "a missing function is said: {}", step.stderr);
        assert_eq!(step.code, 1);
    }
}
