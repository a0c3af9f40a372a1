//! Real kernels: what stealtrace finds on which, and what it does not. Each kernel boots once for all of it.
//!
//! A topic is a file. In it, what is done in the lab guests (a step), on which kernels, and what that must show stand
//! together. To add a step: write it beside its test, add it to its topic's STEPS.

mod crowds;
mod ends;
mod export;
mod guard;
mod guest;
mod inspect;
mod itself;
mod privileges;
mod refusals;
mod shown;
mod traces;
mod verdicts;
mod xen;

use std::{collections::BTreeMap, panic, sync::LazyLock, thread};

use serde_json::Value;
use stealtrace_tests::{Run, Script};

/// Every topic, in this order: the last takes kvm away.
static TOPICS: [&[&Step]; 11] = [
    traces::STEPS,
    verdicts::STEPS,
    shown::STEPS,
    ends::STEPS,
    inspect::STEPS,
    guard::STEPS,
    crowds::STEPS,
    guest::STEPS,
    export::STEPS,
    xen::STEPS,
    refusals::STEPS,
];

/// What a kernel does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Affected,
    Fixed,
}

impl Class {
    const fn word(self) -> &'static str {
        match self {
            Self::Affected => "affected",
            Self::Fixed => "fixed",
        }
    }

    /// Those that do.
    fn kernels(self) -> impl Iterator<Item = &'static Kernel> {
        KERNELS.iter().filter(move |kernel| kernel.class == self)
    }
}

/// One of `cargo xtask lab list`.
#[derive(Debug, PartialEq, Eq)]
struct Kernel {
    name: &'static str,
    class: Class,
}

static KERNELS: [Kernel; 3] = [
    Kernel { name: "stock-6.1", class: Class::Fixed },
    Kernel { name: "unfixed-6.1", class: Class::Affected },
    Kernel { name: "stock-6.12", class: Class::Fixed },
];

/// Where only one kernel's word counts, this one is asked.
static ONE_FOR_ALL: &Kernel = &KERNELS[0];

/// Something that is done once in each boot, or in one.
struct Step {
    name: &'static str,
    command: Command,
    is_for_all: bool,
}

enum Command {
    Text(&'static str),
    Made(fn(&Kernel) -> String),
}

impl Step {
    /// On every kernel.
    const fn every(name: &'static str, command: &'static str) -> Self {
        Self { name, command: Command::Text(command), is_for_all: true }
    }

    /// On every kernel, as that kernel needs it.
    const fn made(name: &'static str, command: fn(&Kernel) -> String) -> Self {
        Self { name, command: Command::Made(command), is_for_all: true }
    }

    /// What is the same on every kernel.
    const fn once(name: &'static str, command: &'static str) -> Self {
        Self { name, command: Command::Text(command), is_for_all: false }
    }

    fn command(&self, kernel: &Kernel) -> String {
        match self.command {
            Command::Text(text) => text.to_owned(),
            Command::Made(make) => make(kernel),
        }
    }

    /// What it did on this kernel.
    fn on_kernel(&self, kernel: &'static Kernel) -> &'static Run {
        let Some(steps) = &RUNS[kernel.name] else {
            panic!("the lab failed on {}; what it said is above", kernel.name)
        };
        steps
            .get(self.name)
            .unwrap_or_else(|| panic!("step {} was not reached on {}", self.name, kernel.name))
    }

    /// What it did where it is done once.
    fn alone(&self) -> &'static Run {
        self.on_kernel(ONE_FOR_ALL)
    }

    /// What it did on which kernel.
    fn runs(&self) -> impl Iterator<Item = (&'static Kernel, &'static Run)> {
        KERNELS.iter().map(|kernel| (kernel, self.on_kernel(kernel)))
    }

    /// What it did, on every kernel.
    fn on_every(&self) -> impl Iterator<Item = &'static Run> {
        self.runs().map(|(_, run)| run)
    }
}

/// What was done in each kernel, or None if its lab failed. All at once: `cargo xtask test` sees to it that no more run at
/// a time than there are CPUs.
static RUNS: LazyLock<BTreeMap<&str, Option<BTreeMap<String, Run>>>> = LazyLock::new(|| {
    thread::scope(|scope| {
        let boots = KERNELS.each_ref().map(|kernel| {
            (kernel.name, scope.spawn(move || panic::catch_unwind(|| script(kernel).run(kernel.name)).ok()))
        });
        boots.into_iter().map(|(name, boot)| (name, boot.join().expect("panics are caught"))).collect()
    })
});

/// For boots of a test's own, which come after those that all share.
fn let_all_boot() {
    LazyLock::force(&RUNS);
}

fn script(kernel: &Kernel) -> Script {
    let mut script = Script::default();
    let steps = TOPICS.into_iter().flatten();
    for step in steps.filter(|step| step.is_for_all || kernel == ONE_FOR_ALL) {
        script.step(step.name, &step.command(kernel));
    }
    script
}

type Findings<'a> = &'a [(&'a str, &'a str)];

const UNDERFLOW: Findings<'_> = &[("steal-underflow", "error")];

/// A field of a finding.
fn number(finding: &Value, name: &str) -> i128 {
    let value = &finding[name];
    value
        .as_u64()
        .map(i128::from)
        .or(value.as_i64().map(i128::from))
        .unwrap_or_else(|| panic!("no number {name} in {finding}"))
}
