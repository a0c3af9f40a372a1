//! `lab verify`: `stealtrace verify` in every kernel, with every backend that sees there. A kernel that panics or
//! hangs fails the scenario it was in, and is booted again for the rest.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use serde_json::{Value, json};

use super::{
    find,
    kernels::KERNELS,
    matrix,
    package::{self, KernelFiles},
    qemu::{Boot, Machine},
    watch::Outcome,
};
use crate::{build, ledger, process::say};

/// A whole verify takes half a minute; a slow machine may need more.
const TIMEOUT: Duration = Duration::from_secs(300);

/// Exit codes of `stealtrace verify`: not as expected, and where it cannot run.
const FOUND: u8 = 1;
pub(super) const CANNOT_RUN: u8 = 2;

/// `lab verify`
#[derive(Args)]
pub(crate) struct Verify {
    /// Kernels of `lab list`; all that have a class if neither these nor an image or package is given
    #[arg(value_name = "KERNEL")]
    kernels: Vec<String>,
    /// Any kernel image (x86-64, as QEMU's -kernel takes it)
    #[arg(long, value_name = "VMLINUZ")]
    image: Option<PathBuf>,
    /// Where its kvm modules are, at any depth; what is not there is taken for built in
    #[arg(long, value_name = "DIR", requires = "image")]
    modules: Option<PathBuf>,
    /// Debian packages that hold an image and its modules
    #[arg(long, value_name = "FILE", num_args = 1.., conflicts_with = "image")]
    deb: Vec<PathBuf>,
    /// What the kernel should be; if not given, what `lab list` says, and fixed for an image or package
    #[arg(long, value_name = "CLASS", value_parser = ["affected", "fixed", "sound"])]
    expect: Option<String>,
    /// Only these scenarios, as a glob (repeatable)
    #[arg(long = "scenario", value_name = "GLOB")]
    scenarios: Vec<String>,
    /// Also write every verdict to this file, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// More options for `stealtrace verify`
    #[arg(last = true, value_name = "ARG")]
    arguments: Vec<String>,
}

/// A kernel to try.
struct Subject {
    name: String,
    files: KernelFiles,
    expect: String,
}

impl Subject {
    fn new(name: &str, files: KernelFiles, options: &Verify, expect: &str) -> Self {
        let expect = options.expect.as_deref().unwrap_or(expect);
        Self { name: name.to_owned(), files, expect: expect.to_owned() }
    }
}

/// What a kernel showed.
pub(super) struct Row {
    pub(super) name: String,
    pub(super) expect: String,
    /// Per backend; why not, if the lab itself failed.
    pub(super) passes: Result<Vec<Pass>, String>,
}

/// All scenarios with one backend.
#[derive(Default)]
pub(super) struct Pass {
    /// Objects of `stealtrace verify --format json`, and our own for scenarios that took the kernel along.
    pub(super) verdicts: Vec<Value>,
    /// Its summary; None if the kernel had to be booted again.
    pub(super) summary: Option<Value>,
    /// Exit code; 1 after a panic or hang.
    pub(super) code: u8,
    /// What was said on stderr.
    pub(super) said: String,
}

impl Pass {
    /// `kprobe`, `tracepoint`, or None where no second witness saw.
    pub(super) fn backend(&self) -> Option<&str> {
        self.summary.as_ref()?["witness"].as_str()
    }

    pub(super) fn class(&self) -> Option<&str> {
        self.summary.as_ref()?["class"].as_str()
    }
}

/// Try them all; print the matrix. The worst exit code.
pub(crate) fn verify(options: &Verify) -> Result<u8> {
    let binary = build::dist()?;
    let subjects = subjects(options)?;
    let backends = backends(&options.arguments);
    let jobs: Vec<_> =
        subjects.iter().flat_map(|subject| backends.iter().map(move |backend| (subject, *backend))).collect();
    let passes = in_parallel(&jobs, |(subject, backend)| try_out(subject, backend, &binary, options));
    let mut passes = passes.into_iter();
    let rows: Vec<_> = subjects
        .iter()
        .map(|subject| Row::of(subject, passes.by_ref().take(backends.len()).collect()))
        .collect();
    if let Some(file) = &options.json {
        let json = json!(rows.iter().map(Row::to_json).collect::<Vec<_>>());
        std::fs::write(file, format!("{json:#}\n")).with_context(|| format!("write {}", file.display()))?;
    }
    matrix::print(&rows)?;
    Ok(rows.iter().map(Row::code).max().unwrap_or(0))
}

/// The better backend, and tracepoints, which the better one hides; unless the user has chosen.
fn backends(arguments: &[String]) -> &'static [&'static str] {
    let chosen = |word: &String| word == "--no-trace" || word.starts_with("--backend");
    if arguments.iter().any(chosen) { &[""] } else { &["", "tracepoint"] }
}

fn subjects(options: &Verify) -> Result<Vec<Subject>> {
    let mut subjects = Vec::new();
    let given = match (&options.image, &options.deb[..]) {
        (Some(image), _) => Some(package::given(image, options.modules.as_deref())?),
        (None, [_, ..]) => Some(package::from_debs(&options.deb)?),
        (None, []) => None,
    };
    if let Some(files) = given {
        subjects.push(Subject::new("given", files, options, "fixed"));
    }
    let named = options.kernels.iter().map(|name| find(name)).collect::<Result<Vec<_>>>()?;
    let all = subjects.is_empty() && named.is_empty();
    let kernels = if all { KERNELS.iter().filter(|kernel| kernel.class.is_some()).collect() } else { named };
    for kernel in kernels {
        let files = kernel.files()?;
        subjects.push(Subject::new(kernel.name, files, options, kernel.class.unwrap_or("sound")));
    }
    Ok(subjects)
}

/// As many at a time as there are CPUs: the lab emulates with one thread a boot. Results in the order of the jobs.
fn in_parallel<J: Sync, R: Send>(jobs: &[J], work: impl Fn(&J) -> R + Sync) -> Vec<R> {
    let workers = thread::available_parallelism().map_or(1, Into::into).min(jobs.len());
    let next = Mutex::new(jobs.iter().enumerate());
    let results = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                let take = || lock(&next).next(); // and let go of the lock at once
                while let Some((i, job)) = take() {
                    let result = work(job);
                    lock(&results).push((i, result));
                }
            });
        }
    });
    let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    results.sort_by_key(|(i, _)| *i);
    results.into_iter().map(|(_, result)| result).collect()
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// All scenarios in one kernel with one backend; `""` is the better one.
fn try_out(subject: &Subject, backend: &str, binary: &Path, options: &Verify) -> Result<Pass> {
    let mut command =
        ["stealtrace", "verify", "--format", "json", "--expect", &subject.expect].map(str::to_owned).to_vec();
    if !backend.is_empty() {
        command.extend(["--backend".to_owned(), backend.to_owned()]);
    }
    command.extend_from_slice(&options.arguments);
    let mut boot = |scenarios: &[String]| {
        let script = Boot::command(&[&command[..], scenarios].concat());
        let name = format!("{} {backend}", subject.name).trim_end().replace(' ', "-");
        capture(&Machine::new(&name, &subject.files, binary, &script)?)
    };
    play(options.scenarios.clone(), &mut boot).with_context(|| subject.name.clone())
}

/// One boot: what it printed and how it ended.
struct Booted {
    stdout: String,
    stderr: String,
    outcome: Outcome,
}

fn capture(machine: &Machine) -> Result<Booted> {
    let (stdout, stderr) = (Kept::default(), Kept::default());
    let outcome = machine.run_into(TIMEOUT, stdout.clone(), stderr.clone())?;
    Ok(Booted { stdout: stdout.text(), stderr: stderr.text(), outcome })
}

#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<u8>>>);

impl Kept {
    fn text(&self) -> String {
        String::from_utf8_lossy(&lock(&self.0)).into_owned()
    }
}

impl Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        lock(&self.0).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The wanted scenarios, all if none are named, in as many boots as it takes.
fn play(mut wanted: Vec<String>, boot: &mut dyn FnMut(&[String]) -> Result<Booted>) -> Result<Pass> {
    let mut pass = Pass::default();
    let (mut may_retry, mut crashed) = (true, false);
    loop {
        let Booted { stdout, stderr, outcome } = boot(&wanted)?;
        let mut told = Told::read(&stdout);
        pass.verdicts.append(&mut told.verdicts);
        pass.said += &stderr;
        let how = match outcome {
            Outcome::Exited(code) => {
                pass.summary = told.summary.filter(|_| !crashed);
                pass.code = if crashed { FOUND } else { code };
                return Ok(pass);
            }
            Outcome::Hung(how) | Outcome::Died(how) => how,
        };
        if !told.planned && may_retry {
            ledger::retry(&format!("the kernel {how} before its first scenario"));
            may_retry = false;
            continue;
        }
        let mut unfinished = told.unfinished.into_iter();
        let Some(culprit) = unfinished.next() else { bail!("the kernel {how} outside of any scenario") };
        say(&format!("the kernel {how} in {culprit}; going on behind it"));
        crashed = true;
        pass.verdicts.push(json!({
            "type": "verdict", "scenario": culprit, "observed": "crash", "status": "failed",
            "why": format!("the kernel {how}"),
        }));
        wanted = unfinished.collect();
        if wanted.is_empty() {
            pass.code = FOUND;
            return Ok(pass);
        }
    }
}

/// What `stealtrace verify --format json` told before it ended, one way or another.
#[derive(Default)]
struct Told {
    planned: bool,
    unfinished: Vec<String>,
    verdicts: Vec<Value>,
    summary: Option<Value>,
}

impl Told {
    fn read(text: &str) -> Self {
        let mut told = Self::default();
        for object in text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
            match object["type"].as_str() {
                Some("plan") => {
                    let ids = object["scenarios"].as_array().into_iter().flatten();
                    told.unfinished = ids.filter_map(|id| id.as_str().map(str::to_owned)).collect();
                    told.planned = true;
                }
                Some("verdict") => {
                    told.unfinished.retain(|id| object["scenario"] != *id);
                    told.verdicts.push(object);
                }
                Some("summary") => told.summary = Some(object),
                _ => {}
            }
        }
        told
    }
}

impl Row {
    /// A second pass that could not run there, or turned out to be the same backend, is left out.
    fn of(subject: &Subject, passes: Vec<Result<Pass>>) -> Self {
        let passes: Result<Vec<Pass>> = passes.into_iter().collect();
        let passes = passes.map_err(|error| format!("{error:#}")).map(|mut passes| {
            if let [first, second] = &passes[..]
                && (second.code == CANNOT_RUN || first.backend() == second.backend())
            {
                passes.truncate(1);
            }
            passes
        });
        Self { name: subject.name.clone(), expect: subject.expect.clone(), passes }
    }

    /// 0 as expected, 1 not, 3 nothing proved; the lab's own failure is 125.
    fn code(&self) -> u8 {
        match &self.passes {
            Ok(passes) => passes.iter().map(|pass| pass.code).max().unwrap_or(0),
            Err(_) => crate::TROUBLE,
        }
    }

    fn to_json(&self) -> Value {
        let pass = |pass: &Pass| json!({"verdicts": pass.verdicts, "summary": pass.summary, "exit": pass.code, "stderr": pass.said});
        json!({
            "kernel": self.name,
            "expected": self.expect,
            "passes": self.passes.as_ref().ok().map(|passes| passes.iter().map(pass).collect::<Vec<_>>()),
            "lab_failed": self.passes.as_ref().err(),
        })
    }
}

#[cfg(test)]
mod tests {
    use anyhow::Result;

    use super::{Booted, Outcome, Pass, play};

    const PLAN: &str = r#"{"type":"plan","scenarios":["a","b","c"]}"#;

    fn verdict(id: &str) -> String {
        format!("\n{{\"type\":\"verdict\",\"scenario\":\"{id}\",\"status\":\"passed\"}}")
    }

    fn booted(stdout: String, outcome: Outcome) -> Result<Booted> {
        Ok(Booted { stdout, stderr: String::new(), outcome })
    }

    fn told(pass: &Pass) -> Vec<(&str, &str)> {
        let text = |value: &'_ serde_json::Value| -> &'static str {
            match value.as_str() {
                Some("passed") => "passed",
                Some("failed") => "failed",
                _ => "?",
            }
        };
        pass.verdicts.iter().map(|v| (v["scenario"].as_str().unwrap_or("?"), text(&v["status"]))).collect()
    }

    #[test]
    fn a_panic_fails_its_scenario_and_the_rest_still_runs() {
        let mut asked = Vec::new();
        let pass = play(Vec::new(), &mut |wanted| {
            asked.push(wanted.to_vec());
            match asked.len() {
                1 => booted(PLAN.to_owned() + &verdict("a"), Outcome::Died("panicked".to_owned())),
                _ => booted(
                    r#"{"type":"plan","scenarios":["c"]}"#.to_owned() + &verdict("c"),
                    Outcome::Exited(0),
                ),
            }
        })
        .unwrap();
        assert_eq!(told(&pass), [("a", "passed"), ("b", "failed"), ("c", "passed")]);
        assert_eq!(asked, [vec![], vec!["c".to_owned()]]);
        assert_eq!((pass.code, pass.class()), (1, None));
    }

    #[test]
    fn a_panic_in_the_last_scenario_ends_it() {
        let pass = play(Vec::new(), &mut |_| {
            booted(PLAN.to_owned() + &verdict("a") + &verdict("b"), Outcome::Hung("hung".to_owned()))
        })
        .unwrap();
        assert_eq!(told(&pass), [("a", "passed"), ("b", "passed"), ("c", "failed")]);
    }

    #[test]
    fn a_kernel_that_does_not_boot_is_tried_once_more_and_then_the_labs_failure() {
        let mut boots = 0;
        let played = play(Vec::new(), &mut |_| {
            boots += 1;
            booted(String::new(), Outcome::Hung("did not boot".to_owned()))
        });
        assert_eq!(boots, 2);
        assert!(played.is_err());
    }

    #[test]
    fn what_could_not_run_keeps_its_exit_code() {
        let pass = play(Vec::new(), &mut |_| booted(String::new(), Outcome::Exited(2))).unwrap();
        assert_eq!((pass.code, pass.verdicts.len()), (2, 0));
    }
}
