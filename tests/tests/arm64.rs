//! A host with another processor: pvtime of arm64, in one boot of one of its kernels.

use std::{collections::BTreeMap, sync::LazyLock};

use serde_json::Value;
use stealtrace_tests::{Run, Script, findings, json_lines, run, summary, xtask};

/// Its kvm is not at EL2, as on an older processor, and it has fentry.
const KERNEL: &str = "arm64-6.12";

/// What they see with is the same but for how it is come by: one plays everything.
const BACKENDS: [(&str, &str); 3] = [("fentry", ""), ("kprobe", DECIDING), ("tracepoint", DECIDING)];
const DECIDING: &str = "same-thread restore-by-main-thread replug guest-enables random-hand-offs restore-first-run \
                        pvtime-set-twice guest-enables-elsewhere";
/// Scenarios that arm64 has.
const ALL: usize = 24;

/// Those with words of its own.
const RULES: [&str; 4] = ["foreign-steal-restore", "steal-underflow", "runner-hand-off", "steal-over-charge"];

/// What only it has.
const OF_ARM64: [&str; 3] = ["restore-first-run", "pvtime-set-twice", "guest-enables-elsewhere"];

/// What corrupts there.
const CORRUPTING: &str = "run-hand-off-down run-hand-off-ping-pong replug random-hand-offs";
/// And what leaves the counter sound.
const SOUND: &str = "same-thread restore-by-runner vcpu-pool guest-enables memslot-replaced memory-rewound area-unbacked \
                     pinned-overcommit pvtime-set-twice guest-enables-elsewhere";

/// One vCPU that runs and one that does nothing; looks until one falls between two charges of the first, which is charged
/// seldom where emulators share the CPUs.
const INSPECTED: &str = "\
stealtrace load run --idle 1 --duration 10m > /dev/null &
vm=$!
until [ $(ls -l /proc/$vm/fd | grep -c kvm-vcpu) = 2 ]; do sleep 0.1; done
sleep 1
for look in $(seq 30); do
    stealtrace inspect --wait 100ms --format json > /tmp/look && grep -q '\"sound\"' /tmp/look && break
done
cat /tmp/look
stealtrace inspect --wait 100ms
kill $vm
wait";

/// A guard that is killed again and again beside hand-offs.
const KILLED: &str = "\
(until [ -f /tmp/enough ]; do
    stealtrace verify --no-trace --format json run-hand-off-ping-pong >> /tmp/verdicts
done) &
vm=$!
kills=0
until [ $kills = 60 ] || { [ $kills -ge 4 ] && grep -q repaired /tmp/repairs && [ -s /tmp/verdicts ]; }; do
    : > /tmp/started
    stealtrace guard --yes >> /tmp/repairs 2> /tmp/started &
    guard=$!
    until grep -qs guarding /tmp/started; do sleep 0.1; done
    sleep 0.$((kills % 9 + 1))
    kill -9 $guard
    wait $guard
    kills=$((kills + 1))
done
: > /tmp/enough
wait $vm
until [ $(grep -c . /sys/kernel/tracing/enabled_functions) = 0 ]; do sleep 0.1; done
echo nothing is left
cat /tmp/verdicts";

static STEPS: LazyLock<BTreeMap<String, Run>> = LazyLock::new(|| {
    let guarded = |options: &str, scenarios: &str| {
        format!(
            "stealtrace guard --yes {options} --format json -- sh -c \
             'stealtrace verify --no-trace --rounds 100 --format json {scenarios} > /tmp/verify; true' > /tmp/guard
             code=$?; cat /tmp/guard /tmp/verify; exit $code"
        )
    };
    let mut script = Script::default();
    for (backend, scenarios) in BACKENDS {
        let verify = format!("stealtrace verify --format json --rounds 300 --backend {backend} {scenarios}");
        script.step(backend, &verify);
    }
    script.step("corrupting", &guarded("", CORRUPTING));
    script.step("killed", KILLED);
    script.step("sound", &guarded("--over-charge", SOUND));
    let traced = "-- sh -c 'stealtrace verify --no-trace replug guest-enables restore-first-run pinned-overcommit > /tmp/verify'";
    script.step("traced", &format!("stealtrace trace --record /tmp/record --format json {traced}"));
    script.step("shown", "stealtrace analyze /tmp/record");
    script.step("inspected", INSPECTED);
    let rules = RULES.map(|rule| format!("stealtrace rules {rule}; ")).concat();
    script.step("words", &format!("{rules} stealtrace doctor; stealtrace verify --list; stealtrace guest"));
    script.step("absent", "stealtrace verify off-then-on");
    script.run(KERNEL)
});

fn step(name: &str) -> &'static Run {
    STEPS.get(name).unwrap_or_else(|| panic!("no step {name}"))
}

/// Of a verify in JSON.
fn verdicts(lines: &[Value]) -> Vec<&Value> {
    lines.iter().filter(|line| line["type"] == "verdict").collect()
}

#[test]
fn every_scenario_is_as_expected_and_both_witnesses_agree() {
    for (backend, scenarios) in BACKENDS {
        let Run { code, stdout, stderr } = step(backend);
        assert_eq!(*code, 0, "{stdout}{stderr}");
        let lines = json_lines(stdout);
        let summary = summary(&lines);
        assert_eq!([&summary["class"], &summary["witness"]], ["fixed", backend], "{summary}");
        assert_eq!([&summary["lost"], &summary["skipped"]], [0, 0], "{summary}");
        let verdicts = verdicts(&lines);
        for of_arm64 in OF_ARM64 {
            assert!(verdicts.iter().any(|verdict| verdict["scenario"] == of_arm64), "{of_arm64}");
        }
        let chosen = scenarios.split_whitespace().count();
        assert_eq!(verdicts.len(), if chosen == 0 { ALL } else { chosen }, "{stdout}");
        for verdict in verdicts {
            assert_eq!(verdict["observed"], verdict["expected"], "{backend}: {verdict}");
            assert_eq!(verdict["witnesses_agree"], true, "{backend}: {verdict}");
            let tally = &verdict["tally"];
            if verdict["scenario"] == "random-hand-offs" {
                assert!(tally["seen"].as_u64() > Some(50), "{verdict}");
                assert_eq!([&tally["missed"], &tally["false_reports"]], [0, 0], "{verdict}");
            }
        }
    }
}

#[test]
fn a_guarded_guest_sees_nothing_of_a_corruption() {
    let Run { code, stdout, stderr } = step("corrupting");
    assert_eq!(*code, 0, "{stdout}{stderr}");
    let lines = json_lines(stdout);
    for verdict in verdicts(&lines) {
        if verdict["scenario"] == "random-hand-offs" {
            let saw = verdict["guest_saw"].as_str().unwrap_or_default();
            assert!(saw.starts_with("100 hand-offs, 0 lowered the counter"), "{verdict}");
        } else {
            assert_eq!(verdict["observed"], "sound", "{verdict}");
        }
    }
    let guard = lines.iter().find(|line| line["repaired"].is_u64()).expect("guard counts");
    assert!(guard["repaired"].as_u64() > Some(30), "{guard}");
    assert_eq!([&guard["left"], &guard["lost"]], [0, 0], "{guard}");
}

/// Each counter is then what KVM left or what guard did: whole, and never in between.
#[test]
fn a_guard_that_is_killed_leaves_a_running_guest_and_no_probe() {
    let Run { stdout, stderr, .. } = step("killed");
    let (_, seen) = stdout.split_once("nothing is left\n").unwrap_or_else(|| panic!("{stdout}{stderr}"));
    let lines = json_lines(seen);
    let verdicts = verdicts(&lines);
    assert!(!verdicts.is_empty(), "{stdout}{stderr}");
    for verdict in verdicts {
        assert_ne!(verdict["observed"], "broken", "{verdict}");
    }
}

#[test]
fn guard_writes_nothing_where_nothing_is_corrupt() {
    let Run { code, stdout, stderr } = step("sound");
    assert_eq!(*code, 0, "{stdout}{stderr}");
    assert!(stdout.contains(r#""repaired":0,"left":0,"lost":0"#), "{stdout}");
    let lines = json_lines(stdout);
    let verdicts = verdicts(&lines);
    assert_eq!(verdicts.len(), SOUND.split_whitespace().count(), "{stdout}");
    for verdict in verdicts {
        assert_eq!(verdict["observed"], "sound", "{verdict}");
    }
}

#[test]
fn a_trace_tells_who_enabled_it_and_who_corrupted_it() {
    let Run { code, stdout, stderr } = step("traced");
    assert_eq!(*code, 1, "{stderr}");
    let lines = json_lines(stdout);
    let writes: Vec<_> = lines.iter().filter(|line| line["type"] == "pvtime_write").collect();
    let by = |host: bool| writes.iter().filter(|write| write["host_initiated"] == host).count();
    assert_eq!((by(true), by(false)), (6, 1), "six vCPUs, of which one's guest asked: {writes:?}");
    assert!(writes.iter().all(|write| write["pvtime_after"].is_u64()), "{writes:?}");
    let found = findings(&lines);
    assert_eq!(found.get("steal-underflow").map(String::as_str), Some("error"), "{found:?}");
    for rule in ["steal-backwards", "steal-rewound", "steal-poisoned"] {
        assert_eq!(found.get(rule), None, "{found:?}");
    }
}

/// QEMU sets the areas up, brings an old counter back, and reads and sets the clock of vCPUs from its main thread.
#[test]
fn a_linux_guest_that_qemu_restores_is_what_qemus_monitor_says() {
    let Run { code, stdout, stderr } = run(xtask().args(["lab", "qemu-guest", KERNEL, "--part", "restore"]));
    assert_eq!(code, 0, "{stdout}{stderr}");
    // A lab that hung is booted once more: the last word counts.
    let (_, part) =
        stdout.rsplit_once("== is saved to a file and restored by another QEMU\n").expect("the part");
    for witness in ["inspect: the same", "trace: the same", "the guest's own steal: no more"] {
        assert_eq!(part.matches(witness).count(), 2, "{part}");
    }
    assert!(!part.contains("error: "), "{part}");
    assert!(part.lines().any(|line| line.contains("fentry backend") && line.ends_with("lost: 0")), "{part}");
}

/// Also where a thread is preempted in a guest that never leaves.
#[test]
fn what_an_update_subtracted_is_what_the_counter_grew_by() {
    let lines = json_lines(&step("traced").stdout);
    let updates = lines.iter().filter(|line| line["type"] == "update" && line["steal_before_ns"].is_u64());
    let number =
        |update: &Value, name: &str| update[name].as_u64().unwrap_or_else(|| panic!("{name}: {update}"));
    let mut compared = 0;
    for update in updates {
        let grew =
            number(update, "steal_after_ns").wrapping_sub(number(update, "steal_before_ns")).cast_signed();
        assert_eq!(update["delta_ns"].as_i64(), Some(grew), "{update}");
        compared += 1;
    }
    assert!(compared > 20, "{compared}");
}

#[test]
fn inspect_finds_the_area_through_the_memory_slots() {
    let Run { code, stdout, stderr } = step("inspected");
    assert_eq!(*code, 0, "{stdout}{stderr}");
    let look: Value = stdout.lines().next().and_then(|line| serde_json::from_str(line).ok()).expect("JSON");
    let vcpus = look["vcpus"].as_array().expect("a list");
    assert_eq!(vcpus.len(), 2, "{look}");
    for vcpu in vcpus {
        assert_eq!(vcpu["pvtime_enabled"], true, "{look}");
        assert!(vcpu["runner_tid"].is_u64() && vcpu["steal_ns"].is_u64(), "{look}");
    }
    let mut judgements: Vec<_> = vcpus.iter().map(|vcpu| &vcpu["judgement"]).collect();
    judgements.sort_by_key(|judgement| judgement.as_str());
    assert_eq!(judgements, ["cannot tell", "sound"], "one does nothing: {look}");
}

/// What x86 alone has.
const OF_X86: [&str; 6] = ["MSR", "msr", "Linux 4.", "record_steal_time", ",-kvm-steal-time", "kvm_amd"];

#[test]
fn nothing_speaks_of_another_processor() {
    for name in ["shown", "inspected", "words"] {
        let Run { stdout, stderr, .. } = step(name);
        for word in OF_X86 {
            let mut lines = stdout.lines().chain(stderr.lines());
            let line = lines.find(|line| line.contains(word) && !line.starts_with("not here: "));
            assert_eq!(line, None, "{name}: {word}");
        }
    }
    let words = &step("words").stdout;
    assert!(words.contains("kvm-steal-time=off") && words.contains("not here: off-then-on: "), "{words}");
}

#[test]
fn a_scenario_that_is_absent_says_why() {
    let Run { code, stderr, .. } = step("absent");
    assert_eq!(*code, 2);
    assert!(
        stderr.contains("no scenario off-then-on on this host: stolen time cannot be disabled"),
        "{stderr}"
    );
}
