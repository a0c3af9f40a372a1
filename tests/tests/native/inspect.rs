//! inspect, on VMs that run here.

use std::{
    io::{BufRead as _, BufReader},
    process::Stdio,
};

use serde_json::Value;
use stealtrace_tests::{json_lines, run, stealtrace};

use super::three_vcpus;

#[test]
fn inspect_watches_a_processs_vcpus_until_it_ends() {
    let vm = three_vcpus();
    let (id, pid) = (vm.id(), vm.id().to_string());
    let mut inspect = stealtrace();
    inspect.args(["inspect", "--format", "json", "--wait", "100ms", "--watch", "100ms", "--pid", &pid]);
    let mut inspect = inspect.stdout(Stdio::piped()).spawn().expect("stealtrace starts");
    let looks = BufReader::new(inspect.stdout.take().expect("piped")).lines();
    let looks = looks.map(|look| json_lines(&look.expect("text")).remove(0));
    let told = |look: &Value| {
        let mut judgements: Vec<_> =
            look["vcpus"].as_array().expect("a list").iter().map(|vcpu| vcpu["judgement"].as_str()).collect();
        judgements.sort_unstable();
        judgements == [Some("cannot tell"), Some("cannot tell"), Some("sound")]
    };
    let mut looks = looks.filter(told); // the VM begins while it is looked at
    let look = looks.nth(2).expect("two that do nothing, and one that counts right");
    assert!(look["vcpus"].as_array().expect("a list").iter().all(|vcpu| vcpu["vm_pid"] == id), "{look}");
    drop(vm);
    looks.for_each(drop);
    inspect.wait().expect("it ends with the VM");
    let gone = run(stealtrace().args(["inspect", "--pid", &pid]));
    assert_eq!(gone.code, 2);
    assert!(gone.stderr.contains("no process"), "{}", gone.stderr);
}

#[test]
fn inspect_into_a_closed_pipe_is_quiet() {
    let vm = three_vcpus();
    let watch = format!("{} inspect --watch 10ms | head -n 1", stealtrace().get_program().display());
    let result = run(std::process::Command::new("sh").args(["-c", &watch]));
    drop(vm);
    assert_eq!((result.stdout.lines().count(), result.stderr.as_str()), (1, ""));
}
