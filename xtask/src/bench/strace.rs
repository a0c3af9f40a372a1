//! How fast `analyze` reads a strace log of a gigabyte.

use std::{
    fs::File,
    io::{BufWriter, Write as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context as _, Result};

use super::{Goal, Row};
use crate::{
    cache,
    process::{run, say},
};

/// Bytes of the strace log that `analyze` reads.
const LOG_BYTES: u64 = 1 << 30;
const ROUNDS: usize = 3;

pub(super) fn rows(stealtrace: &Path) -> Result<Vec<Row>> {
    say("bench: a strace log");
    let log = strace_log()?;
    let mut speeds = Vec::new();
    for _ in 0..ROUNDS {
        let start = Instant::now();
        run(Command::new(stealtrace).args(["analyze", "--findings-only"]).arg(&log).stdout(Stdio::null()))?;
        speeds.push(LOG_BYTES as f64 / 1e6 / start.elapsed().as_secs_f64());
    }
    std::fs::remove_file(&log).context("remove the log")?;
    Ok(vec![Row::of("analyze a strace log", speeds, "MB/s", Goal::AtLeast(500.0))])
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
