//! Where results and remarks go, and what they look like.

use std::{
    fs,
    io::Read as _,
    process::{Command, Stdio},
};

use stealtrace_tests::{json_lines, run, stealtrace};

use super::{Vm, a_second_thread, scratch, started, three_vcpus};

#[test]
fn quiet_says_only_what_went_wrong() {
    let trace = |flags: &[&str]| run(stealtrace().args(["trace", "--duration", "10ms"]).args(flags)).stderr;
    assert!(trace(&[]).contains("tracing"));
    assert_eq!(trace(&["--quiet"]), "");
    assert!(trace(&["--quiet", "--pid", "4194305"]).contains("no process 4194305"));
}

#[test]
fn colours_are_everywhere_or_nowhere() {
    let vm = three_vcpus();
    let pid = vm.id().to_string();
    let commands: [&[&str]; 3] =
        [&["doctor"], &["inspect", "--pid", &pid], &["verify", "--no-trace", "same-thread"]];
    for command in commands {
        let shown = |color| run(stealtrace().args(["--color", color]).args(command)).stdout;
        assert!(shown("always").contains("\u{1b}["), "{command:?}");
        assert!(!shown("never").contains('\u{1b}'), "{command:?}");
        assert!(!shown("auto").contains('\u{1b}'), "{command:?}: no terminal");
    }
}

#[test]
fn a_closed_pipe_is_quiet() {
    let mut child = started(&["--format", "json"]);
    drop(child.stdout.take());
    let verify = run(stealtrace().args(["verify", "same-thread"]));
    assert_eq!(verify.code, 0);
    let mut said = String::new();
    child.stderr.take().expect("piped").read_to_string(&mut said).expect("readable");
    assert_eq!(said, "");
    assert_eq!(child.wait().expect("ends").code(), Some(0));
}

#[test]
fn a_file_that_may_not_grow_is_an_error_that_names_it() {
    let file = scratch("limited");
    let binary = stealtrace().get_program().display().to_string();
    let script = format!(
        "ulimit -f 8; exec {binary} trace --output {} -- {binary} load run --duration 200ms",
        file.display()
    );
    let result = run(Command::new("bash").args(["-c", &script]));
    assert_eq!(result.code, 2, "{}", result.stderr);
    assert!(result.stderr.contains(&format!("write {}", file.display())), "{}", result.stderr);
    fs::remove_file(file).expect("it is there");
}

#[test]
fn a_commands_output_stays_out_of_a_file_of_results() {
    let file = scratch("results");
    let result = run(stealtrace().args(["trace", "--format", "json", "--output"]).arg(&file).args([
        "--",
        "sh",
        "-c",
        "echo hello",
    ]));
    let lines = json_lines(&fs::read_to_string(&file).expect("results"));
    fs::remove_file(file).expect("removed");
    assert_eq!(result.stdout, "hello\n");
    assert_eq!((&lines[0]["type"], &lines[1]["type"]), (&"start".into(), &"summary".into()));
}

/// A process may call itself anything but NUL and a slash.
const HOSTILE: &str = "x\u{1b}[31m\nerr\u{202e}";

#[test]
fn a_name_reaches_nobodys_terminal_as_it_is() {
    let binary = scratch("hostile").with_file_name(HOSTILE);
    fs::copy(stealtrace().get_program(), &binary).expect("copied");
    let mut vm = Command::new(&binary);
    vm.args(["load", "run", "--idle", "1", "--duration", "10m"]).stdout(Stdio::null());
    let vm = Vm(vm.spawn().expect("it starts"));
    let pid = vm.id().to_string();
    let _runs = a_second_thread(vm.id());
    let path = binary.display().to_string();
    let mut shown = Vec::new();
    let verify = [path.as_str(), "verify", "--no-trace", "restore-by-main-thread"];
    for command in [
        vec!["inspect", "--wait", "0s", "--pid", &pid],
        vec!["inspect", "--wait", "0s", "--format", "json", "--pid", &pid],
        [&["trace", "--"], &verify[..]].concat(),
        [&["trace", "--format", "json", "--"], &verify[..]].concat(),
        [&["trace", "--calls", "--"], &verify[..]].concat(),
        vec!["analyze", &path],
        vec!["trace", "--comm", HOSTILE, "--pid", "4194305"],
    ] {
        let result = run(stealtrace().args(&command));
        shown.push((command.join(" "), result.stdout + &result.stderr));
    }
    drop(vm);
    fs::remove_file(binary).expect("removed");
    for (command, text) in shown {
        let is_json = command.contains("json"); // which has escapes of its own, for what controls
        let acts = |c: char| (c.is_control() && c != '\n') || (c == '\u{202e}' && !is_json);
        assert!(!text.contains(acts), "{command:?}: {text:?}");
        assert!(!text.lines().any(|line| line.starts_with("err")), "{command:?}: {text:?}");
    }
}
