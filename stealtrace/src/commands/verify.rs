//! `stealtrace verify`: play scenarios on the running kernel, say what its steal accounting can be trusted with.

use anyhow::{Context as _, Result, bail};
use clap::Args;
use glob::Pattern;

use super::{
    Run, Shared,
    options::{BackendChoice, that},
};
use crate::{
    backend::BackendKind,
    exit::Exit,
    os::interrupt::Interrupt,
    report::{self, Format},
    verify::{Attempt, Expectation, NoWitness, Tracer, Transcript, Verdict, Verified},
    vmm::{
        require_steal_time,
        scenario::{ABSENT, Class, Play, Scenario, Witness, scenarios},
    },
};

/// Prove what the running kernel's steal accounting can be trusted with
#[derive(Args, Debug)]
#[command(after_help = HELP)]
pub(super) struct Verify {
    /// Scenarios to play, as globs ('restore-*'); all if none are named
    #[arg(value_name = "SCENARIO")]
    scenarios: Vec<String>,
    /// List the scenarios instead
    #[arg(long)]
    list: bool,
    #[arg(long, default_value = "text", value_parser = that(Format::shows_verdicts))]
    format: Format,
    /// What this kernel should be, and be shown to be; sound passes for fixed [default: fixed]
    #[arg(long, value_enum)]
    expect: Option<Class>,
    /// Let an over-charge count also where kernels of that class are known for it
    #[arg(long)]
    strict: bool,
    /// Play each scenario so often; the worst counts
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    repeat: u32,
    /// Where random-hand-offs starts; random if not given, and always printed
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Hand-offs that random-hand-offs makes
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rounds: u32,
    /// Give each verdict in JSON a picture of what the second witness saw, as HTML
    #[arg(long)]
    pictures: bool,
    /// Trust the VMM alone: on kernels too old or too locked for eBPF
    #[arg(long)]
    no_trace: bool,
    /// How the second witness sees
    #[arg(long, value_enum, default_value_t = BackendChoice::Auto, conflicts_with = "no_trace")]
    backend: BackendChoice,
}

const HELP: &str = help!(
    "  stealtrace verify                                    every scenario
  stealtrace verify --expect sound --format junit      for CI of a host's kernel
  stealtrace verify --no-trace 'restore-*'             only these, on kernels without eBPF",
    "  0  as expected
  1  not as expected, or the two witnesses disagree
  2  this host cannot play any, or bad usage
  3  inconclusive: what decides was skipped or disturbed, the tracer saw nothing, or interrupted"
);

impl Run for Verify {
    fn run(self, shared: &Shared) -> Result<Exit> {
        if self.list {
            report::list_scenarios(self.format, shared.out.clone())?;
            return Ok(Exit::Clean);
        }
        self.verify(shared)
    }
}

impl Verify {
    /// Play, print, and say by exit code whether the kernel is what it should be.
    fn verify(&self, Shared { out, .. }: &Shared) -> Result<Exit> {
        let scenarios = select(&self.scenarios)?;
        require_steal_time()?;
        let signals = Interrupt::block()?;
        let stop = || signals.came() || out.is_over();
        let mut tracer = tracer(self)?;
        let mut reporter = report::verify_reporter(self.format, out.clone())?;
        let mut verified = Verified {
            expectation: self.expectation(),
            seed: self.seed.unwrap_or_else(|| fastrand::u32(..).into()), // short enough to type
            witness: tracer.as_ref().map(Tracer::kind).map_err(Clone::clone),
            lost: 0,
            verdicts: Vec::new(),
            not_played: Vec::new(),
        };
        reporter.begin(&scenarios).context("write the verdicts")?;
        for (played, scenario) in scenarios.iter().enumerate() {
            let verdict = Verdict::of(scenario, self.repeat, |number| {
                let seed = verified.seed.wrapping_add(number.into());
                let go_on = !stop();
                go_on.then(|| attempt(scenario, seed, self.rounds, tracer.as_mut().ok())).transpose()
            })?;
            let Some(verdict) = verdict else {
                verified.not_played = scenarios[played..].to_vec();
                break;
            };
            reporter.verdict(&verdict, &verified).context("write the verdicts")?;
            verified.verdicts.push(verdict);
        }
        if let Ok(tracer) = &tracer {
            verified.lost = tracer.lost()?;
        }
        reporter.end(&verified).context("write the verdicts")?;
        Ok(verified.exit())
    }

    fn expectation(&self) -> Expectation {
        Expectation {
            class: self.expect.unwrap_or(Class::Fixed),
            asked: self.expect.is_some(),
            strict: self.strict,
        }
    }
}

/// The second witness, or why there is none. One that was asked for by name must be there.
fn tracer(options: &Verify) -> Result<Result<Tracer, NoWitness>> {
    if options.no_trace {
        return Ok(Err(NoWitness::Declined));
    }
    let wanted: Option<BackendKind> = options.backend.into();
    let pictures = options.pictures || options.format == Format::Html;
    match Tracer::attach(wanted, pictures) {
        Err(error) if wanted.is_some() => Err(error),
        tracer => Ok(tracer.map_err(|error| NoWitness::Missing(format!("{error:#}")))),
    }
}

/// Play once, with the second witness if there is one; what it says.
fn attempt(scenario: &Scenario, seed: u64, rounds: u32, mut tracer: Option<&mut Tracer>) -> Result<Attempt> {
    if let Some(tracer) = &mut tracer {
        tracer.begin();
    }
    let witness = tracer.as_deref_mut().map(|tracer| tracer as &mut dyn Witness);
    let played = (scenario.play)(&mut Play { seed, rounds, witness });
    let (told, transcript) = match tracer {
        Some(tracer) => (Some(tracer.testimony()), tracer.transcript()),
        None => (None, Transcript::default()),
    };
    Ok(Attempt { played, told, transcript })
}

fn select(globs: &[String]) -> Result<Vec<&'static Scenario>> {
    let patterns = globs
        .iter()
        .map(|glob| Pattern::new(glob).with_context(|| format!("{glob} is no glob")))
        .collect::<Result<Vec<_>>>()?;
    for pattern in &patterns {
        if !scenarios().any(|scenario| pattern.matches(scenario.id)) {
            if let Some((id, why)) = ABSENT.iter().find(|(id, _)| pattern.matches(id)) {
                bail!("no scenario {id} on this host: {why}");
            }
            let known: Vec<_> = scenarios().map(|scenario| scenario.id).collect();
            bail!("no scenario {pattern}; there are {}", known.join(", "));
        }
    }
    let meant = |scenario: &&Scenario| {
        patterns.is_empty() || patterns.iter().any(|pattern| pattern.matches(scenario.id))
    };
    Ok(scenarios().filter(meant).collect())
}

#[cfg(test)]
mod tests {
    use super::select;

    #[test]
    fn scenarios_are_named_by_globs() {
        let ids = |globs: &[&str]| -> Vec<&str> {
            let globs: Vec<_> = globs.iter().map(|glob| (*glob).to_owned()).collect();
            select(&globs).map(|found| found.iter().map(|scenario| scenario.id).collect()).unwrap_or_default()
        };
        assert_eq!(ids(&["replug"]), ["replug"]);
        assert!(ids(&["restore-*"]).len() >= 4);
        assert!(ids(&["replug", "nonsense-*"]).is_empty());
        assert!(ids(&["[a"]).is_empty());
    }
}
