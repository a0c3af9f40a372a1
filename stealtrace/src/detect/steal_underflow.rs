//! KVM consumed a negative steal delta: the caller's run_delay was below the vCPU's last_steal.
//! A counter that went backwards without wrapping is this finding's evidence, not a finding of its own.

use stealtrace_common::{
    event::{ACCUMULATES, Event, EventKind, STEAL_AFTER_KNOWN, STEAL_BEFORE_KNOWN, STEAL_LAST_KNOWN},
    source::Source,
    steal::{StealDelta, is_impossible},
};

use super::{Case, Explanation, FIX, Open, REPORT, Rule, SUBTRACTS, XEN};
use crate::model::{Finding, HandOff, RuleId, Severity, Thread, Unsettled, Value, Vcpu};

pub(crate) const RULE: Rule = Rule {
    id: RuleId::new("steal-underflow"),
    judge,
    settle: Some(settle),
    explanation: Explanation {
        what: "KVM consumed a negative steal delta: the runner's run_delay was below last_steal",
        why: "The guest's steal counter wraps to nearly 2^64 ns or goes backwards. Linux guests then count every \
              tick as stolen until the counter catches up: top shows 100 % steal, CPU time stands still.",
        evidence: "The update itself: last_steal before and after, and the guest's counter before and after. A \
                   warning if the guest's counter did not change, which means that a later load overwrote it.",
        advice: hiding!(
            Source::HERE,
            "keep each vCPU on one thread (VMM), restores included; `stealtrace verify` tells what of that this host's \
             kernel needs; reboot the guest or reset its counter (`guard --heal`); or hide the feature ("
        ),
        references: match Source::HERE {
            Source::X86Msr | Source::XenRunstate => &[REPORT, FIX, SUBTRACTS, XEN],
            Source::Arm64Pvtime => &[REPORT, SUBTRACTS],
        },
    },
};

/// On kernels with the bug of 2015, whatever their number.
const fn restored(source: Source) -> &'static str {
    match source {
        Source::X86Msr => {
            "this host's kernel copies the run_delay of whoever restores the steal MSR: update it (fixed in 4.4), or let \
             the thread that runs the vCPU restore it (VMM); reboot the guest or reset its counter (`guard --heal`)"
        }
        Source::Arm64Pvtime => {
            "this host's kernel copies the run_delay of whoever says where the area lies: update it, or let the thread \
             that runs the vCPU do it (VMM); reboot the guest or reset its counter (`guard --heal`)"
        }
        Source::XenRunstate => {
            "Linux copies the run_delay of whoever sets the data of Xen's runstate: let the thread that runs the vCPU do it \
             (VMM), or update this host's kernel (7.3 clamps it); reboot the guest: `guard` leaves guests of Xen alone"
        }
    }
}

/// By the next load, on the same kernels.
const fn overwritten(source: Source) -> &'static str {
    match source {
        Source::X86Msr => {
            "nothing for this guest now; the next may reach it: issue vCPU ioctls on the vCPU's own thread (VMM), or \
             update this host's kernel, which charges them to the guest (fixed in 4.4)"
        }
        Source::Arm64Pvtime | Source::XenRunstate => "nothing: this host's kernel keeps it from the guest",
    }
}

/// No kernel up to 7.3 clamps the difference but of guests of Xen.
const fn handed_off(source: Source) -> &'static str {
    match source {
        Source::XenRunstate => {
            "keep each vCPU on one thread for life (VMM), or update this host's kernel (7.3 makes a hand-off of a guest of \
             Xen sound); reboot the guest: `guard` leaves it alone"
        }
        _ => hiding!(
            source,
            "keep each vCPU on one thread for life (VMM), or run `stealtrace guard`: no Linux makes a hand-off sound; \
             reboot the guest or reset its counter (`guard --heal`); or hide the feature ("
        ),
    }
}

/// Did the negative delta get into the guest's counter?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reach {
    /// The counter changed with it.
    Reached,
    /// The counter did not change; a later load replaces the delta (Linux 3.1 to 4.3).
    Overwritten,
    /// The guest's area could not be read.
    Unknown,
}

fn judge(case: Case<'_>) -> Option<Finding> {
    let Case { vcpu, event, .. } = case;
    if event.kind != EventKind::Update || !event.delta().is_underflow() || Unsettled::begins_with(event) {
        return None;
    }
    let reach = reach(event);
    if reach == Reach::Overwritten && event.ioctl == 0 {
        return None; // KVM loads a vCPU once more to destroy it; no guest is left to see it
    }
    Some(finding(vcpu, vcpu.ended_hand_off(event), event, case.last_steal_of().as_ref(), reach))
}

fn settle(open: Open<'_>) -> Vec<Finding> {
    let Some(unsettled) = &open.vcpu.unsettled else {
        return Vec::new();
    };
    let reach = match open.next {
        Some(next) if next.kind == EventKind::Update => reach_shown_by(next),
        _ if open.is_over() => Reach::Unknown,
        _ => return Vec::new(),
    };
    let blamed = open.threads.find(unsettled.event.last_steal_tid);
    let found = finding(open.vcpu, unsettled.hand_off.as_ref(), &unsettled.event, blamed.as_ref(), reach);
    let advice = advice(unsettled.hand_off.as_ref(), unsettled.copied_by, &unsettled.event, reach);
    vec![Finding { advice, ..found }]
}

/// Did the underflow before this update reach the guest? An update that underflows too answers for itself.
fn reach_shown_by(next: &Event) -> Reach {
    let shows = is_impossible(next.steal_after_ns) && !next.delta().is_underflow();
    let is_below = |left: u64| StealDelta::between(left, next.steal_before_ns).is_underflow();
    let left = next.has(STEAL_LAST_KNOWN | STEAL_BEFORE_KNOWN).then_some(next.steal_last_ns);
    match left {
        _ if !next.has(STEAL_AFTER_KNOWN) => Reach::Unknown,
        _ if shows => Reach::Reached,
        _ if next.has(ACCUMULATES) => Reach::Overwritten,
        Some(left) if is_below(left) => Reach::Reached,
        Some(_) => Reach::Overwritten,
        None => Reach::Unknown, // a counter that may have been anything before
    }
}

/// The finding about an underflow that a log shows.
pub(crate) fn logged(vcpu: &Vcpu, event: &Event, blamed: Option<&Thread>) -> Finding {
    finding(vcpu, None, event, blamed, Reach::Unknown)
}

/// The finding about a negative delta, blaming the thread whose run_delay was in last_steal.
fn finding(
    vcpu: &Vcpu,
    hand_off: Option<&HandOff>,
    event: &Event,
    blamed: Option<&Thread>,
    reach: Reach,
) -> Finding {
    let severity = match reach {
        Reach::Reached | Reach::Unknown => Severity::Error,
        Reach::Overwritten => Severity::Warning,
    };
    let cause = match hand_off {
        Some(hand_off) => format!(" took KVM_RUN over from {} and", hand_off.from),
        None => String::new(),
    };
    let caller = Thread::caller(event);
    let what = format!("{caller}{cause} consumed a negative steal delta; {}", consequence(event, reach));
    let backwards = reach == Reach::Reached && went_backwards(event);
    let advice = advice(hand_off, vcpu.copied_by, event, reach);
    Finding { advice, cause: reached_word(reach), ..Finding::new(RULE.id, severity, vcpu, event, what) }
        .with("last_steal_of", blamed.into())
        .with("run_delay", Value::Ns(event.run_delay_ns))
        .with("last_steal", Value::Ns(event.last_steal_before_ns))
        .with("delta", Value::SignedNs(event.delta().signed_ns()))
        .with("steal_before", before_ns(event).into())
        .with("steal_after", event.has(STEAL_AFTER_KNOWN).then_some(event.steal_after_ns).into())
        .with("reached_guest", Value::Text(reached_word(reach).to_owned()))
        .with("steal_backwards", Value::Text(yes_no(backwards).to_owned()))
}

/// What to do depends on who brought it about; empty for the rule's own.
fn advice(hand_off: Option<&HandOff>, copied_by: Option<u32>, event: &Event, reach: Reach) -> &'static str {
    if reach == Reach::Overwritten {
        overwritten(event.source)
    } else if hand_off.is_some() {
        handed_off(event.source)
    } else if copied_by.is_some_and(|tid| tid == event.last_steal_tid) {
        restored(event.source)
    } else if event.source == Source::XenRunstate {
        handed_off(event.source)
    } else {
        ""
    }
}

/// Is it not known whether this underflow reached the guest?
pub(crate) fn is_unsure(finding: &Finding) -> bool {
    finding.rule == RULE.id && finding.cause == reached_word(Reach::Unknown)
}

/// The guest's counter before: read; or what the update before left there, if the counter still stands there or further,
/// or KVM added the delta to just that; or what KVM must have added it to for the counter to be impossible now.
fn before_ns(event: &Event) -> Option<u64> {
    if event.has(STEAL_BEFORE_KNOWN) {
        return Some(event.steal_before_ns);
    }
    let added_to = event.steal_after_ns.wrapping_sub(event.delta().wrapped_ns());
    let left = Some(event.steal_last_ns)
        .filter(|_| event.has(STEAL_LAST_KNOWN))
        .filter(|left| added_to == *left || !StealDelta::between(*left, event.steal_after_ns).is_underflow());
    let turned = is_impossible(event.steal_after_ns) && !is_impossible(added_to);
    left.or_else(|| turned.then_some(added_to)).filter(|_| event.has(STEAL_AFTER_KNOWN))
}

fn reach(event: &Event) -> Reach {
    let before = before_ns(event);
    let lowered = StealDelta::between(before.unwrap_or(0), event.steal_after_ns).is_underflow();
    match (before.is_some(), event.has(STEAL_AFTER_KNOWN), lowered) {
        (_, true, true) => Reach::Reached, // whatever it was before, no sound counter shows this
        (true, true, false) => Reach::Overwritten, // the counter stayed, or grew by what a later update charged
        _ => Reach::Unknown,
    }
}

fn went_backwards(event: &Event) -> bool {
    before_ns(event).is_some_and(|before| event.steal_after_ns < before)
}

fn consequence(event: &Event, reach: Reach) -> &'static str {
    match reach {
        Reach::Overwritten => "overwritten before it reached the guest",
        Reach::Reached if went_backwards(event) => "the guest's steal went backwards",
        Reach::Reached => "the guest's steal wrapped below zero",
        Reach::Unknown if event.has(STEAL_AFTER_KNOWN) => "the guest's steal before it could not be read",
        Reach::Unknown => "the guest's steal after it could not be read",
    }
}

const fn reached_word(reach: Reach) -> &'static str {
    match reach {
        Reach::Reached => "yes",
        Reach::Overwritten => "no",
        Reach::Unknown => "unknown",
    }
}

const fn yes_no(yes: bool) -> &'static str {
    if yes { "yes" } else { "no" }
}

#[cfg(test)]
mod tests;
