//! Every scenario with every backend: what each must show, no more and no less; and that a live run, its recording, and a
//! run that reports only edges show the same.

use serde_json::Value;
use stealtrace_tests::{Run, expected, findings, json_lines, summary};

use super::{Class, Findings, KERNELS, Kernel, Step, UNDERFLOW, number};

pub(crate) static STEPS: &[&Step] = &[
    &FENTRY.all,
    &FENTRY.edges,
    &FENTRY.recorded,
    &KPROBE.all,
    &KPROBE.edges,
    &KPROBE.recorded,
    &TRACEPOINT.all,
    &TRACEPOINT.edges,
    &TRACEPOINT.recorded,
    &RAW_TRACEPOINTS,
    &ONE_WITHOUT_FENTRY,
    &HARMLESS,
    &CHECKED,
];

const SCENARIOS: [&str; 9] = [
    "same-thread",
    "restore-by-main-thread",
    "run-hand-off-down",
    "configure-then-start",
    "housekeeping-from-main",
    "replug",
    "replug-off",
    "vcpu-pool",
    "memory-rewound",
];

/// One backend's steps.
struct Traced {
    backend: &'static str,
    all: Step,
    edges: Step,
    recorded: Step,
}

const EDGES: &str = "cat /tmp/edges; exit $(cat /tmp/edges.code)";
const RECORDED: &str = "stealtrace analyze --format json /tmp/recording";

static FENTRY: Traced = Traced {
    backend: "fentry",
    all: Step::made("fentry", |kernel| traced_twice("fentry", kernel)),
    edges: Step::every("fentry, edges", EDGES),
    recorded: Step::every("fentry, recorded", RECORDED),
};
static KPROBE: Traced = Traced {
    backend: "kprobe",
    all: Step::made("kprobe", |kernel| traced_twice("kprobe", kernel)),
    edges: Step::every("kprobe, edges", EDGES),
    recorded: Step::every("kprobe, recorded", RECORDED),
};
static TRACEPOINT: Traced = Traced {
    backend: "tracepoint",
    all: Step::made("tracepoint", |kernel| traced_twice("tracepoint", kernel)),
    edges: Step::every("tracepoint, edges", EDGES),
    recorded: Step::every("tracepoint, recorded", RECORDED),
};

/// Every one.
static BACKENDS: [&Traced; 3] = [&FENTRY, &KPROBE, &TRACEPOINT];

/// Two traces watch the same run: one reports everything and records it, the one around it only edges. Each scenario is a
/// process of its own, by whose number what is found is told apart.
fn traced_twice(backend: &str, kernel: &Kernel) -> String {
    let (scenarios, class) = (SCENARIOS.join(" "), kernel.class.word());
    format!(
        "\
cat > /tmp/play <<'END'
for scenario in {scenarios}; do
    stealtrace verify --no-trace --expect {class} $scenario > /tmp/verify &
    wait $!
    echo \"played $scenario $! $?\" >&2
done
END
stealtrace trace --findings-only --format json --backend {backend} --output /tmp/edges -- sh -c '
    stealtrace trace --format json --backend {backend} --record /tmp/recording -- sh /tmp/play
    echo $? > /tmp/all.code'
echo $? > /tmp/edges.code
exit $(cat /tmp/all.code)"
    )
}

/// What one run of all scenarios showed, by scenario.
struct Shown {
    code: i32,
    lines: Vec<Value>,
    /// Scenario and process.
    played: Vec<(String, u64)>,
}

impl Shown {
    fn of(step: &Run, played: &Run) -> Self {
        let parse = |line: &str| {
            let mut words = line.strip_prefix("played ")?.split(' ');
            let (scenario, pid) = (words.next()?.to_owned(), words.next()?.parse().ok()?);
            // A scenario alone seldom tells a class, which is inconclusive; it is the trace that is looked at.
            assert!(matches!(words.next(), Some("0" | "3")), "{line}");
            Some((scenario, pid))
        };
        let played: Vec<_> = played.stderr.lines().filter_map(parse).collect();
        assert_eq!(played.len(), SCENARIOS.len(), "{}", step.stderr);
        assert!(!step.stdout.is_empty(), "{}", step.stderr);
        let shown = Self { code: step.code, lines: json_lines(&step.stdout), played };
        let is_of_one =
            |finding: &Value| shown.played.iter().any(|(_, pid)| finding["vm_pid"].as_u64() == Some(*pid));
        let of_nobody: Vec<_> =
            found(&shown.lines).into_iter().filter(|finding| !is_of_one(finding)).collect();
        assert!(of_nobody.is_empty(), "{of_nobody:?}");
        shown
    }

    /// Those of one scenario.
    fn scenario(&self, name: &str) -> Vec<Value> {
        let pid = self.played.iter().find(|(played, _)| played == name).map(|(_, pid)| *pid);
        self.lines.iter().filter(|line| line["vm_pid"].as_u64() == pid).cloned().collect()
    }
}

impl Traced {
    fn shown(&self, kernel: &'static Kernel) -> Shown {
        let all = self.all.on_kernel(kernel);
        Shown::of(all, all)
    }
}

#[test]
fn a_live_run_its_recording_and_edges_tell_the_same() {
    for traced in BACKENDS {
        for kernel in &KERNELS {
            let (live, all) = (traced.shown(kernel), traced.all.on_kernel(kernel));
            let recorded = Shown::of(traced.recorded.on_kernel(kernel), all);
            let edges = Shown::of(traced.edges.on_kernel(kernel), all);
            let types = ["start", "finding", "summary"];
            assert!(edges.lines.iter().all(|line| types.iter().any(|known| line["type"] == *known)));
            for scenario in SCENARIOS {
                let of = |shown: &Shown| found(&shown.scenario(scenario));
                let about = format!("{} {} {scenario}", kernel.name, traced.backend);
                assert_eq!(of(&recorded), of(&live), "{about}");
                let may_lose = scenario == "memory-rewound" && kernel.class == Class::Affected;
                if may_lose && a_charge_was_lost(&live.scenario(scenario)) {
                    assert_eq!(findings(&of(&edges)), findings(&of(&live)), "{about}");
                } else {
                    assert_eq!(timeless(of(&edges)), timeless(of(&live)), "{about}");
                }
            }
            assert_eq!(
                (recorded.code, edges.code),
                (live.code, live.code),
                "{} {}",
                kernel.name,
                traced.backend
            );
        }
    }
}

fn found(lines: &[Value]) -> Vec<Value> {
    lines.iter().filter(|line| line["type"] == "finding").cloned().collect()
}

/// Did the guest get less than a delta? A kernel that assigns deltas at load loses one when it schedules the thread out
/// before the guest runs. Edges, which look at no quiet entry, then cannot tell what counter a rewound guest began with.
fn a_charge_was_lost(lines: &[Value]) -> bool {
    let is_less = |line: &Value| {
        number(line, "steal_after_ns") - number(line, "steal_before_ns") < number(line, "delta_ns")
    };
    let is_known = |line: &Value| !line["steal_before_ns"].is_null() && !line["steal_after_ns"].is_null();
    lines.iter().any(|line| line["type"] == "update" && is_known(line) && is_less(line))
}

/// Every field but what two clocks tell.
fn timeless(findings: Vec<Value>) -> Vec<String> {
    let timeless = |mut finding: Value| {
        for field in ["time_ns", "time_passed_ns", "over_charge_ns"] {
            if let Some(value) = finding.get_mut(field) {
                *value = Value::from(value.is_null());
            }
        }
        finding.to_string()
    };
    let mut found: Vec<_> = findings.into_iter().map(timeless).collect();
    found.sort();
    found
}

const POOL: Findings<'_> = &[("runner-hand-off", "notice")];
const REWOUND: Findings<'_> = &[("steal-rewound", "notice")];

/// In the order of [`SCENARIOS`].
const ON_FIXED: [Findings<'_>; SCENARIOS.len()] = [
    &[],
    &[("cross-thread-ioctl", "notice"), ("foreign-steal-restore", "warning")],
    UNDERFLOW,
    &[("foreign-steal-restore", "notice")],
    &[("cross-thread-ioctl", "warning")],
    UNDERFLOW,
    &[("runner-hand-off", "notice"), ("steal-underflow", "error")],
    POOL,
    REWOUND,
];
const ON_AFFECTED: [Findings<'_>; SCENARIOS.len()] = [
    &[],
    &[("cross-thread-ioctl", "notice"), ("foreign-steal-restore", "error"), ("steal-underflow", "error")],
    UNDERFLOW,
    &[("foreign-steal-restore", "error"), ("steal-underflow", "error")],
    // The housekeeper's negative delta is overwritten; what reaches the guest is the runner's past, charged again.
    &[("cross-thread-ioctl", "warning"), ("steal-underflow", "warning"), ("steal-over-charge", "warning")],
    UNDERFLOW,
    // The guest enabled steal time on the new thread: what the old one had waited is forgotten.
    &[("runner-hand-off", "notice")],
    POOL,
    REWOUND,
];

#[test]
fn each_kernel_shows_what_it_does_wrong_and_nothing_else() {
    for traced in BACKENDS {
        for kernel in &KERNELS {
            let shown = traced.shown(kernel);
            let about = format!("{} {}", kernel.name, traced.backend);
            let wanted = match kernel.class {
                Class::Affected => ON_AFFECTED,
                Class::Fixed => ON_FIXED,
            };
            for (scenario, wanted) in SCENARIOS.into_iter().zip(wanted) {
                let lines = shown.scenario(scenario);
                assert_eq!(findings(&lines), expected(wanted), "{about} {scenario}");
                let ran = |line: &Value| line["type"] != "finding" && line["ioctl"] == "KVM_RUN";
                assert!(lines.iter().any(ran), "{about} {scenario}: nothing seen");
            }
            let summary = summary(&shown.lines);
            assert_eq!(summary["lost"], 0, "{about}");
            assert_eq!(summary["source"], format!("{} backend", traced.backend));
            assert_eq!(shown.code, 1, "{about}: {summary}");
        }
    }
}

/// The finding of this rule with this severity.
fn finding<'a>(lines: &'a [Value], rule: &str, severity: &str) -> &'a Value {
    let is_it = |line: &&Value| line["rule"] == rule && line["severity"] == severity;
    lines.iter().find(is_it).unwrap_or_else(|| panic!("no {severity} {rule}"))
}

#[test]
fn the_bug_report_names_both_threads_and_the_wrapped_counter() {
    let affected = Class::Affected.kernels().next().expect("there is one");
    for traced in BACKENDS {
        let backend = traced.backend;
        let lines = traced.shown(affected).scenario("restore-by-main-thread");
        let underflow = finding(&lines, "steal-underflow", "error").clone();
        let underflow = &underflow;
        // On a busy host a scenario may be played again, with another VM.
        let same_vm: Vec<_> = lines.into_iter().filter(|line| line["vm"] == underflow["vm"]).collect();
        let restore = finding(&same_vm, "foreign-steal-restore", "error");
        assert_eq!(underflow["last_steal_of_tid"], restore["restorer_tid"], "{backend}");
        assert_eq!(underflow["caller_tid"], restore["runner_tid"], "{backend}");
        assert_ne!(underflow["caller_tid"], underflow["last_steal_of_tid"], "{backend}");
        assert_eq!(number(underflow, "last_steal_ns"), number(restore, "restorer_run_delay_ns"), "{backend}");
        let delta = number(underflow, "run_delay_ns") - number(underflow, "last_steal_ns");
        assert_eq!(number(underflow, "delta_ns"), delta, "{backend}");
        assert!(delta < 0, "{backend}");
        assert_eq!(number(underflow, "steal_before_ns"), 0, "{backend}");
        assert_eq!(number(underflow, "steal_after_ns"), (1_i128 << 64) + delta, "{backend}");
    }
}

#[test]
fn a_hand_off_sets_the_guests_counter_back_by_the_delta() {
    for kernel in Class::Fixed.kernels() {
        for traced in BACKENDS {
            let lines = traced.shown(kernel).scenario("run-hand-off-down");
            let underflow = finding(&lines, "steal-underflow", "error");
            assert_eq!(underflow["steal_backwards"], "yes");
            let change = number(underflow, "steal_after_ns") - number(underflow, "steal_before_ns");
            assert_eq!(change, number(underflow, "delta_ns"), "{} {}", kernel.name, traced.backend);
        }
    }
}

/// How many instructions the kernel follows until it lets each program in, by way and volume.
static CHECKED: Step = Step::every(
    "programs checked",
    "\
for backend in fentry kprobe tracepoint; do
    for volume in '' --findings-only; do
        stealtrace trace --backend $backend $volume > /dev/null 2> /tmp/said &
        until grep -qs tracing /tmp/said; do sleep 0.1; done
        cat /proc/$!/fdinfo/* | grep verified_insns
        echo of $backend $volume
        kill $!
        wait
    done
done",
);

/// What the verifier takes is most of a start: with snapshots on its stack, one of these took it ten times as much.
#[test]
fn no_program_keeps_the_verifier_for_long() {
    for step in CHECKED.on_every() {
        let counts = step.stdout.lines().filter_map(|line| line.strip_prefix("verified_insns:"));
        let counts: Vec<u64> = counts.map(|count| count.trim().parse().expect("a number")).collect();
        assert!(counts.len() >= 20 && counts.iter().all(|count| *count < 15_000), "{}", step.stdout);
    }
}

static HARMLESS: Step = Step::every(
    "harmless",
    "stealtrace trace --findings-only --format json -- \
         sh -c 'stealtrace verify --no-trace housekeeping-from-main vcpu-pool memory-rewound > /dev/null; true'",
);

#[test]
fn notices_and_warnings_alone_are_no_failure() {
    for (kernel, step) in HARMLESS.runs() {
        let found = findings(&json_lines(&step.stdout));
        assert!(!found.is_empty() && !found.values().any(|severity| severity == "error"), "{found:?}");
        assert_eq!(step.code, 0, "{}: {}{}", kernel.name, step.stdout, step.stderr);
    }
}

/// Without tracefs there are no tracepoints of single system calls.
static RAW_TRACEPOINTS: Step = Step::every(
    "raw tracepoints",
    "\
umount /sys/kernel/tracing
stealtrace trace --backend tracepoint --findings-only --format json -- \
    sh -c 'stealtrace verify --no-trace run-hand-off-down > /dev/null'
code=$?
mount -t tracefs tracefs /sys/kernel/tracing
exit $code",
);

#[test]
fn raw_tracepoints_serve_where_tracefs_is_not_mounted() {
    for step in RAW_TRACEPOINTS.on_every() {
        assert_eq!(step.code, 1, "{}{}", step.stdout, step.stderr);
        assert_eq!(findings(&json_lines(&step.stdout)), expected(UNDERFLOW), "{}", step.stdout);
        assert!(step.stdout.contains(r#""probe":"sys_enter""#), "{}", step.stdout);
    }
}

/// As where the types of kvm do not tell of one function: the others have fentry all the same.
static ONE_WITHOUT_FENTRY: Step = Step::every(
    "one function without fentry",
    "\
sed s/kvm_set_msr_common/kvm_set_msr_commo_/ /sys/kernel/btf/kvm > /tmp/btf
mount -o bind /tmp/btf /sys/kernel/btf/kvm
stealtrace trace -v --findings-only --format json -- \
    sh -c 'stealtrace verify --no-trace restore-by-main-thread > /dev/null'
code=$?
umount /sys/kernel/btf/kvm
exit $code",
);

#[test]
fn a_function_that_fentry_is_not_to_be_had_for_gets_a_kprobe_and_the_summary_says_so() {
    for (kernel, step) in ONE_WITHOUT_FENTRY.runs() {
        let lines = json_lines(&step.stdout);
        let source = &summary(&lines)["source"];
        assert_eq!(source, "fentry backend (kvm_set_msr_common by kprobe)", "{}", step.stderr);
        let why = "kvm_set_msr_common not by fentry: no kvm_set_msr_common among the kernel's types";
        assert!(step.stderr.contains(why), "{}", step.stderr);
        let restored = lines.iter().any(|line| line["rule"] == "foreign-steal-restore");
        assert!(restored, "{}: {}", kernel.name, step.stdout);
    }
}
