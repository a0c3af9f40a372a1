//! How traces end, and whom they follow.

use stealtrace_tests::{expected, findings, json_lines, summary};

use super::{Step, UNDERFLOW};

pub(crate) static STEPS: &[&Step] =
    &[&KILLED, &ONLY_THE_COMMAND, &ONLY_THE_PROCESS, &INTERRUPTED, &CLOSED_PIPE];

/// SIGKILL while tracing, then what is left of probes and programs.
static KILLED: Step = Step::every(
    "killed",
    "\
rm -f /tmp/started
stealtrace trace > /dev/null 2> /tmp/started &
pid=$!
until grep -qs tracing /tmp/started; do sleep 0.1; done
echo during $(grep -c kvm_vcpu_ioctl /sys/kernel/tracing/enabled_functions)
kill -9 $pid
wait $pid
until [ $(grep -c . /sys/kernel/tracing/enabled_functions) = 0 ]; do sleep 0.1; done
echo after 0",
);

#[test]
fn nothing_is_left_after_kill_9() {
    for step in KILLED.on_every() {
        assert!(step.stdout.contains("during 1"), "{}{}", step.stdout, step.stderr);
        assert!(step.stdout.contains("after 0"), "{}{}", step.stdout, step.stderr);
    }
}

/// A VM that corrupts runs beside the traced command.
static ONLY_THE_COMMAND: Step = Step::once(
    "only the command",
    "\
stealtrace verify --no-trace run-hand-off-down > /dev/null &
stealtrace trace --format json -- sh -c 'stealtrace verify --no-trace same-thread > /dev/null'
code=$?
wait
exit $code",
);

/// The traced process runs its VM after the trace began, and the trace ends with it.
static ONLY_THE_PROCESS: Step = Step::once(
    "only the process",
    "\
rm -f /tmp/started
sh -c 'until grep -qs tracing /tmp/started; do sleep 0.1; done; exec stealtrace verify --no-trace run-hand-off-down' > /dev/null &
stealtrace trace --format json --pid $! 2> /tmp/started",
);

#[test]
fn a_trace_follows_its_command_or_process_and_nobody_else() {
    let command = ONLY_THE_COMMAND.alone();
    assert_eq!(command.code, 0, "{}{}", command.stdout, command.stderr);
    assert_eq!(summary(&json_lines(&command.stdout))["vcpus"].as_array().map(Vec::len), Some(1));
    let process = ONLY_THE_PROCESS.alone();
    assert_eq!(process.code, 1, "{}{}", process.stdout, process.stderr);
    assert_eq!(findings(&json_lines(&process.stdout)), expected(UNDERFLOW));
}

static INTERRUPTED: Step = Step::once(
    "interrupted",
    "\
rm -f /tmp/started
stealtrace trace 2> /tmp/started &
pid=$!
until grep -qs tracing /tmp/started; do sleep 0.1; done
kill -INT $pid
wait $pid",
);

#[test]
fn ctrl_c_prints_the_summary() {
    let step = INTERRUPTED.alone();
    assert_eq!(step.code, 0, "{}{}", step.stdout, step.stderr);
    assert!(step.stdout.contains("lost: 0"), "{}", step.stdout);
}

static CLOSED_PIPE: Step =
    Step::once("closed pipe", "stealtrace trace -- stealtrace verify --no-trace same-thread | head -n 1");

#[test]
fn a_closed_pipe_is_quiet() {
    let step = CLOSED_PIPE.alone();
    assert_eq!(step.stderr, "");
    assert_eq!(step.stdout.lines().count(), 1, "{}", step.stdout);
}
