//! `stealtrace doctor`: what of this host stealtrace can use, and if not, why. Changes nothing.

use std::io::Write;

use anyhow::Result;
use clap::ValueEnum;
use serde_json::json;
use stealtrace_common::target::PidNamespace;

use crate::{
    backend::{self, BackendKind, ProbeRow, probes},
    exit::Exit,
    guard,
    kernel::{Era, KVM_BTF, KernelFacts, Kvm, Lockdown, missing_capabilities},
    report::table,
    vmm,
};

/// How to print.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DoctorFormat {
    /// For people
    Table,
    /// One JSON object
    Json,
}

/// One fact about the host.
struct Check {
    /// What was looked at.
    item: String,
    /// Is it as it should be? None: neither good nor bad.
    good: Option<bool>,
    /// What was found.
    found: String,
}

impl Check {
    fn fact(item: &str, found: impl Into<String>) -> Self {
        Self { item: item.to_owned(), good: None, found: found.into() }
    }

    fn of(item: &str, result: Result<String, String>) -> Self {
        let good = Some(result.is_ok());
        Self { item: item.to_owned(), good, found: result.unwrap_or_else(|reason| reason) }
    }
}

/// Look and print.
///
/// # Errors
/// When /proc cannot be read or the output cannot be written.
pub fn doctor(format: DoctorFormat, mut out: impl Write) -> Result<Exit> {
    let facts = KernelFacts::gather(&[])?;
    let usable = usable(&facts);
    let mut checks = host(&facts)?;
    for kind in BackendKind::ALL {
        checks.extend(probes(kind, &facts).map(|row| probe(kind, row, &facts)));
    }
    checks.push(Check::of("trace --backend auto", usable.clone()));
    let guard = usable.clone().err().or(guard::problem(&facts)?);
    checks.push(Check::fact("guard", guard.unwrap_or_else(|| "can run".to_owned())));
    checks.push(Check::of(
        "verify",
        vmm::require_steal_time().map(|()| "can run".to_owned()).map_err(|error| format!("{error:#}")),
    ));
    match format {
        DoctorFormat::Table => print_table(&checks, &mut out)?,
        DoctorFormat::Json => print_json(&checks, &usable, &mut out)?,
    }
    Ok(if usable.is_ok() { Exit::Clean } else { Exit::Unusable })
}

/// The backend `auto` takes, or why there is none.
fn usable(facts: &KernelFacts) -> Result<String, String> {
    let attempt = || -> Result<String> {
        facts.require_traceable()?.layout(None, PidNamespace::INITIAL)?;
        Ok(backend::choose(None, facts)?.to_string())
    };
    attempt().map_err(|error| format!("{error:#}"))
}

fn host(facts: &KernelFacts) -> Result<Vec<Check>> {
    Ok(vec![
        Check::fact("kernel", &*facts.release),
        Check::of("kvm", kvm(facts)),
        Check::fact("vendor module", facts.vendor.clone().unwrap_or_else(|| "none found".to_owned())),
        Check::of("type information (BTF)", btf(facts)),
        Check::fact("kprobes", if facts.kprobes { "yes" } else { "no (tracepoint backend only)" }),
        Check::of("lockdown", lockdown(facts)),
        Check::of("privileges", privileges()?),
        Check::fact("steal-time code", era(facts.era())),
    ])
}

fn kvm(facts: &KernelFacts) -> Result<String, String> {
    match facts.kvm {
        Kvm::BuiltIn => Ok("built in".to_owned()),
        Kvm::Module => Ok("module, loaded".to_owned()),
        Kvm::Absent => Err("not loaded; run `modprobe kvm_intel` or `modprobe kvm_amd`".to_owned()),
    }
}

fn btf(facts: &KernelFacts) -> Result<String, String> {
    match &facts.types {
        Err(error) => Err(format!("{error:#}")),
        Ok(types) => match types.layout(None, PidNamespace::INITIAL) {
            Err(error) => Err(format!("{error:#}")),
            Ok(_) if std::path::Path::new(KVM_BTF).exists() => {
                Ok("kernel and kvm module, every field found".to_owned())
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

const fn era(era: Era) -> &'static str {
    match era {
        Era::Accumulating => "looks like Linux 3.1 to 4.5 (accum_steal); `verify` tells how it behaves",
        Era::Recording => "looks like Linux 4.6 or later; `verify` tells how it behaves",
        Era::Unknown => "unknown without type information; `verify` tells how it behaves",
    }
}

fn probe(kind: BackendKind, row: &ProbeRow, facts: &KernelFacts) -> Check {
    let item = format!("{kind}: {}", row.label());
    match row.target(facts) {
        Ok(target) => Check::of(&item, Ok(format!("usable at {target}: {}", row.purpose))),
        Err(reason) if row.required => Check::of(&item, Err(reason)),
        Err(reason) => Check::fact(&item, format!("{reason}; not required")),
    }
}

fn print_table(checks: &[Check], out: &mut impl Write) -> Result<()> {
    let mut rows = table(["", "", "found"]);
    for check in checks {
        let mark = match check.good {
            Some(true) => "ok",
            Some(false) => "NO",
            None => "",
        };
        rows.add_row([check.item.as_str(), mark, &check.found]);
    }
    Ok(writeln!(out, "{rows}")?)
}

fn print_json(checks: &[Check], usable: &Result<String, String>, out: &mut impl Write) -> Result<()> {
    let list: Vec<_> = checks
        .iter()
        .map(|check| json!({"item": check.item, "good": check.good, "found": check.found}))
        .collect();
    let object = json!({
        "type": "doctor",
        "schema": 1,
        "usable": usable.is_ok(),
        "backend": usable.as_ref().ok(),
        "reason": usable.as_ref().err(),
        "checks": list,
    });
    Ok(writeln!(out, "{object}")?)
}
