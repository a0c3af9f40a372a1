//! Fuzzing: every reader of files gets inputs that libFuzzer makes up from real ones. A crash, an input that takes ten
//! seconds, or memory beyond a limit fails.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use anyhow::{Context as _, Result};

use crate::{
    arch::Arch,
    cache, debian,
    process::{run_logged, say, which},
};

/// `stealtrace/fuzz/fuzz_targets`, one for each kind of file, and one for what a file is found to be.
const TARGETS: [&str; 6] = ["systemtap", "strace", "proc_stat", "xp", "recording", "file"];

/// What libFuzzer needs to see which code an input reaches: LLVM's coverage, in all crates (as cargo-fuzz builds them,
/// but for sanitizers: those need a nightly compiler, and there is no unsafe code to find fault with). Recordings are not
/// held to their checksums, which no made-up input has.
const COVERAGE: [&str; 8] = [
    "--cfg=fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Cdebug-assertions",
    "-Coverflow-checks",
];

/// What a run may take: MiB in all, seconds for one input, bytes of one input.
const LIMITS: [&str; 3] = ["-rss_limit_mb=1024", "-timeout=10", "-max_len=1024"];

/// Inputs that only run the same code more often are nothing new: twice the inputs in a second.
const FAST: &str = "-use_counters=0";

/// Give each target this many inputs, made from the evidence and the recordings of the tests, and from what runs before
/// found to reach new code.
pub(crate) fn fuzz(inputs: u64) -> Result<()> {
    if which("c++").is_none() {
        debian::install(&["g++".to_owned()]).context("libFuzzer is written in C++")?;
    }
    let binaries = build()?;
    for target in TARGETS {
        let start = Instant::now();
        fuzz_target(&binaries, target, inputs)?;
        let seconds = start.elapsed().as_secs_f64();
        say(&format!(
            "fuzz {target}: {inputs} inputs in {seconds:.1} s, {:.0} a second",
            inputs as f64 / seconds
        ));
    }
    Ok(())
}

/// Where they are built.
fn build() -> Result<PathBuf> {
    say("building the fuzz targets (minutes, the first time)");
    let target = cache::target()?.join("fuzz");
    fs::create_dir_all(&target)?;
    run_logged(
        Command::new("cargo")
            .args(["build", "--release", "--target", Arch::HERE.target(), "--target-dir"])
            .arg(&target)
            .env("RUSTFLAGS", COVERAGE.join(" "))
            .current_dir(folder()?),
        &target.join("build.log"),
    )?;
    Ok(target.join(Arch::HERE.target()).join("release"))
}

fn folder() -> Result<PathBuf> {
    Ok(cache::root()?.join("stealtrace/fuzz"))
}

fn fuzz_target(binaries: &Path, target: &str, inputs: u64) -> Result<()> {
    let work = cache::target()?.join("fuzz/found").join(target);
    fs::create_dir_all(&work)?;
    let [fuzz, root] = [folder()?, cache::root()?];
    let mut command = Command::new(binaries.join(target));
    command
        .arg(&work)
        .args(["evidence", "recordings"].map(|seeds| root.join("tests").join(seeds)))
        .arg(format!("-runs={inputs}"))
        .arg(format!("-dict={}", fuzz.join("words.dict").display()))
        .arg(format!("-artifact_prefix={}/failed-", work.display()))
        .arg("-print_final_stats=1")
        .arg(FAST)
        .args(LIMITS)
        .env("RUST_BACKTRACE", "0"); // errors are no failures, and would each take one
    run_logged(&mut command, &work.with_extension("log"))
        .with_context(|| format!("fuzz {target}: the input that failed is {}/failed-*", work.display()))
}
