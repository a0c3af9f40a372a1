//! KVM consumed a negative steal delta: the caller's run_delay was below the vCPU's last_steal.
//! A counter that went backwards without wrapping is this finding's evidence, not a finding of its own.

use stealtrace_common::{
    event::{ACCUMULATES, Event, EventKind, STEAL_AFTER_KNOWN, STEAL_BEFORE_KNOWN, STEAL_LAST_KNOWN},
    steal::{StealDelta, is_impossible},
};

use super::{Case, Explanation, FIX, Open, REPORT, REWORK, Rule};
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
        advice: "keep each vCPU on one thread (VMM), restores included; `stealtrace verify` tells what of that this \
                 host's kernel needs; reboot the guest or reset its counter (`guard --heal`); or hide the feature (QEMU: \
                 -cpu ...,-kvm-steal-time)",
        references: &[REPORT, FIX, REWORK],
    },
};

/// On kernels with the bug of 2015, whatever their number.
const RESTORED: &str = "this host's kernel copies the run_delay of whoever restores the steal MSR: update it (fixed in \
                        4.4), or let the thread that runs the vCPU restore it (VMM); reboot the guest or reset its \
                        counter (`guard --heal`)";

/// By the next load, on the same kernels.
const OVERWRITTEN: &str = "nothing for this guest now; the next may reach it: issue vCPU ioctls on the vCPU's own thread \
                           (VMM), or update this host's kernel, which charges them to the guest (fixed in 4.4)";

/// No kernel up to 7.3 clamps the difference.
const HANDED_OFF: &str = "keep each vCPU on one thread for life (VMM), or run `stealtrace guard`: no Linux makes a \
                          hand-off sound; reboot the guest or reset its counter (`guard --heal`); or hide the feature \
                          (QEMU: -cpu ...,-kvm-steal-time)";

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
        OVERWRITTEN
    } else if hand_off.is_some() {
        HANDED_OFF
    } else if copied_by.is_some_and(|tid| tid == event.last_steal_tid) {
        RESTORED
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
mod tests {
    use stealtrace_common::{
        event::{ACCUMULATES, Event, STEAL_AFTER_KNOWN, STEAL_LAST_KNOWN},
        kvm::KVM_RUN,
    };

    use super::RULE;
    use crate::{
        detect::testing::{Script, judge, judge_all, judge_at_end},
        model::{Finding, Severity, Thread, Value},
    };

    fn field<'a>(finding: &'a Finding, name: &str) -> &'a Value {
        let found = finding.evidence.iter().find(|(field, _)| *field == name);
        &found.expect("the finding has the field").1
    }

    #[test]
    fn the_bug_report_wraps_the_counter_and_names_the_main_thread() {
        let mut s = Script::new();
        let restore = s.restore(18446, 7_856_949, (0, 7_856_949));
        let mut update = s.update(18449, 40_304, 7_856_949, (0, 0u64.wrapping_sub(7_816_645)));
        update.last_steal_tid = 18446;
        let finding = judge(&RULE, &[restore, update]).expect("fires");
        assert_eq!(finding.severity, Severity::Error);
        assert_eq!(field(&finding, "delta"), &Value::SignedNs(-7_816_645));
        assert_eq!(
            field(&finding, "last_steal_of"),
            &Value::Thread(Thread { tid: 18446, comm: "qemu".to_owned() })
        );
        assert!(finding.what.contains("wrapped below zero"), "{}", finding.what);
    }

    #[test]
    fn a_large_counter_goes_backwards_instead() {
        let mut s = Script::enabled();
        let finding = judge(&RULE, &[s.update(2, 100, 900, (1000, 200))]).expect("fires");
        assert_eq!(field(&finding, "steal_backwards"), &Value::Text("yes".to_owned()));
    }

    #[test]
    fn a_delta_that_never_reached_the_guest_is_a_warning() {
        let mut s = Script::enabled();
        let finding = judge(&RULE, &[s.update(2, 100, 900, (1000, 1000))]).expect("fires");
        assert_eq!(finding.severity, Severity::Warning);
        assert!(finding.what.contains("overwritten"), "{}", finding.what);
    }

    #[test]
    fn an_impossible_counter_reached_the_guest_whatever_it_was_before() {
        let mut s = Script::enabled();
        let update = s.update(2, 100, 900, (0, 0u64.wrapping_sub(800)));
        let finding = judge(&RULE, &[Event { flags: STEAL_AFTER_KNOWN, ..update }]).expect("fires");
        assert_eq!(field(&finding, "reached_guest"), &Value::Text("yes".to_owned()));
        assert_eq!(field(&finding, "steal_backwards"), &Value::Text("no".to_owned()));
    }

    #[test]
    fn what_was_before_is_known_from_the_update_that_left_it_or_from_arithmetic() {
        let mut s = Script::enabled();
        let unread = Event { flags: STEAL_AFTER_KNOWN, ..s.update(2, 100, 900, (0, 200)) };
        let left = |ns| Event { flags: STEAL_AFTER_KNOWN | STEAL_LAST_KNOWN, steal_last_ns: ns, ..unread };
        let before = |event| field(&judge(&RULE, &[event]).expect("fires"), "steal_before").clone();
        assert_eq!(before(left(1000)), Value::Ns(1000));
        assert_eq!(before(left(1001)), Value::Unknown, "something else was added, too");
        assert_eq!(before(unread), Value::Unknown);
        assert_eq!(before(left(200)), Value::Ns(200), "a kernel that drops the delta leaves it as it was");
        let wrapped = Event { steal_after_ns: 0u64.wrapping_sub(300), ..unread };
        assert_eq!(before(wrapped), Value::Ns(500), "only from there the delta leads here");
        let plugged_in_again = judge(&RULE, &[left(1000)]).expect("fires");
        assert_eq!(field(&plugged_in_again, "reached_guest"), &Value::Text("yes".to_owned()));
        assert_eq!(field(&plugged_in_again, "steal_backwards"), &Value::Text("yes".to_owned()));
    }

    #[test]
    fn an_underflow_in_an_area_not_read_yet_is_settled_by_the_next_update() {
        let mut s = Script::enabled();
        let unread = Event { flags: 0, ..s.update(2, 100, 900, (0, 0)) };
        assert!(judge(&RULE, &[unread]).is_none(), "it waits");
        let accumulates = |next: Event| Event { flags: next.flags | ACCUMULATES, ..next };
        let settled = |next: Event| judge_all(&RULE, &[unread, accumulates(next)]);
        let [overwritten] = &settled(s.update(3, 500, 100, (0, 400)))[..] else { panic!("one finding") };
        assert_eq!((overwritten.severity, overwritten.caller.tid), (Severity::Warning, 2));
        let [reached] = &settled(s.update(3, 500, 100, (0, 0u64.wrapping_sub(400))))[..] else {
            panic!("one")
        };
        assert_eq!((reached.severity, reached.caller.tid), (Severity::Error, 2));
        let both = settled(s.update(3, 50, 100, (0, 0u64.wrapping_sub(50))));
        let told: Vec<_> = both.iter().map(|finding| (finding.caller.tid, finding.severity)).collect();
        assert_eq!(told, [(2, Severity::Warning), (3, Severity::Error)], "the second replaced the first");
        assert_eq!(judge_at_end(&RULE, &[unread]).len(), 1, "unknown, but told");
    }

    #[test]
    fn where_no_load_replaces_a_delta_only_a_counter_known_before_tells() {
        let mut s = Script::enabled();
        let unread = Event { flags: 0, ..s.update(2, 100, 900, (0, 0)) };
        let next = s.update(2, 150, 100, (4200, 4250));
        let left = |ns| Event { flags: next.flags | STEAL_LAST_KNOWN, steal_last_ns: ns, ..next };
        let reach = |next| match &judge_all(&RULE, &[unread, next])[..] {
            [finding] => field(finding, "reached_guest").clone(),
            others => panic!("one finding, not {others:?}"),
        };
        let word = |word: &str| Value::Text(word.to_owned());
        assert_eq!(reach(next), word("unknown"));
        assert_eq!(reach(left(5000)), word("yes"));
        assert_eq!(reach(left(4200)), word("no"));
    }

    #[test]
    fn advice_fits_what_brought_it_about() {
        let mut s = Script::enabled();
        let update = Event { last_steal_tid: 1, ..s.update(2, 100, 900, (1000, 200)) };
        let advice = |events: &[Event]| judge(&RULE, events).expect("fires").advice;
        let handed_off = advice(&[s.ioctl(1, KVM_RUN), s.ioctl(2, KVM_RUN), update]);
        assert!(handed_off.contains("guard") && !handed_off.contains("4.4"), "{handed_off}");
        let restored = advice(&[s.restore(1, 900, (0, 900)), update]);
        assert!(restored.contains("4.4"), "{restored}");
        assert_eq!(advice(&[update]), "", "the rule's own: an ioctl of another thread, or an old runner");
        let unread = Event { flags: 0, ..update };
        let wrapped = s.update(2, 150, 100, (0, 0u64.wrapping_sub(700)));
        let settled = advice(&[s.restore(1, 900, (0, 900)), unread, wrapped]);
        assert!(settled.contains("4.4"), "also where the next update settled it: {settled}");
    }

    #[test]
    fn a_kernel_that_drops_a_negative_delta_spares_the_guest() {
        let mut s = Script::enabled();
        let finding = judge(&RULE, &[s.update(2, 100, 900, (1000, 1005))]).expect("fires");
        assert_eq!(finding.severity, Severity::Warning);
    }

    #[test]
    fn the_load_that_destroys_a_vcpu_is_silent() {
        let mut s = Script::enabled();
        let teardown = Event { ioctl: 0, ..s.update(2, 100, 900, (1000, 1000)) };
        assert!(judge(&RULE, &[teardown]).is_none());
    }

    #[test]
    fn equal_and_growing_numbers_are_fine() {
        let mut s = Script::enabled();
        assert!(judge(&RULE, &[s.update(1, 900, 900, (5, 5))]).is_none());
        assert!(judge(&RULE, &[s.update(1, 901, 900, (5, 6))]).is_none());
    }

    #[test]
    fn one_below_is_an_underflow() {
        let mut s = Script::enabled();
        assert!(judge(&RULE, &[s.update(1, 899, 900, (5, 4))]).is_some());
    }
}
