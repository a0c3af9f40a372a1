//! What it costs to leave export on, and to scrape it.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::{
    Goal, Row,
    scale::Load,
    tax::last_number,
    watcher::{Watching, cpu_seconds},
};
use crate::process::{output, say};

const ROUNDS: usize = 3;
const SCRAPES: usize = 7;
/// Between two scrapes.
const PAUSE: Duration = Duration::from_secs(20);
/// An ordinary host, and a large one.
const HOST: usize = 1000;
const LARGE: usize = 4096;

pub(super) fn rows(stealtrace: &Path) -> Result<Vec<Row>> {
    let mut rows = vec![tax(stealtrace)?, busy(stealtrace)?];
    rows.extend(memory(stealtrace)?);
    rows.extend(scrapes(stealtrace)?);
    rows.push(growth(stealtrace)?);
    Ok(rows)
}

/// export, and where it serves.
struct Export {
    watching: Watching,
    address: String,
}

impl Export {
    fn begin(stealtrace: &Path) -> Result<Self> {
        let mut command = Command::new(stealtrace);
        command.args(["export", "--listen", "127.0.0.1:0"]).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut watching = Watching(command.spawn().context("start export")?);
        let told = watching.0.stderr.take().context("export has no stderr")?;
        let mut lines = BufReader::new(told).lines().map_while(Result::ok);
        let line = lines.find_map(|line| Some(line.split_once("http://")?.1.to_owned()));
        let address = line.context("export does not serve")?.split('/').next().unwrap_or_default().to_owned();
        thread::spawn(move || lines.for_each(drop)); // keep its stderr open
        Ok(Self { watching, address })
    }

    fn scrape(&self) -> Result<String> {
        let mut stream = TcpStream::connect(&self.address)?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }
}

/// A hundred vCPUs that run beside nine hundred that do not.
fn a_hundred(stealtrace: &Path, seconds: u64) -> Command {
    let mut load = Command::new(stealtrace);
    load.args(["load", "run", "--vcpus", "100", "--idle", "900", "--duration", &format!("{seconds}s")]);
    load
}

/// The tax on them, by the calls of all together: a mean of each one's cost is that of those that hardly ever ran.
fn tax(stealtrace: &Path) -> Result<Row> {
    const ROUNDS: usize = 7;
    say("bench: export beside 1,000 vCPUs of which 100 run");
    let calls = || last_number(&output(&mut a_hundred(stealtrace, 5))?);
    let mut taxes = Vec::new();
    for _ in 0..ROUNDS {
        let unwatched = calls()?;
        let _export = Export::begin(stealtrace)?;
        taxes.push(unwatched / calls()?);
    }
    Ok(Row::of("export: 100 of 1000 vCPUs run", taxes, "x", Goal::AtMost(1.10)))
}

/// What export takes itself while they are there.
fn busy(stealtrace: &Path) -> Result<Row> {
    let mut shares = Vec::new();
    for _ in 0..ROUNDS {
        let mut load = a_hundred(stealtrace, PAUSE.as_secs() + 10);
        let _beside = Watching(load.stdout(Stdio::null()).spawn().context("start a load")?);
        let export = Export::begin(stealtrace)?;
        thread::sleep(Duration::from_secs(5)); // until they are there
        let (cpu, start) = (cpu_seconds(export.watching.0.id())?, Instant::now());
        thread::sleep(PAUSE);
        shares.push((cpu_seconds(export.watching.0.id())? - cpu) / start.elapsed().as_secs_f64() * 100.0);
    }
    Ok(Row::of("export: its own CPU between scrapes", shares, "% of one", Goal::AtMost(0.5)))
}

fn memory(stealtrace: &Path) -> Result<[Row; 2]> {
    say("bench: export's memory");
    let with = |vcpus: usize| -> Result<f64> {
        let _load = Load::running(stealtrace, vcpus)?;
        thread::sleep(Duration::from_secs(4)); // until they are there
        let export = Export::begin(stealtrace)?;
        export.scrape()?;
        export.scrape()?;
        export.watching.megabytes_now()
    };
    let (mut host, mut each) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let (megabytes, more) = (with(HOST)?, with(LARGE)?);
        host.push(megabytes);
        each.push((more - megabytes) * 1e6 / (LARGE - HOST) as f64);
    }
    Ok([
        Row::of("export: memory, 1000 vCPUs alive", host, "MB", Goal::AtMost(32.0)),
        Row::of("export: memory of a further vCPU", each, "B", Goal::AtMost(2048.0)),
    ])
}

fn scrapes(stealtrace: &Path) -> Result<[Row; 2]> {
    say("bench: scrapes of 4,096 vCPUs");
    let _load = Load::running(stealtrace, LARGE)?;
    thread::sleep(Duration::from_secs(4)); // until they are there
    let export = Export::begin(stealtrace)?;
    let (mut times, mut sizes) = (Vec::new(), Vec::new());
    for _ in 0..SCRAPES {
        let start = Instant::now();
        let text = export.scrape()?;
        times.push(start.elapsed().as_secs_f64() * 1e3);
        sizes.push(text.len() as f64 / 1e6);
    }
    Ok([
        Row::of("export: a scrape of 4096 vCPUs", times, "ms", Goal::AtMost(50.0)),
        Row::of("export: its size", sizes, "MB", Goal::AtMost(4.0)),
    ])
}

fn growth(stealtrace: &Path) -> Result<Row> {
    say("bench: export beside VMs that come and go");
    let export = Export::begin(stealtrace)?;
    let churn = |duration: &str| -> Result<f64> {
        output(Command::new(stealtrace).args(["load", "churn", "--vcpus", "2", "--duration", duration]))?;
        export.scrape()?;
        export.watching.megabytes_now()
    };
    let (few, many) = (churn("3s")?, churn("40s")?);
    Ok(Row::of("export: memory after 10,000 VMs over that before", vec![many / few], "x", Goal::AtMost(1.05)))
}
