//! Threads that wait, and threads that get into each other's way: nobody is blamed for that.

use stealtrace_tests::{findings, json_lines};

use super::Step;

pub(crate) static STEPS: &[&Step] = &[&HOUNDED, &CHURNED, &CROWDED_KPROBE, &CROWDED_TRACEPOINT];

/// Threads that make one VM after the other, whose vCPUs find themselves where the one before was.
static CHURNED: Step = Step::every(
    "churned",
    "\
for backend in fentry kprobe tracepoint; do
    stealtrace trace --format json --backend $backend --output /tmp/churned -- \
        stealtrace load churn --vcpus 2 --duration 500ms > /dev/null || exit
    grep -e finding -e summary /tmp/churned
done",
);

#[test]
fn a_vcpu_at_anothers_address_is_not_that_one() {
    for step in CHURNED.on_every() {
        assert_eq!(step.code, 0, "{}{}", step.stdout, step.stderr);
        let lines = json_lines(&step.stdout);
        let summaries: Vec<_> = lines.iter().filter(|line| line["type"] == "summary").collect();
        assert_eq!(summaries.len(), 3, "{}", step.stdout);
        for summary in summaries {
            assert!(summary["events"].as_u64() > Some(0) && summary["lost"] == 0, "{summary}");
        }
        let found: Vec<_> = lines.iter().filter(|line| line["type"] == "finding").collect();
        // The threads' own pasts, which KVM charges at each first run.
        assert!(found.iter().all(|finding| finding["cause"] == "first-run"), "{found:#?}");
    }
}

/// Two threads' ioctls on one vCPU at once, most of which the trace passes over.
static HOUNDED: Step = Step::every(
    "hounded",
    "\
stealtrace trace --findings-only --format json --backend tracepoint -- \
    sh -c 'stealtrace load hounded --duration 3s > /dev/null'",
);

#[test]
fn what_kvm_counts_while_two_threads_ioctls_overlap_is_nobody_elses_doing() {
    for (kernel, step) in HOUNDED.runs() {
        let kernel = kernel.name;
        let lines = json_lines(&step.stdout);
        let found = findings(&lines);
        assert!(found.contains_key("cross-thread-ioctl"), "{kernel}: {}", step.stderr);
        for rule in ["steal-rewound", "steal-backwards"] {
            assert!(!found.contains_key(rule), "{kernel}: {}", step.stdout);
        }
    }
}

/// A vCPU thread that waits for a CPU mostly in ioctls that do not run the guest; how long, on standard error.
const CROWDED: &str = "\
busy=
for each in 1 2 3 4; do taskset 1 sh -c 'while :; do :; done' & busy=\"$busy $!\"; done
stealtrace trace --findings-only --format json --backend BACKEND -- \
    sh -c 'taskset 1 stealtrace load mixed --duration 3s > /dev/null & \
           sleep 2; cat /proc/$!/task/*/schedstat >&2; wait'
code=$?
kill $busy
exit $code";

static CROWDED_KPROBE: Step = Step::made("crowded, kprobe", |_| CROWDED.replace("BACKEND", "kprobe"));
static CROWDED_TRACEPOINT: Step =
    Step::made("crowded, tracepoint", |_| CROWDED.replace("BACKEND", "tracepoint"));

/// The delta of a wait is not younger than the wait, however often the vCPU was held in between.
#[test]
fn a_crowded_host_over_charges_nobody() {
    for crowded in [&CROWDED_KPROBE, &CROWDED_TRACEPOINT] {
        let backend = crowded.name;
        for step in crowded.on_every() {
            let lines = json_lines(&step.stdout);
            assert_eq!(step.code, 0, "{backend}: {} {}", step.stdout, step.stderr);
            let waited_ns: u64 =
                step.stderr.lines().filter_map(schedstat_run_delay).max().expect("schedstat");
            assert!(waited_ns > 500_000_000, "{backend}: waited only {waited_ns} ns");
            for finding in lines.iter().filter(|line| line["type"] == "finding") {
                assert_eq!(finding["cause"], "first-run", "{backend}: {finding}");
            }
        }
    }
}

/// Time run, time waited, slices.
fn schedstat_run_delay(line: &str) -> Option<u64> {
    let numbers: Option<Vec<u64>> = line.split(' ').map(|word| word.parse().ok()).collect();
    numbers.filter(|numbers| numbers.len() == 3).map(|numbers| numbers[1])
}
