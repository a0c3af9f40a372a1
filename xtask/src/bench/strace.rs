//! Speed, measured in one run and printed as it is; no test depends on it.

use std::{
    fs::File,
    io::{BufWriter, Write as _},
    path::PathBuf,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use crate::{
    build, cache,
    process::{run, say},
};

/// Bytes of the strace log that `analyze` reads.
const LOG_BYTES: u64 = 1 << 30;
/// Runs of each measurement; the median counts.
const RUNS: usize = 3;

/// Print the speeds.
pub(crate) fn bench() -> Result<()> {
    let binary = build::dist()?;
    let log = strace_log()?;
    let read = median(|| timed(Command::new("wc").arg("-l").arg(&log)))?;
    let analyzed = median(|| timed(Command::new(&binary).args(["analyze", "--findings-only"]).arg(&log)))?;
    say(&format!("wc -l        {:>6.0} MB/s", megabytes_per_second(read)));
    say(&format!("analyze      {:>6.0} MB/s of strace log (goal: 200)", megabytes_per_second(analyzed)));
    std::fs::remove_file(&log).context("remove the log")
}

/// A VMM's strace: a vCPU that runs, and another thread that looks at it now and then.
fn strace_log() -> Result<PathBuf> {
    let path = cache::target()?.join("bench.strace");
    let mut out = BufWriter::new(File::create(&path).with_context(|| format!("create {}", path.display()))?);
    writeln!(out, "[pid  1861] 12:00:00.000000 ioctl(14, KVM_CREATE_VCPU, 0) = 20")?;
    let (mut written, mut line) = (0_u64, 0_u64);
    while written < LOG_BYTES {
        let (tid, name) = if line.is_multiple_of(50) { (1859, "KVM_GET_REGS") } else { (1861, "KVM_RUN") };
        let (second, micros) = (line / 1_000_000 % 60, line % 1_000_000);
        let text = format!(
            "[pid  {tid}] 12:00:{second:02}.{micros:06} ioctl(20, {name}, 0x7fbd3ca40{:03x}) = 0\n",
            line % 4096
        );
        out.write_all(text.as_bytes())?;
        written += text.len() as u64;
        line += 1;
    }
    out.flush()?;
    Ok(path)
}

fn timed(command: &mut Command) -> Result<Duration> {
    let start = Instant::now();
    run(command.stdout(Stdio::null()))?;
    Ok(start.elapsed())
}

fn median(mut measure: impl FnMut() -> Result<Duration>) -> Result<Duration> {
    let mut times = (0..RUNS).map(|_| measure()).collect::<Result<Vec<_>>>()?;
    times.sort();
    Ok(times[RUNS / 2])
}

fn megabytes_per_second(time: Duration) -> f64 {
    LOG_BYTES as f64 / 1e6 / time.as_secs_f64()
}
