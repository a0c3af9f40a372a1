//! `stealtrace doctor`: what of this host stealtrace can use, and if not, why. Changes nothing.

use anyhow::Result;
use clap::Args;
use stealtrace_common::{
    probe::ProbeRow,
    source::{Source, here},
    target::{PidNamespace, Volume},
};

use super::{Run, Shared, guard, options::that};
use crate::{
    backend::{BackendKind, EbpfBackend, Plan, Processes, Task, label, place},
    exit::Exit,
    kernel::{Capability, Era, KVM_BTF, KernelFacts, Kvm, LOAD_KVM, Lockdown, NO_AREA, missing_capabilities},
    model::Check,
    report::{self, Format},
    vmm,
};

/// Enough for a try.
const RING_BYTES: u32 = 64 << 10;

/// Say what of this host stealtrace can use, and if not, why
#[derive(Args, Debug)]
#[command(after_help = HELP)]
pub(super) struct Doctor {
    #[arg(long, default_value = "text", value_parser = that(Format::shows_states))]
    format: Format,
}

const HELP: &str = help!(
    "  stealtrace doctor                                    what can be used here
  stealtrace doctor --format json                      for scripts",
    "  0  `stealtrace trace` can run here
  2  it cannot"
);

impl Run for Doctor {
    fn run(self, shared: &Shared) -> Result<Exit> {
        let facts = KernelFacts::gather(&[]);
        let usable = usable(&facts);
        let checks = checks(&facts, &usable);
        report::doctor::show(&checks, &usable, self.format, &shared.out)?;
        Ok(if usable.is_ok() { Exit::Clean } else { Exit::Unusable })
    }
}

fn checks(facts: &KernelFacts, usable: &Result<String, String>) -> Vec<Check> {
    let mut checks = host(facts);
    for kind in BackendKind::ALL {
        checks.extend(backend_checks(kind, facts));
    }
    checks.push(Check::of("trace --backend auto", usable.clone()));
    checks.push(inspect(facts, usable));
    let guard = usable.clone().and_then(|_| guard::problem(facts).map_err(|error| format!("{error:#}")));
    let guard = guard.unwrap_or_else(Some).unwrap_or_else(|| "can run".to_owned());
    checks.push(Check::fact("guard", guard));
    checks.push(Check::of(
        "verify",
        vmm::require_steal_time().map(|()| "can run".to_owned()).map_err(|error| format!("{error:#}")),
    ));
    checks.push(Check::fact("guest", "can run, inside a Linux guest; needs no privilege"));
    checks
}

/// The backend `auto` takes, or why there is none. Its probes are attached for a moment, to this process alone.
fn usable(facts: &KernelFacts) -> Result<String, String> {
    let attempt = || -> Result<String> {
        facts.require_traceable()?.layout(&facts.symbols)?;
        let plan = Plan::of(Processes::These(vec![std::process::id()]), Volume::Edges, RING_BYTES);
        let mut backend = EbpfBackend::attach(&plan, facts)?;
        backend.detach();
        Ok(backend.way())
    };
    attempt().map_err(|error| format!("{error:#}"))
}

fn host(facts: &KernelFacts) -> Vec<Check> {
    let xen = (Source::HERE == Source::X86Msr).then(|| Check::fact("guests of Xen", xen(facts)));
    let checks = vec![
        Check::fact("kernel", &*facts.release),
        Check::of("kvm", kvm(facts)),
        Check::fact("vendor module", facts.vendor.clone().unwrap_or_else(|| "none found".to_owned())),
        Check::of("type information (BTF)", btf(facts)),
        Check::of("process numbers", namespace(facts)),
        Check::of("lockdown", lockdown(facts)),
        Check::of("privileges", privileges().unwrap_or_else(|error| Err(format!("{error:#}")))),
        Check::fact("steal-time code", era(facts.era())),
    ];
    checks.into_iter().chain(xen).collect()
}

fn namespace(facts: &KernelFacts) -> Result<String, String> {
    match facts.own_namespace() {
        Ok(PidNamespace::INITIAL) => Ok("of the initial PID namespace".to_owned()),
        Ok(namespace) => Ok(format!("of PID namespace {}, translated", namespace.inode)),
        Err(error) => Err(format!("{error:#}")),
    }
}

/// One line for a backend that cannot be used here, and is no fault.
fn backend_checks(kind: BackendKind, facts: &KernelFacts) -> Vec<Check> {
    match kind.absence(facts) {
        Some(reason) => {
            vec![Check::fact(&format!("{kind} backend"), format!("not available: {reason}"))]
        }
        None => kind.probes().map(|row| probe(kind, row, facts)).collect(),
    }
}

/// Commands that look at all vCPUs there are.
const LOOKING: &str = "inspect, watch, export";

/// What these need beside what a trace needs, tried out where it can be.
fn inspect(facts: &KernelFacts, usable: &Result<String, String>) -> Check {
    if let Err(reason) = usable {
        return Check::of(LOOKING, Err(reason.clone()));
    }
    let lacks = |capability: Capability| !capability.is_held().is_ok_and(|held| held);
    if lacks(Capability::SysPtrace) {
        return Check::of(LOOKING, Err("reading guests' memory needs CAP_SYS_PTRACE".to_owned()));
    }
    if lacks(Capability::DacReadSearch) {
        let found = "can run, but reads no memory of other users' VMs: needs CAP_DAC_READ_SEARCH";
        return Check::fact(LOOKING, found);
    }
    let plan = Plan::of(Processes::All, Volume::All, RING_BYTES);
    let looked = EbpfBackend::attach(&Plan { task: Task::LookAtFiles, ..plan }, facts)
        .and_then(|mut backend| backend.look_at_files());
    match looked {
        Ok(()) => Check::of(LOOKING, Ok("can run".to_owned())),
        Err(error) => {
            Check::fact(LOOKING, format!("can run, but sees a vCPU only with its next ioctl: {error:#}"))
        }
    }
}

fn kvm(facts: &KernelFacts) -> Result<String, String> {
    if let Some(reason) = &facts.no_symbols {
        return Err(format!("not known: {reason}"));
    }
    match facts.kvm {
        Kvm::BuiltIn => Ok("built in".to_owned()),
        Kvm::Module => Ok("module, loaded".to_owned()),
        Kvm::Absent => Err(format!("not loaded; {LOAD_KVM}")),
    }
}

fn btf(facts: &KernelFacts) -> Result<String, String> {
    match &facts.types {
        Err(error) => Err(format!("{error:#}")),
        Ok(types) => match types.layout(&facts.symbols) {
            Err(error) => Err(format!("{error:#}")),
            Ok(_) if std::path::Path::new(KVM_BTF).exists() => {
                Ok("kernel and kvm module, every field found".to_owned())
            }
            Ok(_) if !types.shows_steal_area => Ok(format!("every field found, but {NO_AREA}")),
            Ok(_) if !types.are_of_kvm => {
                Ok("kernel; kvm carries none, and is tried out on a VM of stealtrace's own".to_owned())
            }
            Ok(_) => Ok("kernel, every field found".to_owned()),
        },
    }
}

fn lockdown(facts: &KernelFacts) -> Result<String, String> {
    match facts.lockdown {
        Lockdown::None => Ok("none".to_owned()),
        Lockdown::Integrity => Ok("integrity (tracing is allowed)".to_owned()),
        Lockdown::Unknown => Ok("unknown (no /sys/kernel/security/lockdown)".to_owned()),
        Lockdown::Confidentiality => {
            Err("confidentiality: refuses tracing; boot with lockdown=integrity or none".to_owned())
        }
    }
}

fn privileges() -> Result<Result<String, String>> {
    let missing: Vec<_> = missing_capabilities()?.iter().map(|capability| capability.name()).collect();
    Ok(if missing.is_empty() {
        Ok("sufficient".to_owned())
    } else {
        Err(format!("missing {}; run as root", missing.join(", ")))
    })
}

fn era(era: Era) -> String {
    let looks = match era {
        Era::Accumulating => "Linux 3.1 to 4.5 (accum_steal)",
        Era::Recording => here::RECORDING,
        Era::Unknown => return "unknown without type information; `verify` tells how it behaves".to_owned(),
    };
    format!("looks like {looks}; `verify` tells how it behaves")
}

fn xen(facts: &KernelFacts) -> &'static str {
    if facts.shows_xen() {
        "their runstate is watched; `guard` leaves it alone"
    } else {
        "not watched: KVM has none here, or keeps their runstate as before Linux 5.18"
    }
}

fn probe(kind: BackendKind, row: &ProbeRow, facts: &KernelFacts) -> Check {
    let item = format!("{kind}: {}", label(row, facts));
    match place(row, kind, facts) {
        Ok(place) => Check::of(&item, Ok(format!("usable at {}: {}", place.target, row.purpose))),
        Err(reason) if row.required => Check::of(&item, Err(reason)),
        Err(reason) => Check::fact(&item, format!("{reason}; not required")),
    }
}
