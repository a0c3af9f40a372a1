//! The lab itself: results are passed on as they are, a panic or a hang is not a result, and what watching costs there is
//! counted in instructions.

use stealtrace_tests::{Run, run, xtask};

use super::let_all_boot;

/// Serial lines of the lab carry output and exit codes as they are, and a panic or a hang is not a result.
#[test]
fn the_lab_passes_results_on_and_reports_its_own_failures() {
    let_all_boot();
    let lab = |command: &str| lab_that_may_fail(&["--", "sh", "-c", command]);
    let result = lab("printf 'a\\nb'; echo oops >&2; exit 7");
    assert_eq!((result.code, result.stdout.as_str()), (7, "a\nb"));
    assert!(result.stderr.contains("oops"), "{}", result.stderr);
    let result = lab("echo c > /proc/sysrq-trigger; sleep 600");
    assert_eq!(result.code, 125, "{}", result.stderr);
    assert!(result.stderr.contains("console.log"), "{}", result.stderr);
}

#[test]
fn a_hang_is_told_with_its_step_and_every_thread_and_tried_again() {
    let_all_boot();
    let hangs = "echo 'step of sleeping' > /dev/ttyS3; echo last words > /tmp/console; sleep 600";
    let result = lab_that_may_fail(&["--timeout", "3", "--", "sh", "-c", hangs]);
    assert_eq!(result.code, 125, "{}", result.stderr);
    for part in [
        "RETRY",
        "in \"of sleeping\"",
        "RIP=",
        "LVTT",
        "sleep S",
        "hrtimer_nanosleep",
        "the end of /tmp/console\nlast words",
    ] {
        assert!(result.stderr.replace('\r', "").contains(part), "no {part:?}: {}", result.stderr);
    }
}

/// Its retries are no news.
fn lab_that_may_fail(arguments: &[&str]) -> Run {
    run(xtask().args(["lab", "run", "stock-6.1"]).args(arguments).env_remove("STEALTRACE_LEDGER"))
}

/// Instructions per KVM_RUN, unwatched, with empty programs on the probes, and with ours.
const COUNTED: &str = "\
run() { stealtrace load run --duration 20ms | cut -d' ' -f1; }
watched() {
    : > /tmp/started
    stealtrace trace --backend kprobe --findings-only $1 > /dev/null 2> /tmp/started &
    pid=$!
    until grep -q tracing /tmp/started; do sleep 0.1; done
    run
    kill -INT $pid
    wait $pid
}
run
watched --floor
watched";

/// A wide margin: 1.5 times is what is aimed at, by a clock that counts instructions.
#[test]
fn watching_edges_costs_little_more_than_empty_programs() {
    let_all_boot();
    let counted = run(xtask().args(["lab", "run", "stock-6.1", "--icount", "--", "sh", "-c", COUNTED]));
    let numbers: Vec<f64> = counted.stdout.lines().filter_map(|line| line.parse().ok()).collect();
    let [unwatched, empty, edges] = numbers[..] else { panic!("{}{}", counted.stdout, counted.stderr) };
    assert!(empty > unwatched + 300.0, "two probes were attached: {numbers:?}");
    assert!(edges > empty, "ours do something: {numbers:?}");
    assert!(edges - unwatched < 2.5 * (empty - unwatched), "{numbers:?}");
}
