//! The alerts: promtool's own test of them, and the one that needs nothing of ours, from a guest's /proc to whoever is
//! called. Prometheus, Alertmanager and node_exporter are the real ones.

use std::{collections::BTreeSet, fs, process::Command};

use stealtrace_tests::{
    monitoring::{Folder, Peer, Prometheus, Receiver, dist, peer},
    run,
};

#[test]
fn rules_fire_when_they_should_and_are_silent_when_they_should() {
    let tested = run(Command::new(peer("promtool")).args(["test", "rules"]).arg(dist("alerts.test.yaml")));
    assert_eq!(tested.code, 0, "{}{}", tested.stdout, tested.stderr);
    let [rules, cases] =
        ["alerts.yaml", "alerts.test.yaml"].map(|file| fs::read_to_string(dist(file)).expect("there"));
    let named = |text: &str, key: &str| -> BTreeSet<String> {
        text.lines()
            .filter_map(|line| line.trim_start_matches(['-', ' ']).strip_prefix(key))
            .map(str::to_owned)
            .collect()
    };
    assert_eq!(named(&rules, "alert: "), named(&cases, "alertname: "), "each has a case");
}

/// A guest's /proc and /sys, as far as node_exporter reads them for this.
fn guest(folder: &Folder, name: &str, steal_ticks: u64) -> Peer {
    let proc = folder.make(&format!("{name}/proc"));
    let stat = format!(
        "cpu  9 0 9 9 0 0 0 {steal_ticks} 0 0\ncpu0 9 0 9 9 0 0 0 {steal_ticks} 0 0\nbtime 1700000000\n"
    );
    fs::write(proc.join("stat"), stat).expect("written");
    let mut exporter = Command::new(peer("node_exporter"));
    exporter.arg("--path.procfs").arg(&proc).arg("--path.sysfs").arg(folder.make(&format!("{name}/sys")));
    exporter.args(["--collector.disable-defaults", "--collector.cpu", "--collector.stat"]);
    Peer::listening(exporter)
}

#[test]
fn a_guest_below_zero_calls_somebody_with_nothing_of_ours_installed() {
    let folder = Folder::new("alert");
    let bad = guest(&folder, "bad", 1_844_674_407_370);
    let good = guest(&folder, "good", 4_711);
    let receiver = Receiver::new();
    let alertmanager = Peer::alertmanager(&folder, &receiver);
    let prometheus = Prometheus::new(
        &folder,
        &[("guests", &[bad.address(), good.address()])],
        Some((&dist("alerts.yaml"), alertmanager.address())),
    );
    let called = receiver.wait_for("GuestStealImpossible");
    assert!(called.contains(bad.address()), "{called}");
    assert!(!called.contains(good.address()), "{called}");
    assert!(called.contains("stealtrace rules steal-underflow"), "with its runbook: {called}");
    let steal = |address: &str| {
        prometheus.wait_for(&format!(r#"node_cpu_seconds_total{{mode="steal",instance="{address}"}}"#))
    };
    assert_eq!((steal(bad.address()).len(), steal(good.address()).len()), (1, 1), "both are seen");
}
