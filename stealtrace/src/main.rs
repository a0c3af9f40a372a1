//! The binary: parse, do, say what went wrong in one line.

use std::{io::Write as _, process::ExitCode};

use anyhow::Result;
use clap::Parser as _;
use stealtrace::{
    analyze,
    cli::{Cli, Command, Load},
    doctor,
    exit::Exit,
    guard, guest, inspect,
    os::{
        out_of_memory::SaysSo,
        output::Output,
        talk::{be_quiet, say},
    },
    rules, session, verify, vmm,
};

#[global_allocator]
static MEMORY: SaysSo = SaysSo;

fn main() -> ExitCode {
    let cli = Cli::parse();
    log_to_stderr(cli.verbose);
    if cli.quiet {
        be_quiet();
    }
    match run(cli) {
        Ok(exit) => exit.into(),
        Err(error) => {
            say(&format!("{error:#}"));
            Exit::Unusable.into()
        }
    }
}

fn run(cli: Cli) -> Result<Exit> {
    cli.require_different_files()?;
    let out = Output::open(cli.output.as_deref(), cli.color)?;
    let exit = obey(cli, &out)?;
    out.settle()?;
    Ok(exit)
}

fn obey(cli: Cli, out: &Output) -> Result<Exit> {
    match cli.command {
        Command::Doctor(options) => doctor::doctor(options.format, out),
        Command::Trace(trace) => session::trace(&trace.options(cli.verbose, out), out),
        Command::Analyze(options) => analyze::analyze(&options.options(out), out),
        Command::Rules(options) => Ok(rules::rules(options.id.as_deref(), out.clone())?),
        Command::Verify(options) if options.list => verify::list(options.format, out.clone()),
        Command::Guard(options) => guard::guard(&options.options(cli.verbose), out.clone()),
        Command::Inspect(options) => inspect::inspect(&options.options(), out),
        Command::Guest(options) => guest::guest(&options.options(out), out),
        Command::Load(options) => load(&options, out.clone()),
        Command::Verify(options) => verify::verify(&options.options(), out),
    }
}

/// Nanoseconds per call, the mean of all vCPUs, and how many calls there were.
fn load(options: &Load, mut out: Output) -> Result<Exit> {
    let _idle = vmm::Idle::new(options.idle)?;
    let done = vmm::load(options.work, options.vcpus, options.poison, options.duration)?;
    let per_call = |done: &vmm::Done| done.time.as_secs_f64() * 1e9 / done.calls as f64;
    let mean = done.iter().map(per_call).sum::<f64>() / done.len() as f64;
    let calls: u64 = done.iter().map(|done| done.calls).sum();
    writeln!(out, "{mean:.1} {calls}")?;
    Ok(Exit::Clean)
}

fn log_to_stderr(verbose: bool) {
    let level = if verbose { log::LevelFilter::Debug } else { log::LevelFilter::Off };
    env_logger::Builder::new()
        .filter_level(level)
        .filter_module("aya_obj", log::LevelFilter::Warn) // a line per relocation
        .format_timestamp(None)
        .init();
}
