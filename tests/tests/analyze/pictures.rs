//! `--format html`: one page that anybody can open.

use std::{fmt::Write as _, fs};

use stealtrace_tests::{Run, run, stealtrace};

use super::{analyze_bytes, evidence, folder};

const HTML: [&str; 3] = ["--quiet", "--format", "html"];

/// Of a file by its relative name, which the page tells.
fn page(file: &str) -> Run {
    run(stealtrace()
        .current_dir(folder(""))
        .args(HTML[..1].iter().chain(&["analyze", file]))
        .args(&HTML[1..]))
}

fn assert_golden(file: &str, golden: &str) {
    let golden = folder("golden").join(golden);
    let made = page(file);
    assert_eq!((made.code, &*made.stderr), (1, ""), "{file}");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&golden, &made.stdout).expect("write the golden file");
    }
    assert!(made.stdout == fs::read_to_string(&golden).unwrap_or_default(), "{} differs", golden.display());
}

#[test]
fn pages_are_as_they_were_looked_at() {
    for name in ["unfixed-6.1", "stock-6.1"] {
        assert_golden(&format!("recordings/{name}.stealtrace"), &format!("{name}.html"));
    }
    for name in ["systemtap", "proc-stat"] {
        assert_golden(&format!("evidence/{name}.txt"), &format!("{name}.html"));
    }
}

#[test]
fn a_page_needs_nothing_but_itself() {
    let made = page("recordings/unfixed-6.1.stealtrace").stdout;
    for loads in ["http", "//", "src=", "href=", "@import", "url(", "<script", "<link"] {
        assert!(!made.contains(loads), "{loads}");
    }
}

#[test]
fn it_begins_with_who_did_what_to_whom_and_what_to_do() {
    let made = page("recordings/unfixed-6.1.stealtrace").stdout;
    let header =
        made.split("<header").nth(1).and_then(|rest| rest.split("</header>").next()).expect("a header");
    for told in [
        "The steal time of vCPU 103/1/0 is wrong",
        "vcpu0(110) consumed a negative steal delta",
        "last steal of: stealtrace(103)",
        "delta: -801.791396 ms",
        "2.463435 s after the start",
        "What to do:",
    ] {
        assert!(header.contains(told), "{told}: {header}");
    }
}

#[test]
fn a_picture_names_the_act_and_the_update_that_consumed_it() {
    let made = page("recordings/stock-6.1.stealtrace").stdout;
    assert!(made.contains("<title>the hand-off that this update consumed</title>"));
    let made = page("recordings/unfixed-6.1.stealtrace").stdout;
    assert!(made.contains("<title>the restore that this update consumed</title>"));
    assert!(made.contains("<title>steal time restored by stealtrace(103)</title>"));
    assert!(made.contains("wrapped below zero: the guest reads 0xffffffffd035a25c ns"));
}

#[test]
fn the_report_of_2015_shows_both_underflows_and_whose_number_it_was() {
    let made = page("evidence/systemtap.txt").stdout;
    for thread in ["18449", "18448"] {
        assert!(made.contains(&format!("waited by qemu-system-x86({thread})")), "{thread}");
    }
    assert_eq!(made.matches("last_steal = waited by qemu-system-x86(18446)").count(), 2);
}

#[test]
fn without_findings_it_says_so_and_a_cut_recording_proves_nothing() {
    let whole = fs::read(folder("recordings/unfixed-6.1.stealtrace")).expect("the recording");
    let made = analyze_bytes(&[&HTML[..], &["--rule", "steal-backwards"]].concat(), &whole);
    assert_eq!(made.code, 0);
    assert!(made.stdout.contains("<h1>No finding</h1>") && made.stdout.contains("Without findings"));
    let made =
        analyze_bytes(&[&HTML[..], &["--rule", "steal-backwards"]].concat(), &whole[..whole.len() - 60]);
    assert_eq!(made.code, 3);
    assert!(made.stdout.contains("Nothing found, but that proves nothing"), "{}", made.stdout);
}

#[test]
fn what_a_log_does_not_tell_is_not_drawn() {
    let made = run(stealtrace().arg("analyze").args(HTML).arg(evidence("strace.txt"))).stdout;
    assert!(made.contains("not known") && made.contains("line of the log"));
    assert!(!made.contains("time since start"));
}

#[test]
fn foreign_text_stays_text() {
    let line = |comm: &str, tid: u32| {
        format!(" ** 7 {comm}({tid}): delta: 18446744073701734971 ns, steal=7856949 ns, run_delay=40304 ns\n")
    };
    let mut log = line("<script>alert", 1) + &line("\"'&</title>", 2) + &line("\u{1b}[31m\u{7}", 3);
    (10..10_010).for_each(|tid| log += &line("many", tid));
    let mut bytes = log.into_bytes();
    bytes
        .extend(b" ** 7 \xff\xfe(4): delta: 18446744073701734971 ns, steal=7856949 ns, run_delay=40304 ns\n");
    let made = analyze_bytes(&[&HTML[..], &["--kind", "systemtap"]].concat(), &bytes).stdout;
    assert!(made.contains("&lt;script&gt;alert"));
    assert!(!made.contains("<script") && made.matches("</title>").count() == made.matches("<title>").count());
    assert!(!made.contains('\u{1b}') && !made.contains('\u{7}'));
    assert!(made.len() < 200_000, "{} bytes", made.len());
}

#[test]
fn a_long_log_is_a_short_page() {
    let mut log = String::new();
    for n in 0..200_000_u32 {
        let (thread, fd) = (10 + n % 12, 20 + n % 4);
        let ioctl = if n % 5 == 0 { "KVM_GET_REGS" } else { "KVM_RUN" };
        writeln!(log, "{thread} ioctl({fd}, {ioctl}, 0) = 0").expect("a string");
    }
    let made = analyze_bytes(&HTML, log.as_bytes()).stdout;
    assert!(made.len() < 3_000_000, "{} bytes", made.len());
    assert!(made.contains("runner-hand-off"), "findings are not thinned out");
}
