//! `cargo xtask lab verify`: every scenario on every kernel of the lab, with every backend.

use std::fs;

use serde_json::Value;
use stealtrace_tests::{Run, monitoring::Folder, run, xtask};

/// What it printed; of the files that it wrote the verdicts, per kernel, and the page.
fn lab_verify(arguments: &[&str], name: &str) -> (Run, Vec<Value>, String) {
    let folder = Folder::new(name);
    let [json, html] = ["verdicts.json", "page.html"].map(|file| folder.make("").join(file));
    let mut command = xtask();
    command.args(["lab", "verify", "--json"]).arg(&json).arg("--html").arg(&html).args(arguments);
    let result = run(&mut command);
    let [json, html] = [json, html]
        .map(|file| fs::read_to_string(file).unwrap_or_else(|error| panic!("{error}: {}", result.stderr)));
    (result, serde_json::from_str(&json).expect("JSON"), html)
}

fn list<'a>(of: &'a Value, name: &str) -> &'a [Value] {
    of[name].as_array().unwrap_or_else(|| panic!("no {name} in {of}"))
}

#[test]
fn every_kernel_is_what_the_table_says_and_both_witnesses_agree() {
    let backends = ["fentry", "tracepoint"];
    let kernels = ["stock-6.1", "unfixed-6.1", "stock-6.12", "unfixed-6.12", "clamped-6.12"];
    let html = assert_as_the_table_says("matrix", &[], &kernels, &backends);
    assert!(html.contains("<h2>replug on unfixed-6.12</h2>"), "{html}");
}

/// What these see with is all but one thing the same as for fentry: two kernels will do.
#[test]
fn kprobes_see_the_same() {
    let kernels = ["stock-6.1", "unfixed-6.12"];
    assert_as_the_table_says("kprobes", &kernels, &kernels, &["kprobe"]);
}

fn assert_as_the_table_says(name: &str, arguments: &[&str], kernels: &[&str], backends: &[&str]) -> String {
    let ways = backends.iter().flat_map(|backend| ["--backend", backend]);
    let (result, found, html) = lab_verify(&arguments.iter().copied().chain(ways).collect::<Vec<_>>(), name);
    assert_eq!(result.code, 0, "{}{}", result.stdout, result.stderr);
    let names: Vec<_> = found.iter().map(|kernel| kernel["kernel"].as_str().unwrap_or("?")).collect();
    assert_eq!(names, kernels);
    for kernel in &found {
        let passes = list(kernel, "passes");
        let seen: Vec<_> = passes.iter().map(|pass| &pass["summary"]["witness"]).collect();
        assert_eq!(seen, backends, "{}", kernel["kernel"]);
        for pass in passes {
            assert_eq!(pass["summary"]["class"], kernel["expected"], "{}", result.stdout);
            for verdict in list(pass, "verdicts") {
                if verdict["status"] == "skipped" {
                    assert!(is_without_xen(kernel, verdict), "{}: {verdict}", kernel["kernel"]);
                    continue;
                }
                assert_exactly_as_expected(kernel, verdict);
                let picture = verdict["picture"].as_str().unwrap_or_else(|| panic!("no picture: {verdict}"));
                assert!(picture.contains("<svg") && html.contains(picture), "{verdict}");
            }
        }
        assert!(result.stdout.contains(kernel["kernel"].as_str().unwrap_or("?")), "{}", result.stdout);
    }
    html
}

/// Not only "no worse": each class shows exactly its harm, so that each check is seen to find it. Whether an affected
/// kernel forgets what a runner waited is up to where the scheduler interrupts it.
fn assert_exactly_as_expected(kernel: &Value, verdict: &Value) {
    let up_to_the_scheduler = verdict["expected"] == "under-charged" && verdict["observed"] == "sound";
    if !up_to_the_scheduler {
        assert_eq!(verdict["observed"], verdict["expected"], "{}: {verdict}", kernel["kernel"]);
    }
    assert_eq!(verdict["witnesses_agree"], true, "{}: {verdict}", kernel["kernel"]);
    let tally = &verdict["tally"];
    if verdict["scenario"].as_str().is_some_and(|scenario| scenario.ends_with("random-hand-offs")) {
        assert!(tally["hand_offs"].as_u64() >= Some(1000), "{verdict}");
        assert_eq!(
            (&tally["missed"], &tally["false_reports"]),
            (&Value::from(0), &Value::from(0)),
            "{verdict}"
        );
        let corrupts = kernel["expected"] != "sound";
        assert_eq!(tally["seen"].as_u64() > Some(100), corrupts, "{verdict}");
    }
}

/// Debian's 6.1 is built without guests of Xen, its 6.12 with them.
fn is_without_xen(kernel: &Value, verdict: &Value) -> bool {
    let [kernel, scenario, why] =
        [&kernel["kernel"], &verdict["scenario"], &verdict["why"]].map(|text| text.as_str().unwrap_or("?"));
    kernel.ends_with("-6.1") && scenario.starts_with("xen-") && why.contains("CONFIG_KVM_XEN")
}

/// A kernel that does everything wrong passes nothing.
#[test]
fn every_scenario_can_fail() {
    let (result, kernels, html) =
        lab_verify(&["broken-6.12", "--", "--no-trace", "--rounds", "50"], "broken");
    assert_eq!(result.code, 1, "{}{}", result.stdout, result.stderr);
    assert!(html.matches("<td class=\"bad\">").count() >= 23, "{html}");
    assert!(html.contains("<th>broken-6.12</th>") && html.contains("the guest saw: "), "{html}");
    let verdicts = list(&list(&kernels[0], "passes")[0], "verdicts");
    assert!(verdicts.len() >= 23);
    for verdict in verdicts {
        assert_eq!(verdict["status"], "failed", "{verdict}");
    }
}
