//! A finding for the host's log: a line in words, journal fields, or a JSON object.

use serde_json::Value as Json;

use super::{clock::Clock, json};
use crate::{
    model::{Finding, Value},
    os::shown::shown,
};

/// In words: the fields have the rest.
pub(crate) fn message(finding: &Finding, domain: &str) -> String {
    let Finding { rule, severity, vcpu, what, .. } = finding;
    format!("{severity} {rule}: {}, vCPU {}: {}", shown(domain), vcpu.id, shown(what))
}

/// `STEALTRACE_RULE=…`: the finding's fields, each under its name.
pub(crate) fn fields(finding: &Finding, domain: &str) -> Vec<(String, String)> {
    let key = |name: &str| format!("STEALTRACE_{}", name.to_ascii_uppercase());
    let mut fields = vec![(key("domain"), domain.to_owned())];
    for (name, value) in finding.fields() {
        match value {
            Value::Text(text) => fields.push((key(name), text)),
            Value::Number(number) => fields.push((key(name), number.to_string())),
            Value::Ns(ns) => fields.push((key(&format!("{name}_ns")), ns.to_string())),
            Value::SignedNs(ns) => fields.push((key(&format!("{name}_ns")), ns.to_string())),
            Value::Unknown => {}
            Value::Thread(thread) => {
                fields.push((key(&format!("{name}_tid")), thread.tid.to_string()));
                fields.push((key(name), thread.comm));
            }
        }
    }
    fields
}

/// The same object as `trace --format json` prints, with UTC and the VM's name; times are of CLOCK_MONOTONIC.
pub(crate) fn object(finding: &Finding, domain: &str, utc_offset_ns: u64) -> Json {
    let clock = Clock { start_ns: 0, utc_offset_ns: Some(utc_offset_ns) };
    let mut object = json::finding_object(finding, clock);
    if let Some(object) = object.as_object_mut() {
        object.insert("domain".to_owned(), domain.into());
    }
    object
}
