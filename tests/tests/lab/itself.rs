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
run() { echo $1 $(stealtrace load run --duration 20ms | cut -d' ' -f1); }
watched() {
    : > /tmp/started
    stealtrace trace --backend $1 --findings-only $2 > /dev/null 2> /tmp/started &
    pid=$!
    until grep -q tracing /tmp/started; do sleep 0.1; done
    run $1$2
    kill -INT $pid
    wait $pid
}
run unwatched
for backend in fentry kprobe tracepoint; do
    watched $backend --floor
    watched $backend
done";

/// Instructions that watching edges adds to a KVM_RUN of which there is nothing to tell, on Linux 6.1. They are the same
/// whatever the machine does, but for the kernel's and the compiler's versions.
const QUIET: [(&str, f64); 3] = [("fentry", 378.0), ("kprobe", 940.0), ("tracepoint", 1157.0)];

#[test]
fn where_there_is_nothing_to_tell_watching_stays_as_cheap_as_it_is() {
    let_all_boot();
    let counted = run(xtask().args(["lab", "run", "stock-6.1", "--icount", "--", "sh", "-c", COUNTED]));
    let count = |name: &str| -> f64 {
        let line = counted.stdout.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
        let count = line.and_then(|number| number.parse().ok());
        count.unwrap_or_else(|| panic!("no {name}: {}{}", counted.stdout, counted.stderr))
    };
    let unwatched = count("unwatched");
    for (backend, known) in QUIET {
        let (empty, edges) = (count(&format!("{backend}--floor")) - unwatched, count(backend) - unwatched);
        assert!(empty > 200.0, "{backend}: two probes were attached: {}", counted.stdout);
        assert!(edges > empty, "{backend}: ours do something: {}", counted.stdout);
        assert!(edges < 1.1 * known, "{backend}: {edges}, was {known}");
    }
}
