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
    let [reached] = &settled(s.update(3, 500, 100, (0, 0u64.wrapping_sub(400))))[..] else { panic!("one") };
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
