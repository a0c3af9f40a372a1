//! `lab verify`: `stealtrace verify` in every kernel, with every backend that sees there. A kernel that panics or
//! hangs fails the scenario it was in, and is booted again for the rest.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow};
use clap::Args;
use serde_json::json;

use super::{
    find, image, junit,
    kernels::KERNELS,
    markdown, matrix,
    package::{self, KernelFiles},
    page,
    play::{Booted, play},
    qemu::{Boot, Machine},
    row::{Pass, Row, worst},
};
use crate::{arch::Arch, build};

/// A whole verify takes half a minute; a slow machine may need more.
const TIMEOUT: Duration = Duration::from_secs(300);

/// `lab verify`
#[derive(Args)]
pub(crate) struct Verify {
    /// Kernels of `lab list`; Debian 12's that have a class if neither these nor an image or package is given
    #[arg(value_name = "KERNEL")]
    kernels: Vec<String>,
    /// All of `lab list` that have a class, from the oldest to the newest
    #[arg(long, conflicts_with_all = ["kernels", "image", "deb", "rpm"])]
    all: bool,
    /// Any kernel image (x86-64, as QEMU's -kernel takes it)
    #[arg(long, value_name = "VMLINUZ")]
    image: Option<PathBuf>,
    /// Where its kvm modules are, at any depth; what is not there is taken for built in
    #[arg(long, value_name = "DIR", requires = "image")]
    modules: Option<PathBuf>,
    /// Packages of Debian or Ubuntu that hold an image and its modules
    #[arg(long, value_name = "FILE", num_args = 1.., conflicts_with = "image")]
    deb: Vec<PathBuf>,
    /// Those of Fedora, RHEL or SUSE
    #[arg(long, value_name = "FILE", num_args = 1.., conflicts_with_all = ["image", "deb"])]
    rpm: Vec<PathBuf>,
    /// What the kernel should be; if not given, what `lab list` says, and fixed for an image or package
    #[arg(long, value_name = "CLASS", value_parser = ["affected", "fixed", "sound"])]
    expect: Option<String>,
    /// Only these scenarios, as a glob (repeatable)
    #[arg(long = "scenario", value_name = "GLOB")]
    scenarios: Vec<String>,
    /// Only by these backends of stealtrace (repeatable)
    #[arg(long = "backend", value_name = "NAME", value_parser = ["fentry", "kprobe", "tracepoint"])]
    backends: Vec<String>,
    /// Also write every verdict to this file, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// And to this one, as JUnit XML
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// And the matrix to this one, as a page whose cells open
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// And what each kernel is to this one, as a table in Markdown
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    /// More options for `stealtrace verify`
    #[arg(last = true, value_name = "ARG")]
    arguments: Vec<String>,
}

/// A kernel to try.
struct Subject {
    name: String,
    /// Or why it cannot be had.
    files: Result<KernelFiles>,
    expect: String,
}

impl Subject {
    fn new(name: &str, files: Result<KernelFiles>, options: &Verify, expect: &str) -> Self {
        let expect = options.expect.as_deref().unwrap_or(expect);
        Self { name: name.to_owned(), files, expect: expect.to_owned() }
    }

    fn release(&self) -> String {
        let files = self.files.as_ref().ok();
        files.and_then(|files| image::release(&files.image)).unwrap_or_default()
    }
}

/// What runs in the lab guests, for each processor among them.
struct Binaries(Vec<(Arch, Result<PathBuf>)>);

impl Binaries {
    fn build(subjects: &[Subject]) -> Self {
        let mut binaries = Self(Vec::new());
        for files in subjects.iter().filter_map(|subject| subject.files.as_ref().ok()) {
            let arch = files.processor.arch();
            if binaries.0.iter().all(|(of, _)| *of != arch) {
                binaries.0.push((arch, build::for_lab(arch)));
            }
        }
        binaries
    }

    fn find(&self, arch: Arch) -> Result<&Path> {
        let built = self.0.iter().find(|(of, _)| *of == arch).map(|(_, built)| built.as_deref());
        built.context("no binary for this processor")?.map_err(|error| anyhow!("{error:#}"))
    }
}

/// Try them all; print the matrix. The worst exit code.
pub(crate) fn verify(options: &Verify) -> Result<u8> {
    let code = verify_all(options);
    package::forget_given();
    code
}

fn verify_all(options: &Verify) -> Result<u8> {
    let subjects = subjects(options)?;
    let binaries = Binaries::build(&subjects);
    let backends = backends(options);
    let jobs: Vec<_> =
        subjects.iter().flat_map(|subject| backends.iter().map(move |backend| (subject, *backend))).collect();
    let passes = in_parallel(&jobs, |(subject, backend)| try_out(subject, backend, &binaries, options));
    let mut passes = passes.into_iter();
    let rows: Vec<_> = subjects
        .iter()
        .map(|subject| {
            let expect = &subject.expect;
            Row::of(&subject.name, subject.release(), expect, passes.by_ref().take(backends.len()).collect())
        })
        .collect();
    if let Some(file) = &options.json {
        let json = json!(rows.iter().map(Row::to_json).collect::<Vec<_>>());
        write(file, &format!("{json:#}\n"))?;
    }
    if let Some(file) = &options.junit {
        write(file, &junit::document(&rows)?)?;
    }
    if let Some(file) = &options.html {
        write(file, &page::page(&rows))?;
    }
    if let Some(file) = &options.markdown {
        write(file, &markdown::page(&rows)?)?;
    }
    matrix::print(&rows)?;
    Ok(worst(rows.iter().map(Row::code)))
}

fn write(file: &Path, text: &str) -> Result<()> {
    std::fs::write(file, text).with_context(|| format!("write {}", file.display()))
}

/// Those that a user chose, or the best one, `""`, and those that it hides.
fn backends(options: &Verify) -> Vec<&str> {
    let is_chosen = |word: &String| word == "--no-trace" || word.starts_with("--backend");
    match &options.backends[..] {
        [] if options.arguments.iter().any(is_chosen) => vec![""],
        [] => vec!["", "kprobe", "tracepoint"],
        chosen => chosen.iter().map(String::as_str).collect(),
    }
}

fn subjects(options: &Verify) -> Result<Vec<Subject>> {
    let mut subjects = Vec::new();
    let given = match (&options.image, &options.deb[..], &options.rpm[..]) {
        (Some(image), ..) => Some(package::from_files(image, options.modules.as_deref())?),
        (None, [_, ..], _) => Some(package::from_debs(&options.deb)?),
        (None, [], [_, ..]) => Some(package::from_rpms(&options.rpm)?),
        (None, [], []) => None,
    };
    if let Some(files) = given {
        let name = image::release(&files.image).unwrap_or_else(|| "given".to_owned());
        subjects.push(Subject::new(&name, Ok(files), options, "fixed"));
    }
    let named = options.kernels.iter().map(|name| find(name)).collect::<Result<Vec<_>>>()?;
    let kernels = if options.all {
        KERNELS.iter().filter(|kernel| kernel.class.is_some()).collect()
    } else if subjects.is_empty() && named.is_empty() {
        KERNELS.iter().filter(|kernel| kernel.is_everyday()).collect()
    } else {
        named
    };
    for kernel in kernels {
        subjects.push(Subject::new(kernel.name, kernel.files(), options, kernel.class.unwrap_or("sound")));
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

/// All scenarios in one kernel with one backend; `""` is the best one.
fn try_out(subject: &Subject, backend: &str, binaries: &Binaries, options: &Verify) -> Result<Pass> {
    let mut command =
        ["stealtrace", "verify", "--format", "json", "--expect", &subject.expect].map(str::to_owned).to_vec();
    if !backend.is_empty() {
        command.extend(["--backend".to_owned(), backend.to_owned()]);
    }
    if options.html.is_some() {
        command.push("--pictures".to_owned());
    }
    command.extend_from_slice(&options.arguments);
    let files = subject.files.as_ref().map_err(|error| anyhow!("{error:#}"))?;
    let binary = binaries.find(files.processor.arch())?;
    let mut boot = |scenarios: &[String]| {
        let script = Boot::command(&[&command[..], scenarios].concat());
        let name = format!("{} {backend}", subject.name).trim_end().replace(' ', "-");
        capture(&Machine::new(&name, files, binary, &script)?)
    };
    play(options.scenarios.clone(), &mut boot).with_context(|| subject.name.clone())
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
