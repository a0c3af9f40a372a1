//! A real VMM with a real Linux guest: what stealtrace says is what QEMU and the guest say, through the guest's life.

use std::sync::LazyLock;

use stealtrace_tests::{Run, run, xtask};

const BOOT: &str = "boots and runs beside a busy host";
const RESTORE: &str = "is saved to a file and restored by another QEMU";
const RESET: &str = "is reset";
const REPLUG: &str = "loses a CPU and gets it again";
const RESET_AGAIN: &str = "is reset again";
const GUARDED: &str = "loses a CPU and gets it again, guarded";
const LIFE: [&str; 6] = [BOOT, RESTORE, RESET, REPLUG, RESET_AGAIN, GUARDED];

static PLAYED: LazyLock<Run> = LazyLock::new(|| run(xtask().args(["lab", "qemu-guest", "stock-6.1"])));

/// What was printed of this part of the guest's life.
fn part(name: &str) -> &'static str {
    let text = &PLAYED.stdout;
    // A lab that hung is booted once more: the last word counts.
    let (_, after) = text
        .rsplit_once(&format!("== {name}\n"))
        .unwrap_or_else(|| panic!("no {name} in {text}{}", PLAYED.stderr));
    after.split("== ").next().unwrap_or("")
}

fn lines<'a>(part: &'a str, word: &str) -> Vec<&'a str> {
    part.lines().map(str::trim_start).filter(|line| line.starts_with(word)).collect()
}

#[test]
fn threads_and_counters_are_what_qemus_monitor_says() {
    for name in LIFE {
        let part = part(name);
        let asked = part.lines().filter(|line| line.contains("in QEMU's monitor: thread"));
        assert_eq!(asked.count(), 2, "{part}");
        for witness in ["inspect: the same", "trace: the same", "the guest's own MSR: the same"] {
            assert_eq!(lines(part, witness).len(), 2, "{part}");
        }
        assert!(
            part.lines().any(|line| line.contains("fentry backend") && line.ends_with("lost: 0")),
            "{part}"
        );
    }
    assert_eq!(PLAYED.code, 0, "{}{}", PLAYED.stdout, PLAYED.stderr);
}

#[test]
fn booting_restoring_and_reset_corrupt_nothing_on_a_fixed_kernel() {
    for name in [BOOT, RESTORE, RESET, RESET_AGAIN] {
        let part = part(name);
        let errors: Vec<_> =
            lines(part, "error: ").into_iter().filter(|line| line.contains(" on vCPU ")).collect();
        // On a slow machine a re-plugged CPU's counter is still what it became when the trace of the reset begins.
        let is_from_before =
            |error: &&str| name == RESET_AGAIN && error.starts_with("error: steal-poisoned on");
        assert!(errors.iter().all(is_from_before), "{part}");
        assert_eq!(errors.is_empty(), part.contains("trace exits with 0"), "{part}");
        assert_nothing_wrapped(name);
    }
}

/// A guest that boots slowly on a busy host is charged all of that wait at its first run: more than it is up for. That
/// is KVM's own, the trace of the boot says so when it happens, and nothing wrapped.
fn assert_nothing_wrapped(name: &str) {
    let (part, boot) = (part(name), since_boot(name).concat());
    let errors = lines(part, "error: steal-poisoned: guest CPU");
    for error in &errors {
        let ticks = error.split("steal_ticks=").nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok());
        assert!(ticks.is_some_and(|ticks: u64| ticks < 1_000_000), "{error}"); // 2^64 ns are 1844674407370
        assert!(!lines(&boot, "warning: steal-over-charge on").is_empty(), "{boot}");
    }
    assert_eq!(errors.is_empty(), part.contains("guest exits with 0"), "{part}");
}

/// What was printed since the guest booted last, up to this part.
fn since_boot(name: &str) -> Vec<&'static str> {
    let until = LIFE.iter().position(|part| *part == name).expect(name);
    let boots = |part: &&str| [BOOT, RESET, RESET_AGAIN].contains(part);
    let from = LIFE[..=until].iter().rposition(boots).expect("it begins with a boot");
    LIFE[from..=until].iter().map(|name| part(name)).collect()
}

#[test]
fn waiting_for_a_busy_host_is_no_over_charge() {
    for warning in LIFE.iter().flat_map(|name| lines(part(name), "warning: steal-over-charge on")) {
        assert!(warning.contains("cause=first-run"), "{warning}");
    }
}

/// QEMU keeps the descriptor of a CPU that is unplugged, and runs it on a new thread when it is plugged in again. The
/// counter heals as that thread waits: whoever looks later may find it sound again. What the trace found was recorded when
/// it happened, and what the guest took for stolen stays in its /proc/stat.
#[test]
fn a_replugged_cpu_is_corrupt_and_the_guest_sees_it() {
    let part = part(REPLUG);
    let [error] = lines(part, "error: steal-underflow on")[..] else { panic!("one error: {part}") };
    assert!(error.contains("/1/1 at"), "not of vCPU 1: {error}");
    assert!(error.contains("CPU 1/KVM(") && error.contains("reached_guest=yes"), "{error}");
    let number =
        |name: &str| error.split(name).nth(1).and_then(|rest| rest.split(' ').next()?.parse::<i128>().ok());
    let [delta, run_delay, last_steal] =
        ["delta=", "run_delay=", "last_steal="].map(|name| number(name).expect(name));
    assert!(delta < 0 && delta == run_delay - last_steal, "{error}");
    assert!(number("steal_after=") > Some(1 << 63), "the guest's counter wrapped: {error}");
    assert!(part.contains("trace exits with 1") && part.contains("guest exits with 1"), "{part}");
}

#[test]
fn a_guarded_guest_sees_nothing_of_it() {
    let part = part(GUARDED);
    assert!(part.lines().any(|line| line == "1 repaired, 0 not, lost: 0"), "{part}");
    assert!(!lines(part, "inspect: the same").iter().any(|line| line.contains("poisoned")), "{part}");
    assert_nothing_wrapped(GUARDED);
}
