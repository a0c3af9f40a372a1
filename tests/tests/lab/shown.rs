//! What a trace shows: text, and calls as in the script of 2015.

use std::collections::BTreeMap;

use stealtrace_tests::json_lines;

use super::Step;

pub(crate) static STEPS: &[&Step] = &[&TEXT, &LOADS, &CALLS];

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

static LOADS: Step = Step::once(
    "loads",
    "for backend in fentry kprobe; do
         stealtrace trace --format json --backend $backend -- \
             sh -c 'stealtrace verify --no-trace pinned-overcommit > /dev/null'
     done",
);

/// What the first load of an ioctl would say was said when that was entered. By the next the thread has waited.
#[test]
fn a_load_is_told_where_a_thread_goes_on_that_was_scheduled_out() {
    let mut waited = BTreeMap::new();
    let mut told = 0;
    for event in json_lines(&LOADS.alone().stdout) {
        let (thread, run_delay_ns) = (event["caller_tid"].as_u64(), event["run_delay_ns"].as_u64());
        match event["type"].as_str() {
            Some("load") if event["ioctl"] == "KVM_RUN" => {
                assert!(waited.get(&thread).is_some_and(|before| *before < run_delay_ns), "{event}");
                told += 1;
            }
            Some("start") => waited.clear(),
            Some("ioctl") => (),
            _ => continue,
        }
        waited.insert(thread, run_delay_ns);
    }
    assert_ne!(told, 0, "vCPUs that share a CPU wait for it");
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
