//! Guests of Xen: Debian's 6.12 knows them, its 6.1 does not.

use stealtrace_tests::{Run, json_lines};

use super::{Kernel, Step, verdicts::verdicts};

pub(crate) static STEPS: &[&Step] = &[&TRACED, &ELSEWHERE, &INSPECTED, &GUARDED];

/// What it did where there are guests of Xen.
fn where_they_are(step: &'static Step) -> &'static Run {
    let is_there = |kernel: &Kernel| kernel.name == "stock-6.12";
    let (_, run) = step.runs().find(|(kernel, _)| is_there(kernel)).expect("a kernel with guests of Xen");
    run
}

/// And where there are none.
fn elsewhere(step: &'static Step) -> impl Iterator<Item = &'static Run> {
    step.runs().filter(|(kernel, _)| kernel.name.ends_with("-6.1")).map(|(_, run)| run)
}

static TRACED: Step = Step::every(
    "guests of xen traced",
    "\
stealtrace trace --format json --output /tmp/xen -- stealtrace verify --no-trace --format json xen-restore > /dev/null
code=$?
cat /tmp/xen
exit $code",
);

#[test]
fn a_restored_runstate_is_named_with_who_restored_it() {
    let lines = json_lines(&where_they_are(&TRACED).stdout);
    let finding = |rule: &str| {
        let found = lines.iter().find(|line| line["rule"] == rule);
        found.unwrap_or_else(|| panic!("no {rule}: {lines:#?}"))
    };
    let (restore, underflow) = (finding("foreign-steal-restore"), finding("steal-underflow"));
    for found in [restore, underflow] {
        assert_eq!(found["severity"], "error", "{found}");
        assert!(found["advice"].as_str().is_some_and(|advice| !advice.contains("MSR")), "{found}");
    }
    assert!(restore["what"].as_str().is_some_and(|what| what.starts_with("Xen's runstate")), "{restore}");
    assert_eq!(restore["last_steal_after_ns"], underflow["last_steal_ns"], "{underflow}");
    assert_eq!(restore["restorer_tid"], underflow["last_steal_of_tid"], "{underflow}");
    assert_eq!(
        (&underflow["steal_before_ns"], &underflow["reached_guest"]),
        (&1_000_000.into(), &"yes".into())
    );
    let writes: Vec<_> = lines.iter().filter(|line| line["type"] == "xen_write").collect();
    assert!(writes.iter().any(|write| write["xen_after"] == 0x2000), "{writes:?}");
    assert!(!lines.iter().any(|line| line["type"] == "msr_write"), "{lines:#?}");
}

static ELSEWHERE: Step = Step::every(
    "runstates set by another thread",
    "\
for backend in fentry kprobe tracepoint; do
    stealtrace trace --backend $backend --format json --output /tmp/elsewhere -- \
        stealtrace load run --xen --duration 1ms > /dev/null || exit
    cat /tmp/elsewhere
done",
);

/// As VMMs do that configure vCPUs on one thread: with the address of a runstate no kernel copies anything.
#[test]
fn whoever_only_says_where_a_runstate_lies_did_no_harm() {
    let run = where_they_are(&ELSEWHERE);
    assert_eq!(run.code, 0, "{}{}", run.stdout, run.stderr);
    let lines = json_lines(&run.stdout);
    let of = |rule: &str| lines.iter().filter(|line| line["rule"] == rule).collect::<Vec<_>>();
    let restores = of("foreign-steal-restore");
    assert_eq!(restores.len(), 6, "twice by each backend: {restores:#?}");
    for restore in restores {
        assert_eq!(restore["severity"], "notice", "{restore}");
        assert_eq!(restore["last_steal_before_ns"], restore["last_steal_after_ns"], "{restore}");
    }
    assert!(
        lines.iter().any(|line| line["xen_before"] == 0x2000 && line["xen_after"] == 0),
        "{}",
        run.stdout
    );
    assert!(!lines.iter().any(|line| line["type"] == "msr_write"), "{}", run.stdout);
}

#[test]
fn where_kvm_has_none_that_is_said() {
    for run in elsewhere(&INSPECTED) {
        assert_eq!((run.code, run.stdout.as_str()), (2, ""), "{}", run.stderr);
        assert!(run.stderr.contains("no runstate for guests of Xen"), "{}", run.stderr);
    }
    for run in elsewhere(&GUARDED) {
        for verdict in verdicts(run).values() {
            assert_eq!(verdict["status"], "skipped", "{verdict}");
            assert!(verdict["why"].as_str().is_some_and(|why| why.contains("CONFIG_KVM_XEN")), "{verdict}");
        }
    }
}

static INSPECTED: Step = Step::every(
    "guests of xen inspected",
    "\
stealtrace load run --xen --duration 1ms > /dev/null || exit
stealtrace load run --xen --duration 10m > /dev/null &
vm=$!
until ls -l /proc/$vm/fd | grep -q kvm-vcpu; do sleep 0.1; done
sleep 1
stealtrace inspect --wait 100ms --format json
code=$?
kill $vm
wait
exit $code",
);

#[test]
fn inspect_reads_the_guests_own_copy() {
    let run = where_they_are(&INSPECTED);
    let look = &json_lines(&run.stdout)[0];
    let vcpu = &look["vcpus"][0];
    assert_eq!((run.code, &vcpu["xen_enabled"], &vcpu["xen"]), (0, &true.into(), &0x2000.into()), "{look}");
    // By the clock, and by what the thread waited: the same but for what either takes to be read.
    let [counted, waited] =
        ["steal_ns", "last_steal_ns"].map(|field| vcpu[field].as_u64().expect("a number"));
    assert!(counted > 0 && counted <= waited + waited / 2 + 50_000_000, "{look}");
}

static GUARDED: Step = Step::every(
    "guests of xen guarded",
    "stealtrace guard --yes --format json -- stealtrace verify --no-trace --format json xen-hand-off-down xen-same-thread",
);

#[test]
fn guard_leaves_them_alone_and_says_so() {
    let run = where_they_are(&GUARDED);
    assert!(run.stderr.contains("guests of Xen are left alone"), "{}", run.stderr);
    let sum = json_lines(&run.stdout).into_iter().find(|line| line["repaired"].is_u64());
    let sum = sum.unwrap_or_else(|| panic!("no sum: {}", run.stdout));
    assert_eq!((&sum["repaired"], &sum["left"], &sum["lost"]), (&0.into(), &0.into(), &0.into()));
    let verdicts = verdicts(run);
    assert_eq!(verdicts["xen-hand-off-down"]["observed"], "corrupt", "{}", run.stdout);
    assert_eq!(verdicts["xen-same-thread"]["observed"], "sound", "{}", run.stdout);
}
