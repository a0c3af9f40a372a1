//! A finding for the host's log: a line in words, journal fields, or a JSON object.

use serde_json::Value as Json;

use super::{clock::Clock, json};
use crate::{model::Finding, os::shown::shown};

/// In words: the fields have the rest.
pub(crate) fn message(finding: &Finding, domain: &str) -> String {
    let Finding { rule, severity, vcpu, what, .. } = finding;
    format!("{severity} {rule}: {}, vCPU {}: {}", shown(domain), vcpu.id, shown(what))
}

/// `STEALTRACE_RULE=…`: the finding's fields, each under its name in JSON; what is not known is left out.
pub(crate) fn fields(finding: &Finding, domain: &str) -> Vec<(String, String)> {
    let field = |(name, value): (String, Json)| {
        let text = match value {
            Json::Null => return None,
            Json::String(text) => text,
            number => number.to_string(),
        };
        Some((format!("STEALTRACE_{}", name.to_ascii_uppercase()), text))
    };
    let domain = ("domain".to_owned(), Json::from(domain));
    [domain].into_iter().chain(json::finding_fields(finding)).filter_map(field).collect()
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
