//! The binary: parse, do, say what went wrong in one line.

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use anyhow::Result;
use clap::Parser as _;
use stealtrace::{
    analyze,
    cli::{Cli, Command, Load},
    doctor,
    exit::{Exit, quiet_if_unread},
    guard, guest, inspect, rules, session, verify, vmm,
};

fn main() -> ExitCode {
    let cli = Cli::parse();
    log_to_stderr(cli.verbose);
    match run(cli) {
        Ok(exit) => exit.into(),
        Err(error) => {
            let _unheard = writeln!(io::stderr(), "stealtrace: {error:#}");
            Exit::Unusable.into()
        }
    }
}

fn run(cli: Cli) -> Result<Exit> {
    match cli.command {
        Command::Doctor(options) => quiet_if_unread(doctor::doctor(options.format, io::stdout())),
        Command::Trace(trace) => session::trace(&trace.options(cli.verbose)),
        Command::Analyze(options) => analyze::analyze(&options.options()),
        Command::Rules(options) => Ok(rules::rules(options.id.as_deref(), io::stdout())?),
        Command::Verify(options) if options.list => verify::list(io::stdout()),
        Command::Guard(options) => guard::guard(&options.options(cli.verbose)),
        Command::Inspect(options) => quiet_if_unread(inspect::inspect(&options.options(), io::stdout())),
        Command::Guest(options) => quiet_if_unread(guest::guest(&options.options())),
        Command::Load(options) => load(&options),
        Command::Verify(options) => verify::verify(&options.options(), io::stdout()),
    }
}

/// Nanoseconds per call, the mean of all vCPUs, and how many calls there were.
fn load(options: &Load) -> Result<Exit> {
    let _idle = vmm::Idle::new(options.idle)?;
    let done = vmm::load(options.work, options.vcpus, options.poison, options.duration)?;
    let per_call = |done: &vmm::Done| done.time.as_secs_f64() * 1e9 / done.calls as f64;
    let mean = done.iter().map(per_call).sum::<f64>() / done.len() as f64;
    let calls: u64 = done.iter().map(|done| done.calls).sum();
    writeln!(io::stdout(), "{mean:.1} {calls}")?;
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
