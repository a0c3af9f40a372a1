//! Values that are not to enable steal time: which of them KVM accepts, and what stands there afterwards.

use anyhow::Result;

use super::{Fault, Observation};
use crate::vmm::Vcpu;

/// Those of these values that KVM accepts, as people read them.
pub(super) fn accepted(vcpu: &Vcpu, values: impl IntoIterator<Item = u64>) -> Result<Vec<String>> {
    let mut accepted = Vec::new();
    for value in values {
        if vcpu.set_enabling(value)? {
            accepted.push(format!("{value:#x}"));
        }
    }
    Ok(accepted)
}

/// None of them was to be accepted, and what enables steal time, called so, was to stay as it was.
pub(super) fn refused(accepted: &[String], name: &str, was: u64, is: u64) -> Observation {
    let fault = if accepted.is_empty() {
        (is != was).then(|| Fault::broken(format!("the {name} was {was:#x} and is {is:#x}")))
    } else {
        Some(Fault::broken(format!("KVM accepts {}", accepted.join(", "))))
    };
    let saw = if accepted.is_empty() { "refused" } else { "accepted" };
    Observation::new(saw.to_owned(), fault, true)
}
