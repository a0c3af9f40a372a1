//! Logs of other tools, and what of them proves nothing.

use std::{
    fs,
    io::{self, Write as _},
    process::Command,
};

use serde_json::Value;
use stealtrace_tests::{expected, findings, json_lines, run, stealtrace, summary};

use super::{analyze, analyze_bytes, analyze_written, assert_golden, evidence, folder, recording};

#[test]
fn the_bug_reports_evidence_reads_as_it_should() {
    for (name, code) in
        [("systemtap", 1), ("strace", 0), ("proc-stat", 1), ("xp-bytes", 1), ("xp-decimal", 0)]
    {
        let file = evidence(&format!("{name}.txt"));
        assert_golden(&format!("{name}.txt"), &[&file], code);
        assert_golden(&format!("{name}.json"), &["--format", "json", &file], code);
    }
}

#[test]
fn a_logs_processes_have_their_own_descriptors_and_refused_ioctls_are_none() {
    let file = std::env::temp_dir().join(format!("stealtrace-two-{}", std::process::id()));
    let vmm = |tid: u32| {
        format!(
            "{tid} ioctl(5, KVM_CREATE_VCPU, 0) = 7\n{tid} ioctl(7, KVM_RUN, 0) = 0\n{tid} ioctl(7, KVM_RUN, 0) = 0\n"
        )
    };
    let refused = "12 ioctl(7, KVM_RUN, 0) = -1 EIO (Input/output error)\n";
    let log = format!("1 fork() = 11\n1 fork() = 12\n{}{}{refused}{}", vmm(11), vmm(12), vmm(11));
    fs::write(&file, log).expect("write");
    let result = analyze(&["--kind", "strace", "--format", "json", &file.display().to_string()]);
    fs::remove_file(&file).expect("remove");
    let lines = json_lines(&result.stdout);
    assert_eq!(findings(&lines), expected(&[]), "{}", result.stdout);
    let runners: Vec<_> =
        lines.iter().filter(|line| line["ioctl"] == "KVM_RUN").map(|line| line["vm_pid"].as_u64()).collect();
    assert_eq!(runners, [11, 11, 12, 12, 11, 11].map(Some));
}

#[test]
fn what_was_not_understood_proves_nothing() {
    for kind in ["systemtap", "strace", "proc-stat", "xp"] {
        for text in ["", "\n \n", "\u{7f}ELF\u{2}\n\u{1}\n"] {
            let result = analyze_bytes(&["--kind", kind], text.as_bytes());
            assert_eq!(result.code, 3, "{kind} {text:?}: {}", result.stdout);
            assert!(result.stdout.contains("inconclusive: "), "{kind} {text:?}: {}", result.stdout);
        }
    }
    for text in ["", "\n\n"] {
        assert_eq!(analyze_bytes(&[], text.as_bytes()).code, 3, "{text:?}");
    }
    for stat in [
        "cpu0 1 2 3 4 5 6 7 -8 0 0\n",
        "cpu0 1 2 3 4 5 6 7 18446744073709551616 0 0\n",
        "cpu0 18446744073709551615 18446744073709551615 3 4 5 6 7 8 0 0\n",
        "cpu0 1 2 3 4 5 6 7 8 0 0\ncpu1 1 2 3 4 5 6 7 -8 0 0\n",
    ] {
        let result = analyze_bytes(&[], stat.as_bytes());
        assert_eq!(result.code, 3, "{stat}: {}", result.stdout);
    }
}

#[test]
fn a_log_without_what_its_kind_is_evidence_by_proves_nothing() {
    for (kind, text) in [
        ("strace", "10 openat(AT_FDCWD, \"/dev/kvm\", O_RDWR) = 3\n10 ioctl(3, KVM_CREATE_VM, 0) = 4\n"),
        ("systemtap", " 0 q(2): -> kvm_arch_vcpu_load\n"),
        ("proc-stat", "cpu  1 2 3 4 5 6 7 8 0 0\n"),
        ("xp", "(qemu) xp /8b 0x1fc0cfc0\n000000001fc0cfc0: 0x94 0x57\n"),
    ] {
        let result = analyze_bytes(&["--kind", kind], text.as_bytes());
        assert_eq!(result.code, 3, "{kind}: {}", result.stdout);
    }
}

#[test]
fn too_few_bytes_of_a_counter_are_said() {
    let text = "(qemu) xp /8b 0x1fc0cfc0\n000000001fc0cfc0: 0x94 0x57\n(qemu) xp /gx 0x2000\n0000000000002000: 0x7\n";
    let result = analyze_bytes(&[], text.as_bytes());
    assert_eq!(result.code, 3, "{}", result.stdout);
    assert!(result.stdout.contains("print all of one with `xp /8xb ADDRESS`"), "{}", result.stdout);
}

#[test]
fn a_reboot_between_two_snapshots_is_no_finding() {
    let stat = "900.00 1.00\ncpu0 9 0 0 900 0 0 0 800 0 0\n7.00 1.00\ncpu0 1 0 0 600 0 0 0 2 0 0\n";
    let result = analyze_bytes(&[], stat.as_bytes());
    assert_eq!(result.code, 0, "{}", result.stdout);
    assert!(result.stdout.contains("rebooted"), "{}", result.stdout);
}

#[test]
fn the_table_and_the_total_add_up() {
    let lines = json_lines(&analyze(&["--format", "json", &evidence("strace.txt")]).stdout);
    let sum = |list: &Value, key: &str| -> u64 {
        list.as_array().expect("a list").iter().filter_map(|entry| entry[key].as_u64()).sum()
    };
    let summary = summary(&lines);
    let total = sum(&summary["findings"], "count");
    assert_eq!((sum(&summary["vcpus"], "findings"), total), (24, 24));
}

#[test]
fn where_a_log_has_no_times_none_are_shown() {
    let text = fs::read_to_string(evidence("strace.txt")).expect("the evidence");
    assert!(!analyze_bytes(&[], text.as_bytes()).stdout.contains("0.000000 s"));
    let timed = text.replace("] ioctl", "] 00:00:01.5 ioctl");
    assert!(analyze_bytes(&[], timed.as_bytes()).stdout.contains("1.500000 s"));
}

#[test]
fn numbers_unfinished_calls_and_dumps_of_strace_are_read() {
    let log = "10 ioctl(9, 0xae41, 0) = 11\n\
               10 ioctl(11, 0xae80 /* KVM_RUN */, 0) = 0 (KVM_EXIT_IO)\n \
               VCPU:0> {request_interrupt_window=0, exit_reason=2 /* KVM_EXIT_IO */}\n\
               12 ioctl(11, 0xae80, 0 <unfinished ...>\n";
    let result = analyze_bytes(&["--format", "json"], log.as_bytes());
    let lines = json_lines(&result.stdout);
    assert_eq!(findings(&lines), expected(&[("runner-hand-off", "notice")]));
    assert_eq!(summary(&lines)["vcpus"][0]["runner_tid"], 12);
    assert!(result.stdout.contains("4 lines read, 0 not understood"), "{}", result.stdout);
}

#[test]
fn a_bound_that_is_hit_is_a_loss() {
    let log: String = (10..100_010)
        .map(|fd| format!("ioctl(9, KVM_CREATE_VCPU, 0) = {fd}\nioctl({fd}, KVM_RUN, 0) = 0\n"))
        .collect();
    let result = analyze_bytes(&["--format", "json", "--findings-only"], log.as_bytes());
    assert_eq!(result.code, 3);
    let lines = json_lines(&result.stdout);
    let [events, lost] = ["events", "lost"].map(|key| summary(&lines)[key].as_u64().unwrap_or_default());
    assert!(lost > 0 && events + lost == 200_000, "{events} {lost}");
}

/// A kind of log, and its line of this number.
type Endless = (&'static str, fn(u64) -> String);

/// Every line is about something else, which a reader would have to remember.
#[test]
fn logs_without_end_need_no_memory_without_end() {
    const LINES: u64 = 2_000_000;
    const MOST_KIB: u64 = 1 << 20;
    let logs: [Endless; 6] = [
        ("strace", |n| format!("{n} ioctl({n}, KVM_RUN, 0) = 0\n")),
        ("strace", |n| format!("{n} ioctl(5, {:#x}, 0) = 0\n", 0x1_ae00 + (n << 17 & 0xfff0_0000))),
        ("strace", |n| format!("{n} ioctl(9, KVM_CREATE_VCPU, 0 <unfinished ...>\n")),
        ("systemtap", |n| format!("** 1 q{n}({n}): delta: 1 ns, steal=9 ns, run_delay={} ns\n", n % 9)),
        ("proc-stat", |n| format!("cpu{n} 0 0 0 9 0 0 0 9999999 0 0\n")),
        ("xp", |n| format!("{:016x}: 0xf000000000000000\n", n * 64)),
    ];
    for (kind, line) in logs {
        let limited =
            format!("ulimit -v {MOST_KIB}; exec \"$0\" analyze --findings-only --kind {kind} - > /dev/null");
        let mut shell = Command::new("sh");
        shell.args(["-c", &limited]).arg(stealtrace().get_program());
        let run = analyze_written(&mut shell, |to| {
            let mut to = io::BufWriter::with_capacity(1 << 20, to);
            (1..=LINES).try_for_each(|n| to.write_all(line(n).as_bytes()))
        });
        assert!([1, 3].contains(&run.code), "{kind}: {}: {}", run.code, run.stderr);
    }
}

#[test]
fn a_file_that_is_nothing_we_know_says_what_was_expected() {
    let result = analyze(&[&folder("Cargo.toml").display().to_string()]);
    assert_eq!(result.code, 2);
    assert_eq!(result.stderr.lines().count(), 1, "{}", result.stderr);
    for kind in ["recording", "systemtap", "strace", "/proc/stat", "xp"] {
        assert!(result.stderr.contains(kind), "{}", result.stderr);
    }
}

#[test]
fn a_file_that_is_not_there_is_exit_2() {
    let result = analyze(&["/no/such/file"]);
    assert_eq!(result.code, 2);
    assert!(result.stderr.contains("/no/such/file"), "{}", result.stderr);
}

#[test]
fn lines_not_understood_are_counted_not_refused() {
    let result = analyze(&[&evidence("strace.txt")]);
    assert!(result.stdout.contains("35 lines read, 4 not understood"), "{}", result.stdout);
}

#[test]
fn colour_and_utc_are_there_when_asked_for() {
    let file = recording("stock-6.1.stealtrace");
    let coloured = analyze(&["--color", "always", &file]).stdout;
    assert!(coloured.contains("\u{1b}[1;31m  error\u{1b}[0m: steal-underflow"), "{coloured}");
    assert!(!analyze(&[&file]).stdout.contains('\u{1b}'));
    let utc = analyze(&["--utc", &file]).stdout;
    assert!(utc.lines().next().is_some_and(|line| line.contains("Z ") && line.contains("T")), "{utc}");
}

#[test]
fn rules_are_explained() {
    let list = run(stealtrace().arg("rules")).stdout;
    for rule in [
        "cross-thread-ioctl",
        "foreign-steal-restore",
        "runner-hand-off",
        "steal-underflow",
        "steal-backwards",
        "steal-rewound",
        "steal-over-charge",
        "steal-poisoned",
    ] {
        assert!(list.contains(rule), "{list}");
        let about = run(stealtrace().args(["rules", rule]));
        assert_eq!(about.code, 0);
        for part in ["Why it matters", "Evidence", "What to do"] {
            assert!(about.stdout.contains(part), "{}", about.stdout);
        }
    }
    let unknown = run(stealtrace().args(["rules", "no-such"]));
    assert_eq!(unknown.code, 2);
    assert!(unknown.stderr.contains("steal-underflow"), "{}", unknown.stderr);
}
