//! What each backend takes instead of root, where distributions keep perf events from those who are not.

use std::path::PathBuf;

use stealtrace_tests::{Run, run, xtask};

use super::let_all_boot;

/// Prints a line per backend and set of capabilities: the exit code, and what was said first.
const SCRIPT: &str = r#"
as() {
    caps=-all,$1
    LD_LIBRARY_PATH=/bin ld-linux-x86-64.so.2 --library-path /bin /bin/setpriv --bounding-set $caps --inh-caps $caps \
        stealtrace trace --backend $2 --findings-only --duration 10ms > /dev/null 2> /tmp/says
    echo "$2 $3: $? $(head -n 1 /tmp/says)"
}
echo 3 > /proc/sys/kernel/perf_event_paranoid
for backend in fentry kprobe tracepoint; do
    as +bpf,+perfmon,+syslog $backend three
    as +bpf,+perfmon,+syslog,+sys_admin $backend four
done
as +perfmon,+syslog tracepoint unloaded
as +bpf,+syslog tracepoint unattached
as +bpf,+perfmon tracepoint blind
"#;

fn tried_on(kernel: &str) -> Run {
    let_all_boot();
    let setpriv = run(std::process::Command::new("sh").args(["-c", "command -v setpriv"])).stdout;
    let needs = run(std::process::Command::new("ldd").arg(setpriv.trim())).stdout;
    let libraries = needs.split_whitespace().filter(|word| word.starts_with('/'));
    let programs = libraries.chain([setpriv.trim()]).map(PathBuf::from).filter(|file| file.exists());
    let mut lab = xtask();
    lab.args(["lab", "run", kernel]);
    programs.for_each(|program| {
        lab.arg("--program").arg(program);
    });
    run(lab.args(["--", "sh", "-c", SCRIPT]))
}

fn assert_says(tried: &Run, case: &str, code: i32, word: &str) {
    let start = format!("{case}: {code} ");
    let line = tried.stdout.lines().find(|line| line.starts_with(&start)).unwrap_or_default();
    assert!(line.contains(word) && !line.is_empty(), "{start}{word}: {}{}", tried.stdout, tried.stderr);
}

/// fentry on a module's functions takes the numbers of its types, which only CAP_SYS_ADMIN may enumerate.
#[test]
fn where_kprobes_need_no_perf_three_capabilities_are_enough_for_them() {
    let tried = tried_on("stock-6.12");
    assert_says(&tried, "fentry three", 2, "takes CAP_SYS_ADMIN");
    assert_says(&tried, "kprobe three", 0, "tracing (kprobe backend)");
    assert_says(&tried, "tracepoint three", 0, "tracing (tracepoint backend)");
    for backend in ["fentry", "kprobe", "tracepoint"] {
        assert_says(&tried, &format!("{backend} four"), 0, "tracing");
    }
    assert_says(&tried, "tracepoint unloaded", 2, "CAP_BPF");
    assert_says(&tried, "tracepoint unattached", 2, "CAP_PERFMON");
    assert_says(&tried, "tracepoint blind", 2, "CAP_SYSLOG");
}

#[test]
fn where_kprobes_need_perf_the_setting_that_keeps_it_from_them_is_named() {
    let tried = tried_on("stock-6.1");
    assert_says(&tried, "kprobe three", 2, "kernel.perf_event_paranoid at 2 (it is 3)");
    assert_says(&tried, "tracepoint three", 0, "tracing (tracepoint backend)");
    assert_says(&tried, "kprobe four", 0, "tracing (kprobe backend)");
}
