//! `stealtrace analyze` on files: what it prints is compared with golden files, word for word.
//! `UPDATE_GOLDEN=1` writes them anew; read the difference before you keep it.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::Value;
use stealtrace_tests::{Run, expected, findings, json_lines, run, stealtrace, summary};

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn evidence(name: &str) -> String {
    folder("evidence").join(name).display().to_string()
}

fn recording(name: &str) -> String {
    folder("recordings").join(name).display().to_string()
}

fn analyze(args: &[&str]) -> Run {
    run(stealtrace().arg("analyze").args(args))
}

/// The output must be the golden file's.
fn assert_golden(name: &str, args: &[&str], code: i32) {
    let result = analyze(args);
    assert_eq!(result.code, code, "{args:?}: {}", result.stderr);
    assert_eq!(result.stderr, "", "{args:?}");
    let golden = folder("golden").join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&golden, &result.stdout).expect("write the golden file");
    }
    let wanted = fs::read_to_string(&golden).unwrap_or_default();
    assert!(
        result.stdout == wanted,
        "{} differs:\n--- golden\n{wanted}\n--- now\n{}",
        golden.display(),
        result.stdout
    );
}

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
fn recordings_of_the_lab_read_as_the_live_traces_did() {
    for (name, code) in [("unfixed-6.1", 1), ("stock-6.1", 1)] {
        let file = recording(&format!("{name}.stealtrace"));
        assert_golden(&format!("{name}.txt"), &[&file], code);
        assert_golden(&format!("{name}.json"), &["--format", "json", &file], code);
        assert_golden(&format!("{name}-calls.txt"), &["--calls", &file], code);
    }
}

#[test]
fn a_filter_that_leaves_nothing_proves_nothing() {
    let recording = recording("unfixed-6.1.stealtrace");
    for filter in [["--pid", "99999"], ["--tid", "99999"], ["--comm", "nobody"], ["--vcpu", "77"]] {
        for file in [&recording, &evidence("strace.txt"), &evidence("proc-stat.txt")] {
            let result = analyze(&[filter[0], filter[1], file]);
            assert!(result.code != 0, "{filter:?} {file}: {}", result.stdout);
        }
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
fn what_calls_shows_reads_as_the_systemtap_script_did() {
    let shown = analyze(&["--calls", &recording("unfixed-6.1.stealtrace")]);
    let file = std::env::temp_dir().join(format!("stealtrace-calls-{}", std::process::id()));
    fs::write(&file, &shown.stdout).expect("write");
    let read = analyze(&["--kind", "systemtap", "--format", "json", &file.display().to_string()]);
    fs::remove_file(&file).expect("remove");
    assert_eq!(findings(&json_lines(&read.stdout)), expected(&[("steal-underflow", "error")]));
}

#[test]
fn every_recorded_finding_is_there_again_filtered_or_not() {
    let file = recording("unfixed-6.1.stealtrace");
    let found = |args: &[&str]| {
        let all = [&["--format", "json", file.as_str()], args].concat();
        findings(&json_lines(&analyze(&all).stdout))
    };
    let all = expected(&[
        ("cross-thread-ioctl", "notice"),
        ("foreign-steal-restore", "error"),
        ("steal-underflow", "error"),
    ]);
    assert_eq!(found(&[]), all);
    assert_eq!(found(&["--findings-only"]), all);
    assert_eq!(found(&["--rule", "steal-underflow"]), expected(&[("steal-underflow", "error")]));
    assert_eq!(
        found(&["--min-severity", "error"]),
        expected(&[("foreign-steal-restore", "error"), ("steal-underflow", "error")])
    );
    assert_eq!(found(&["--stop-after", "1"]), expected(&[("cross-thread-ioctl", "notice")]));
    assert_eq!(found(&["--pid", "1"]), expected(&[]));
    assert_eq!(found(&["--comm", "nobody"]), expected(&[]));
    assert_eq!(found(&["--vcpu", "7"]), expected(&[]));
    assert_eq!(found(&["--vcpu", "0"]), all);
}

#[test]
fn a_cut_recording_is_read_up_to_the_cut_and_inconclusive() {
    let whole = fs::read(recording("stock-6.1.stealtrace")).expect("the recording");
    let file = std::env::temp_dir().join(format!("stealtrace-cut-{}", std::process::id()));
    fs::write(&file, &whole[..whole.len() / 2]).expect("write");
    let result = analyze(&["--format", "json", &file.display().to_string()]);
    fs::remove_file(&file).expect("remove");
    assert_eq!(result.code, 3, "{}{}", result.stdout, result.stderr);
    let lines = json_lines(&result.stdout);
    assert!(lines.len() > 5, "what is before the cut is shown");
    let reason = summary(&lines)["inconclusive"].as_str().unwrap_or_default().to_owned();
    assert!(reason.contains("cut off"), "{reason}");
}

/// What analyze says of what comes from this writer.
fn analyze_written(command: &mut Command, write: impl FnOnce(&mut dyn io::Write) -> io::Result<()>) -> Run {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starts");
    let mut stdin = child.stdin.take().expect("piped");
    std::thread::scope(|scope| {
        let reading = scope.spawn(|| child.wait_with_output().expect("ends"));
        let _refused = write(&mut stdin);
        drop(stdin);
        Run::from(reading.join().expect("read"))
    })
}

fn analyze_bytes(args: &[&str], bytes: &[u8]) -> Run {
    analyze_written(stealtrace().args(["analyze", "-"]).args(args), |to| to.write_all(bytes))
}

#[test]
fn streams_are_read() {
    let text = fs::read(folder("evidence/xp-bytes.txt")).expect("the evidence");
    let result = analyze_bytes(&["--format", "json"], &text);
    assert_eq!(result.code, 1);
    assert_eq!(findings(&json_lines(&result.stdout)), expected(&[("steal-poisoned", "error")]));
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packed = Vec::new();
    flate2::read::GzEncoder::new(bytes, flate2::Compression::fast())
        .read_to_end(&mut packed)
        .expect("packed");
    packed
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).expect("to memory")
}

#[test]
fn a_log_reads_the_same_however_it_was_stored() {
    for name in ["systemtap", "strace", "proc-stat", "xp-bytes", "xp-decimal"] {
        let text = fs::read_to_string(evidence(&format!("{name}.txt"))).expect("the evidence");
        let plain = analyze_bytes(&["--format", "json"], text.as_bytes());
        let crlf = text.replace('\n', "\r\n");
        let utf16 = |order: fn(u16) -> [u8; 2]| {
            "\u{feff}".encode_utf16().chain(crlf.encode_utf16()).flat_map(order).collect::<Vec<u8>>()
        };
        for (how, stored) in [
            ("CRLF", crlf.clone().into_bytes()),
            ("blanks", text.replace('\n', " \t \n").into_bytes()),
            ("zeros", [&[0; 5000], text.as_bytes(), &[0; 5000]].concat()),
            ("a mark", ["\u{feff}", &crlf].concat().into_bytes()),
            ("UTF-16LE", utf16(u16::to_le_bytes)),
            ("UTF-16BE", utf16(u16::to_be_bytes)),
            ("gzip", gzip(text.as_bytes())),
            ("zstd", zstd(text.as_bytes())),
        ] {
            let read = analyze_bytes(&["--format", "json"], &stored);
            assert_eq!((read.code, read.stdout), (plain.code, plain.stdout.clone()), "{name}, {how}");
        }
    }
}

#[test]
fn compressed_recordings_are_read() {
    let file = recording("unfixed-6.1.stealtrace");
    let plain = analyze(&[&file]).stdout;
    let bytes = fs::read(&file).expect("the recording");
    for packed in [gzip(&bytes), zstd(&bytes)] {
        assert_eq!(analyze_bytes(&[], &packed).stdout, plain);
    }
    let cut = gzip(&bytes);
    let cut = analyze_bytes(&["--rule", "steal-poisoned"], &cut[..cut.len() / 2]);
    assert_eq!(cut.code, 3, "{}", cut.stdout);
}

#[test]
fn of_what_cannot_be_decompressed_it_is_said_what_to_do() {
    let result = analyze_bytes(&[], b"\xfd7zXZ\0\0\x04");
    assert_eq!(result.code, 2);
    assert!(result.stderr.contains("xz -dc FILE | stealtrace analyze -"), "{}", result.stderr);
    assert_eq!(result.stderr.lines().count(), 1, "{}", result.stderr);
}

#[test]
fn a_compressed_log_that_is_cut_is_read_up_to_the_cut_and_inconclusive() {
    let line = |n: u64| format!("10 ioctl(5, KVM_RUN, {:#x}) = 0\n", n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let whole = gzip((0..20_000).map(line).collect::<String>().as_bytes());
    let result = analyze_bytes(&["--findings-only"], &whole[..whole.len() / 2]);
    assert_eq!(result.code, 3, "{}", result.stdout);
    assert!(result.stdout.contains("inconclusive: it could not be read to its end"), "{}", result.stdout);
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
