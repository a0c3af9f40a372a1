//! Helpers for tests that see stealtrace and its lab from outside: run, and read what was printed.

pub mod monitoring;

use std::{
    collections::BTreeMap,
    env,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::Value;

/// The binary under test; `cargo xtask test` says where it is.
#[must_use]
pub fn stealtrace() -> Command {
    let built =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/x86_64-unknown-linux-gnu/release/stealtrace");
    Command::new(env::var_os("STEALTRACE").map_or(built, PathBuf::from))
}

/// `cargo xtask …`
#[must_use]
pub fn xtask() -> Command {
    match env::var_os("XTASK") {
        Some(xtask) => Command::new(xtask),
        None => {
            let mut cargo = Command::new("cargo");
            cargo.arg("xtask");
            cargo
        }
    }
}

/// What a command printed and how it ended.
#[derive(Clone, Debug)]
pub struct Run {
    /// Exit code; -1 for a signal.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl From<Output> for Run {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// Run it to its end.
///
/// # Panics
/// When it cannot be started.
#[expect(clippy::expect_used, reason = "a test that cannot start its program has failed")]
pub fn run(command: &mut Command) -> Run {
    command.env_remove("RUST_BACKTRACE").output().expect("the program starts").into()
}

/// The objects of a trace in JSON.
///
/// # Panics
/// When a line is not JSON: every line must parse.
#[must_use]
pub fn json_lines(text: &str) -> Vec<Value> {
    let parse = |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line:?}"));
    text.lines().map(parse).collect()
}

/// What is found, but for what KVM charges every first run: that is what the runner happened to have waited before.
#[must_use]
pub fn found(lines: &[Value]) -> Vec<&Value> {
    let counts = |line: &&Value| line["type"] == "finding" && line["cause"] != "first-run";
    lines.iter().filter(counts).collect()
}

/// The findings of a trace in JSON: per rule the worst severity.
#[must_use]
pub fn findings(lines: &[Value]) -> BTreeMap<String, String> {
    let mut worst = BTreeMap::<String, String>::new();
    for finding in found(lines) {
        let [rule, severity] =
            ["rule", "severity"].map(|key| finding[key].as_str().unwrap_or_default().to_owned());
        let known = worst.entry(rule).or_default();
        if rank(&severity) > rank(known) {
            *known = severity;
        }
    }
    worst
}

fn rank(severity: &str) -> usize {
    ["notice", "warning", "error"].iter().position(|known| *known == severity).map_or(0, |rank| rank + 1)
}

/// `[("rule", "severity")]` as [`findings`] returns it.
#[must_use]
pub fn expected(findings: &[(&str, &str)]) -> BTreeMap<String, String> {
    findings.iter().map(|(rule, severity)| ((*rule).to_owned(), (*severity).to_owned())).collect()
}

/// The summary line of a trace in JSON.
#[must_use]
pub fn summary(lines: &[Value]) -> &Value {
    lines.iter().rfind(|line| line["type"] == "summary").unwrap_or(&Value::Null)
}

/// Named commands for one boot of a lab guest, so that a kernel boots once for many tests.
#[derive(Default)]
pub struct Script(String);

impl Script {
    /// Run this, apart from the others, and keep what it prints. The lab is told its name, for the case that it hangs.
    pub fn step(&mut self, name: &str, command: &str) {
        let Self(script) = self;
        script.push_str(&format!(
            "echo 'step {name}' > /dev/ttyS3\necho '@@@ {name}'\n( {command}\n) 2> /tmp/stderr\necho \"@@@ exit $?\"\ncat /tmp/stderr\n"
        ));
    }

    /// Boot the kernel, run all steps; what each did.
    ///
    /// # Panics
    /// When the lab fails.
    #[must_use]
    #[expect(clippy::panic, reason = "a lab that fails is a failed test, with everything it said")]
    pub fn run(&self, kernel: &str) -> BTreeMap<String, Run> {
        let Self(script) = self;
        let lab = run(xtask()
            .args(["lab", "run", kernel, "--timeout", "3600", "--expect-output"])
            .args(["--", "sh", "-c", script]));
        if lab.code != 0 {
            panic!("lab run {kernel} exited with {}:\n{}\n{}", lab.code, lab.stdout, lab.stderr);
        }
        split(&lab.stdout)
    }
}

/// `@@@ name`, stdout, `@@@ exit N`, stderr, and again.
fn split(text: &str) -> BTreeMap<String, Run> {
    let mut steps = BTreeMap::new();
    for part in text.split("@@@ ").skip(1).collect::<Vec<_>>().chunks(2) {
        let [start, end] = part else { continue };
        let (name, stdout) = start.split_once('\n').unwrap_or((start, ""));
        let (code, stderr) = end.split_once('\n').unwrap_or((end, ""));
        let code = code.trim_start_matches("exit ").trim().parse().unwrap_or(-1);
        steps.insert(name.to_owned(), Run { code, stdout: stdout.to_owned(), stderr: stderr.to_owned() });
    }
    steps
}
