//! export beside the real Prometheus and Alertmanager: scraped, alerted on, shown on the dashboard.

use std::{
    collections::BTreeSet,
    fs,
    io::Write as _,
    process::{Command, Stdio},
};

use serde_json::Value;
use stealtrace_tests::{
    monitoring::{Folder, Peer, Prometheus, Receiver, dist, get, peer},
    stealtrace,
};

use super::{
    Vm,
    export::{Export, hand_over},
    three_vcpus,
};

#[test]
fn a_hand_over_calls_somebody_and_every_query_of_the_dashboard_is_answered() {
    let vm = three_vcpus();
    let export = Export::begin(&[]);
    let folder = Folder::new("monitoring");
    let receiver = Receiver::new();
    let alertmanager = Peer::alertmanager(&folder, &receiver);
    let alerts = (dist("alerts.yaml"), alertmanager.address());
    let jobs: [(&str, &[&str]); 1] = [("stealtrace", &[export.address()])];
    let prometheus = Prometheus::new(&folder, &jobs, Some((&alerts.0, alerts.1)));
    let _seen = prometheus.wait_for("count_over_time(stealtrace_findings_total[1m]) > 1");
    hand_over();
    let called = receiver.wait_for("StealUnderflow");
    assert!(called.contains(export.address()), "{called}");
    let of_vm =
        format!(r#"count(stealtrace_vcpu_charged_steal_seconds_total{{domain=~".*-{}/."}}) == 3"#, vm.id());
    let _one_that_runs_and_two_that_do_nothing = prometheus.wait_for(&of_vm);
    for query in queries() {
        let query = query.replace("$__rate_interval", "1m").replace("$host", ".*").replace("$domain", ".*");
        let _answered = prometheus.query(&query);
    }
    drop(vm);
}

/// Of every panel and variable.
fn queries() -> Vec<String> {
    let text = fs::read_to_string(dist("dashboard.json")).expect("there");
    let dashboard: Value = serde_json::from_str(&text).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().expect("targets"));
    let queries: Vec<_> =
        targets.map(|target| target["expr"].as_str().expect("a query").to_owned()).collect();
    assert!(queries.len() > 10);
    queries
}

/// Beside metrics of its own.
#[test]
fn node_exporter_takes_the_textfile() {
    let folder = Folder::new("textfile");
    let files = folder.make("files");
    let mut export = stealtrace();
    export.args(["export", "--interval", "200ms", "--textfile"]).arg(&files).stderr(Stdio::null());
    let _export = Vm(export.spawn().expect("stealtrace starts"));
    let mut exporter = Command::new(peer("node_exporter"));
    exporter.args(["--collector.disable-defaults", "--collector.textfile"]);
    exporter.arg(format!("--collector.textfile.directory={}", files.display()));
    let exporter = Peer::listening(exporter);
    let metrics = loop {
        let metrics = get(exporter.address(), "/metrics");
        if metrics.contains("stealtrace_attached 1") {
            break metrics;
        }
    };
    assert!(metrics.contains("node_textfile_scrape_error 0"), "{metrics}");
    assert_eq!(metrics.matches("\nprocess_start_time_seconds ").count(), 1, "its own");
    let again = get(exporter.address(), "/metrics");
    let errors = again
        .lines()
        .find(|line| line.starts_with("promhttp_metric_handler_errors_total{cause=\"gathering\"}"));
    assert!(errors.is_none_or(|line| line.ends_with(" 0")), "{errors:?}");
}

#[test]
fn metrics_are_clean_and_all_that_alerts_and_dashboard_ask_for() {
    let export = Export::begin(&[]);
    let metrics = export.get("/metrics");
    let mut promtool = Command::new(peer("promtool"))
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool starts");
    promtool.stdin.take().expect("piped").write_all(metrics.as_bytes()).expect("it reads");
    let checked = promtool.wait_with_output().expect("it ends");
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
    let known: BTreeSet<_> = metrics
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next().map(str::to_owned))
        .collect();
    let asked = queries().join(" ") + &fs::read_to_string(dist("alerts.yaml")).expect("there");
    let is_of_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    for name in asked.split(|c| !is_of_name(c)).filter(|word| word.starts_with("stealtrace_")) {
        assert!(known.contains(name), "nobody exports {name}");
    }
}
