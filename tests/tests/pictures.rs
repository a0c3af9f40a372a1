//! Pages in a real browser, which has no network: they are drawn, wide and narrow, light and dark, and nothing complains.
//! Perfetto's traces as its own schema reads them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::{Value, json};
use stealtrace_tests::{
    json_lines,
    monitoring::{Folder, peer},
    run, stealtrace,
};

/// What a browser makes of a page; where its picture is, and what it said.
fn drawn(folder: &Folder, page: &str, width: u32, dark: bool) -> (PathBuf, String) {
    let here = folder.make("");
    let shot = format!("{page}-{width}-{dark}.png");
    let script = format!(
        "chromium --headless --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run --disable-quic \
         --disable-background-networking --disable-component-update --disable-sync --hide-scrollbars \
         --enable-logging=stderr --log-level=0 --user-data-dir=/tmp/profile --window-size={width},1400 \
         --blink-settings=preferredColorScheme={} --screenshot=/mnt/{shot} file:///mnt/{page}.html",
        u8::from(!dark)
    );
    let said = run(Command::new(peer("tools")).arg(&here).args(["sh", "-c", &script]));
    assert_eq!(said.code, 0, "{}", said.stderr);
    (here.join(shot), said.stderr)
}

#[test]
fn pages_are_drawn_wide_and_narrow_light_and_dark_without_a_complaint() {
    let folder = Folder::new("pictures");
    let tests = concat!(env!("CARGO_MANIFEST_DIR"), "/");
    for (page, file) in [("stock", "recordings/stock-6.1.stealtrace"), ("report", "evidence/systemtap.txt")] {
        let made = run(stealtrace().args(["analyze", "--format", "html"]).arg(format!("{tests}{file}")));
        fs::write(folder.make("").join(format!("{page}.html")), made.stdout).expect("written");
        let mut pictures = Vec::new();
        for (width, dark) in [(1280, false), (1280, true), (380, false), (380, true)] {
            let (shot, said) = drawn(&folder, page, width, dark);
            assert!(!said.contains("CONSOLE"), "{said}");
            let picture = fs::read(shot).expect("a picture");
            assert!(picture.len() > 20_000, "{page} {width} {dark}: {} bytes", picture.len());
            pictures.push(picture);
        }
        assert!(pictures[0] != pictures[1] && pictures[2] != pictures[3], "dark is not light");
    }
}

/// A trace as the official schema reads it, as JSON.
fn decoded(trace: &Path) -> Value {
    const SCRIPT: &str = r#"
import json, sys
from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import Trace
trace = Trace()
trace.ParseFromString(open(sys.argv[1], "rb").read())
tracks, slices, counters, findings, flows, ends = {}, [], [], [], [], 0
for packet in trace.packet:
    if packet.HasField("track_descriptor"):
        track = packet.track_descriptor
        tracks[track.uuid] = track.name or track.thread.thread_name or track.process.process_name
    if not packet.HasField("track_event"):
        continue
    event = packet.track_event
    assert packet.timestamp_clock_id == 3, "the kernel's CLOCK_MONOTONIC"
    name = tracks[event.track_uuid]
    flows += [["from", flow] for flow in event.flow_ids] + [["to", flow] for flow in event.terminating_flow_ids]
    if event.type == event.TYPE_COUNTER:
        counters.append([name, packet.timestamp, event.counter_value])
    elif event.type == event.TYPE_SLICE_BEGIN:
        slices.append([name, packet.timestamp, event.name])
    elif event.type == event.TYPE_SLICE_END:
        ends += 1
    elif "finding" in event.categories:
        value = lambda one: one.string_value or one.int_value or one.uint_value
        findings.append([event.name, packet.timestamp, {one.name: value(one) for one in event.debug_annotations}])
print(json.dumps({"slices": slices, "ends": ends, "counters": counters, "findings": findings, "flows": flows}))
"#;
    let read = run(Command::new(peer("perfetto")).args(["-c", SCRIPT]).arg(trace));
    assert_eq!(read.code, 0, "{}", read.stderr);
    serde_json::from_str(&read.stdout).expect("JSON")
}

#[test]
fn a_perfetto_trace_says_the_same_as_json() {
    let folder = Folder::new("perfetto");
    let trace = folder.make("").join("it.perfetto");
    let recording = concat!(env!("CARGO_MANIFEST_DIR"), "/recordings/unfixed-6.1.stealtrace");
    let analyze = |format: &str| run(stealtrace().args(["analyze", "--format", format, recording]));
    let made = run(stealtrace().args(["analyze", "--format", "perfetto", recording, "--output"]).arg(&trace));
    assert_eq!(made.code, 1, "{}", made.stderr);
    let (json, decoded) = (json_lines(&analyze("json").stdout), decoded(&trace));
    let of = |kind: &'static str| json.iter().filter(move |line| line["type"] == kind);

    let start = of("start").find_map(|line| line["monotonic_ns"].as_u64()).expect("when it began");
    let at = |line: &Value| start + line["time_ns"].as_u64().expect("a time");
    let ioctls: Vec<Value> =
        of("ioctl").map(|line| json!([line["caller"], at(line), line["ioctl"]])).collect();
    assert_eq!(decoded["slices"], Value::from(ioctls.clone()));
    assert_eq!(decoded["ends"], ioctls.len());

    let steal: Vec<Value> = of("update").map(|line| line["steal_after_ns"].clone()).collect();
    let counters = decoded["counters"].as_array().expect("counters");
    let wrapped = |value: &Value| Value::from(value.as_i64().expect("a number").cast_unsigned());
    let shown: Vec<_> =
        counters.iter().filter(|one| one[0] == "guest steal").map(|one| wrapped(&one[2])).collect();
    assert!(steal.iter().all(|value| shown.contains(value)), "{steal:?} {shown:?}");

    let findings = decoded["findings"].as_array().expect("findings");
    assert_eq!(findings.len(), of("finding").count());
    let underflow = findings.iter().find(|one| one[0] == "steal-underflow").expect("the underflow");
    let told = of("finding").find(|line| line["rule"] == "steal-underflow").expect("the same");
    for field in ["run_delay_ns", "last_steal_ns", "delta_ns", "caller_tid", "last_steal_of_tid"] {
        assert_eq!(underflow[2][field], told[field], "{field}");
    }
    let flows = decoded["flows"].as_array().expect("flows");
    let to = flows.iter().find(|flow| flow[0] == "to").expect("the update's flow");
    assert!(flows.contains(&json!(["from", to[1]])), "from the restore: {flows:?}");
}
