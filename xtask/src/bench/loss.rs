//! Is anything lost, and if so, is it counted?

use std::{
    fs::File,
    io::{Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::{Goal, Row, watcher::Watching};
use crate::{cache, process::say};

const VCPUS: u64 = 2;

pub(super) fn rows(stealtrace: &Path) -> Result<Vec<Row>> {
    say("bench: 30 s flat out on both CPUs, to a file");
    let file = Output::new()?;
    file.trace(stealtrace, "30s")?.0.wait().context("wait for the trace")?;
    let flat_out = file.summary()?;

    say("bench: a consumer that stands still for 5 s");
    let mut trace = file.trace(stealtrace, "8s")?;
    thread::sleep(Duration::from_millis(1500));
    trace.signal(libc::SIGSTOP);
    thread::sleep(Duration::from_secs(5));
    trace.signal(libc::SIGCONT);
    thread::sleep(Duration::from_millis(500));
    let memory = trace.peak_megabytes()?;
    let code = trace.0.wait().context("wait for the trace")?.code();
    ensure!(code == Some(3), "a trace that lost events exited with {code:?}, not with 3 (inconclusive)");
    let stopped = file.summary()?;

    let one = |what: &str, number: f64, unit, goal| Row::of(what, vec![number], unit, goal);
    Ok(vec![
        one("30 s flat out, events", number(&flat_out, "events")? / 1e6, "M", Goal::None),
        one("30 s flat out, lost", number(&flat_out, "lost")?, "", Goal::AtMost(0.0)),
        one("5 s stopped, lost", number(&stopped, "lost")? / 1e6, "M", Goal::None),
        one("5 s stopped, neither consumed nor lost", unaccounted(&stopped)?, "", Goal::AtMost(0.0)),
        one("5 s stopped, peak memory", memory, "MB", Goal::AtMost(100.0)),
    ])
}

/// Every vCPU ioctl entered makes one event; every event emitted is consumed.
fn unaccounted(summary: &Value) -> Result<f64> {
    let probes = summary["probes"].as_array().context("a summary lists its probes")?;
    let entry = probes
        .iter()
        .find(|probe| {
            ["sys_enter_ioctl", "sys_enter", "kvm_vcpu_ioctl"].iter().any(|name| probe["probe"] == *name)
        })
        .context("no probe at the entry of ioctls")?;
    let entered = number(entry, "hits")?;
    let emitted: f64 = probes.iter().map(|probe| number(probe, "emitted")).sum::<Result<f64>>()?;
    let at_entry = entered - number(entry, "emitted")? - number(entry, "lost")?;
    Ok(at_entry.abs() + (emitted - number(summary, "events")?).abs())
}

fn number(of: &Value, key: &str) -> Result<f64> {
    of[key].as_f64().with_context(|| format!("no number {key} in the summary"))
}

/// A file for a trace; removed when dropped.
struct Output(PathBuf);

impl Output {
    fn new() -> Result<Self> {
        Ok(Self(cache::target()?.join("bench.json")))
    }

    fn trace(&self, stealtrace: &Path, duration: &str) -> Result<Watching> {
        let out = File::create(&self.0).with_context(|| format!("create {}", self.0.display()))?;
        let mut command = Command::new(stealtrace);
        command.args(["trace", "--format", "json", "--"]).arg(stealtrace);
        command.args(["load", "run", "--vcpus", &VCPUS.to_string(), "--duration", duration]);
        Ok(Watching(command.stdout(out).stderr(Stdio::null()).spawn().context("start a trace")?))
    }

    /// The last line.
    fn summary(&self) -> Result<Value> {
        const ENOUGH: i64 = 1 << 16;
        let mut file = File::open(&self.0)?;
        if file.seek(SeekFrom::End(-ENOUGH)).is_err() {
            file.rewind()?;
        }
        let mut end = Vec::new();
        file.read_to_end(&mut end)?;
        let end = String::from_utf8_lossy(&end);
        serde_json::from_str(end.lines().last().unwrap_or_default()).context("the trace ends with a summary")
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        let _gone = std::fs::remove_file(&self.0);
    }
}
