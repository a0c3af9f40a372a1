//! guest's look at its own CPUs, as a table or as one JSON object.

use std::io::{self, Write};

use serde_json::json;
use stealtrace_common::source::Source;

use super::{Format, SCHEMA, table, utc_now};
use crate::model::GuestCpu;

/// What this guest's CPUs say.
pub(crate) fn show(cpus: &[GuestCpu], format: Format, mut out: impl Write) -> io::Result<()> {
    match format {
        Format::Json => {
            let list: Vec<_> = cpus
                .iter()
                .map(|cpu| json!({"cpu": cpu.id, "steal_ticks": cpu.steal_ticks, "msr": cpu.enabling.as_ref().ok()}))
                .collect();
            writeln!(out, "{}", json!({"type": "guest", "schema": SCHEMA, "utc": utc_now(), "cpus": list}))?;
        }
        Format::Text | Format::Junit | Format::Tap => {
            let mut rows = table(["CPU", "steal", Source::HERE.enabling()]);
            for cpu in cpus {
                let enabling = cpu
                    .enabling
                    .as_ref()
                    .map_or_else(|why| format!("? ({why})"), |value| show_enabling(*value));
                rows.add_row([cpu.id.to_string(), format!("{} ticks", cpu.steal_ticks), enabling]);
            }
            writeln!(out, "{rows}")?;
        }
    }
    Ok(())
}

fn show_enabling(value: u64) -> String {
    let enabled = if Source::HERE.is_enabled(value) { "enabled" } else { "disabled" };
    format!("{value:#x}: {enabled}, area at {:#x}", Source::HERE.area(value))
}

#[cfg(test)]
mod tests {
    use super::show_enabling;

    #[test]
    fn the_msr_is_an_address_and_a_bit() {
        assert_eq!(show_enabling(0x3fc1_f041), "0x3fc1f041: enabled, area at 0x3fc1f040");
        assert_eq!(show_enabling(0), "0x0: disabled, area at 0x0");
    }
}
