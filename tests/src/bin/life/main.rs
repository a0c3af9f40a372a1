//! A Linux guest's life under QEMU with KVM, played inside a lab guest: what QEMU, stealtrace and the guest say of it must
//! be the same. Plays the parts that are named, or all. Exit 1: they do not agree. Exit 2: it could not be played. Exit 3:
//! the guest rebooted by itself.
//!
//! Nothing here has a limit of time: a part that does not go on is the lab's to notice, by what is no longer written to
//! /tmp.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "what it prints is what it is for")]

mod arch;
mod machine;
mod qmp;
mod witness;

use std::{
    fs::{self, File},
    io::Write as _,
    process::{Command, ExitCode},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use self::{
    machine::{Machine, clear_console, last_beat, last_words, next_said, said},
    witness::{Witness, inspect, inspected, last_update},
};

/// A part of the guest's life.
struct Part {
    /// To ask for it.
    name: &'static str,
    /// As it is told.
    about: &'static str,
    /// Is it for machines whose second CPU can be taken away?
    replugs: bool,
    play: fn(&mut Life) -> Result<()>,
}

const PARTS: [Part; 6] = [
    Part { name: "boot", about: "boots and runs beside a busy host", replugs: false, play: boot },
    Part {
        name: "restore",
        about: "is saved to a file and restored by another QEMU",
        replugs: false,
        play: restore,
    },
    Part { name: "reset", about: "is reset", replugs: false, play: reset },
    Part { name: "replug", about: "loses a CPU and gets it again", replugs: true, play: replug },
    Part { name: "reset-again", about: "is reset again", replugs: true, play: reset },
    Part { name: "guarded", about: "loses a CPU and gets it again, guarded", replugs: true, play: guarded },
];

/// Those that can be played here.
fn parts() -> impl Iterator<Item = &'static Part> {
    PARTS.iter().filter(|part| arch::SECOND.is_some() || !part.replugs)
}

/// It could not be played.
const TROUBLE: u8 = 2;
/// A guest that rebooted by itself is in its firmware.
const REBOOTED: u8 = 3;

fn main() -> ExitCode {
    let mut life = Life { machine: None, part: "", agrees: true, rebooted: false };
    match life.play(&std::env::args().skip(1).collect::<Vec<_>>()) {
        Ok(()) if life.rebooted => ExitCode::from(REBOOTED),
        Ok(()) => ExitCode::from(u8::from(!life.agrees)),
        Err(error) => {
            eprintln!("in {:?}: {error:#}\n{}", life.part, last_words().unwrap_or_default());
            ExitCode::from(TROUBLE)
        }
    }
}

/// What is going on.
struct Life {
    machine: Option<Machine>,
    part: &'static str,
    agrees: bool,
    rebooted: bool,
}

impl Life {
    fn play(&mut self, names: &[String]) -> Result<()> {
        let known: Vec<_> = parts().map(|part| part.name).collect();
        ensure!(names.iter().all(|name| known.contains(&name.as_str())), "there are {}", known.join(", "));
        fs::create_dir_all("/report")?;
        clear_console()?;
        for part in parts().filter(|part| names.is_empty() || names.iter().any(|name| name == part.name)) {
            if self.machine.is_none() && part.name != "boot" {
                self.start()?;
            }
            self.live(part)?;
            if self.rebooted {
                return Ok(());
            }
        }
        Ok(())
    }

    /// One part, watched from its beginning to its end.
    fn live(&mut self, part: &Part) -> Result<()> {
        self.part = part.about;
        println!("== {}", part.about);
        step(part.about)?;
        let watch = "trace --findings-only --ns --min-severity warning";
        let watcher = Witness::start(watch, "tracing", "/tmp/findings")?;
        (part.play)(self)?;
        self.look()?;
        let (code, findings) = watcher.end()?;
        print!("{findings}");
        println!("stealtrace trace exits with {code}");
        print!("{}", last_beat()?);
        Ok(())
    }

    fn machine(&mut self) -> Result<&mut Machine> {
        self.machine.as_mut().context("no machine")
    }

    /// A guest that is up, on a host that then is busy.
    fn start(&mut self) -> Result<()> {
        self.machine = Some(Machine::start(&[])?);
        said("cpus 2")?;
        Command::new("sh").args(["-c", "while :; do :; done"]).spawn().context("make the host busy")?;
        Ok(())
    }

    /// A guest that stands still, as everybody sees it.
    fn look(&mut self) -> Result<()> {
        step(&format!("{}: what everybody says of it", self.part))?;
        let tracer = Witness::start("trace --format json", "tracing", "/report/events")?;
        next_said("stealtrace guest exits with")?;
        self.machine()?.qmp.tell("stop")?;
        let (_code, trace) = tracer.end()?;
        let vcpus = inspected()?;
        if vcpus.iter().any(|vcpu| vcpu[arch::ENABLED] == false) {
            eprintln!("the guest is in its firmware: it rebooted by itself\n{}", last_words()?);
            self.rebooted = true;
            return Ok(());
        }
        for number in [0, 1] {
            let vcpu = vcpus.iter().find(|vcpu| vcpu["vcpu_id"] == number).unwrap_or(&Value::Null);
            self.compare(number, vcpu, &last_update(&trace, number).unwrap_or(Value::Null))?;
        }
        if vcpus.len() != 2 {
            self.differs(&format!("inspect sees {} vCPUs", vcpus.len()));
        }
        print!("{}", inspect()?);
        self.machine()?.qmp.tell("cont").map(drop)
    }

    /// QEMU's monitor against everybody else.
    fn compare(&mut self, number: u64, vcpu: &Value, update: &Value) -> Result<()> {
        let address = vcpu["area_guest_address"].as_u64().unwrap_or_default();
        let thread = self.machine()?.thread(number)?;
        let (steal, version) = self.machine()?.area(address)?;
        println!("vCPU {number} in QEMU's monitor: thread {thread}, steal {steal} ns, version {version}");
        let expected = [thread, steal, version].map(Value::from);
        let judgement = vcpu["judgement"].as_str().unwrap_or_default();
        let of = |object: &Value, names: [&str; 3]| names.map(|name| object[name].clone());
        self.same(
            &format!("inspect: the same ({judgement})"),
            &of(vcpu, ["runner_tid", "steal_ns", "version"]),
            &expected,
        );
        let named = [&vcpu["vm_name"], &vcpu["runner"]].map(Clone::clone);
        if named != [Value::from("lab"), Value::from(format!("CPU {number}/KVM"))] {
            self.differs(&format!("inspect says {named:?}"));
        }
        self.same(
            "trace: the same",
            &of(update, ["caller_tid", "steal_after_ns", "version_after"]),
            &expected,
        );
        let beat = last_beat()?;
        let (what, own, expected) = arch::own(row(&beat, number), vcpu);
        self.same(what, &own, &expected);
        Ok(())
    }

    fn same<T: PartialEq + std::fmt::Debug>(&mut self, remark: &str, said: &T, expected: &T) {
        if said == expected {
            println!("    {remark}");
        } else {
            self.differs(&format!("not {remark}: {said:?}, but {expected:?}"));
        }
    }

    fn differs(&mut self, how: &str) {
        println!("DIFFERS: {how}");
        self.agrees = false;
    }
}

/// A CPU's row of the guest's own table.
fn row(beat: &str, vcpu: u64) -> &str {
    let is_it = |line: &&str| line.split_whitespace().nth(1) == Some(&vcpu.to_string());
    beat.lines().find(is_it).unwrap_or_default()
}

fn boot(life: &mut Life) -> Result<()> {
    life.start()
}

fn restore(life: &mut Life) -> Result<()> {
    const STATE: &str = "/tmp/state";
    life.machine.take().context("no machine")?.save(STATE)?;
    life.machine = Some(Machine::restore(STATE)?);
    Ok(())
}

fn reset(life: &mut Life) -> Result<()> {
    life.machine()?.qmp.tell("system_reset")?;
    next_said("guest up")?;
    next_said("cpus 2")
}

fn replug(life: &mut Life) -> Result<()> {
    step(&format!("{}: device_del", life.part))?;
    life.machine()?.unplug()?;
    next_said("cpus 1")?;
    step(&format!("{}: device_add", life.part))?;
    life.machine()?.plug()?;
    next_said("cpus 2")
}

fn guarded(life: &mut Life) -> Result<()> {
    let guard = Witness::start("guard --yes", "guarding", "/tmp/guard")?;
    replug(life)?;
    let (_code, repairs) = guard.end()?;
    print!("{repairs}");
    Ok(())
}

/// What the lab says of a hang, and of what takes long.
fn step(name: &str) -> Result<()> {
    let mut port = File::options().write(true).open("/dev/ttyS3").context("tell the lab")?;
    writeln!(port, "step {name}").context("tell the lab")
}

/// Look again and again, without end.
fn until(mut is_so: impl FnMut() -> Result<bool>) -> Result<()> {
    while !is_so()? {
        thread::sleep(Duration::from_millis(200));
    }
    Ok(())
}
