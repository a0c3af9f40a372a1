//! guest's look at its own CPUs, as a table or as one JSON object.

use std::io::{self, Write};

use serde_json::json;
use stealtrace_common::source::Source;

use super::{Format, SCHEMA, States, enabling, table, utc_now};
use crate::model::GuestCpu;

/// What this guest's CPUs say.
pub(crate) fn show(cpus: &[GuestCpu], format: Format, mut out: impl Write) -> io::Result<()> {
    match format.states() {
        States::Json => {
            let list: Vec<_> = cpus
                .iter()
                .map(|cpu| {
                    let key = Source::HERE.key();
                    json!({"cpu": cpu.id, "steal_ticks": cpu.steal_ticks, key: cpu.enabling.as_ref().ok()})
                })
                .collect();
            writeln!(out, "{}", json!({"type": "guest", "schema": SCHEMA, "utc": utc_now(), "cpus": list}))?;
        }
        States::Text => {
            let mut rows = table(["CPU", "steal", Source::HERE.enabling()]);
            for cpu in cpus {
                let found =
                    cpu.enabling.as_ref().map_or_else(|why| format!("? ({why})"), |value| enabling(*value));
                rows.add_row([cpu.id.to_string(), format!("{} ticks", cpu.steal_ticks), found]);
            }
            writeln!(out, "{rows}")?;
        }
    }
    Ok(())
}
