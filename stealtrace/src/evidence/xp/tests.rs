use crate::{
    detect::{steal_backwards, steal_poisoned},
    evidence::{Kind, detect, testing::read},
    model::Severity,
};

const BYTES: &str = include_str!("../../../../tests/evidence/xp-bytes.txt");
const DECIMAL: &str = include_str!("../../../../tests/evidence/xp-decimal.txt");

#[test]
fn the_bug_reports_bytes_are_a_poisoned_counter() {
    let kept = read(Kind::Xp, BYTES);
    let [finding] = &kept.findings[..] else { panic!("{:?}", kept.findings) };
    assert_eq!((finding.rule, finding.severity), (steal_poisoned::RULE.id, Severity::Error));
    assert!(finding.what.contains("0xfffffffff5775794 = -176728172 ns"), "{}", finding.what);
    assert_eq!(kept.not_understood, 0);
}

#[test]
fn the_bug_reports_healthy_samples_advance() {
    let kept = read(Kind::Xp, DECIMAL);
    assert!(kept.findings.is_empty());
    assert!(
        kept.notes
            .iter()
            .any(|note| note.contains("144139048 -> 147428917 ns (+3289869 ns), advancing, healthy"))
    );
    assert_eq!(kept.not_understood, 0);
}

#[test]
fn words_giants_and_signs_are_the_same_counter() {
    for text in [
        "xp /2xw 0x1000\n0000000000001000: 0xf5775794 0xffffffff\n",
        "xp /gx 0x1000\n0000000000001000: 0xfffffffff5775794\n",
        "xp /gd 0x1000\n0000000000001000: -176728172\n",
        "0000000000001000: 0x94 0x57 0x77 0xf5\n0000000000001004: 0xff 0xff 0xff 0xff\n",
    ] {
        let kept = read(Kind::Xp, text);
        assert!(kept.findings.iter().any(|f| f.what.contains("0xfffffffff5775794")), "{text}");
    }
}

#[test]
fn a_counter_that_decreases_is_an_error() {
    let kept =
        read(Kind::Xp, "xp /gx 0x1000\n0000000000001000: 0x20\nxp /gx 0x1000\n0000000000001000: 0x1f\n");
    assert_eq!(kept.findings.first().map(|f| f.rule), Some(steal_backwards::RULE.id));
}

#[test]
fn a_counter_of_too_few_bytes_is_missed() {
    for text in [
        "xp /2xb 0x1000\n0000000000001000: 0x94 0x57\n",
        "0000000000001000: 0x94 0x57\n0000000000002000: 0x94\n",
        "xp /2xb 0x1000\n0000000000001000: 0x94 0x57\nxp /gx 0x2000\n0000000000002000: 0x7\n",
    ] {
        let kept = read(Kind::Xp, text);
        assert!(kept.missed.iter().any(|why| why.contains("xp /8xb")), "{text}");
    }
    assert!(read(Kind::Xp, BYTES).missed.is_empty());
}

#[test]
fn a_state_that_is_seen_again_is_one_finding() {
    let sample = |value: &str| format!("xp /gx 0x1000\n0000000000001000: {value}\n");
    let count = |values: &[&str]| {
        let text: String = values.iter().map(|value| sample(value)).collect();
        read(Kind::Xp, &text).engine.count(steal_poisoned::RULE.id, Severity::Error)
    };
    assert_eq!(count(&["0xfffffffff5775794", "0xfffffffff5775799"]), 1);
    assert_eq!(count(&["0xfffffffff5775794", "0x7", "0xfffffffff5775799"]), 2);
}

#[test]
fn what_follows_a_counter_is_no_counter() {
    let area = "0000000000001000: 0x0000000a 0x00000000 0x00000002 0x00000000\n\
                0000000000001010: 0x00000000 0xffffffff 0xffffffff 0xffffffff\n\
                0000000000001020: 0xffffffff 0xffffffff 0xffffffff 0xffffffff\n";
    let kept = read(Kind::Xp, area);
    assert!(kept.findings.is_empty() && kept.missed.is_empty(), "{:?}", kept.findings);
}

#[test]
fn more_counters_than_are_remembered_are_missed() {
    let text: String =
        (0..=super::MOST_AREAS).map(|area| format!("{:016x}: 0x0000000000000007\n", area * 64)).collect();
    assert_eq!(read(Kind::Xp, &text).missed.len(), 1);
}

#[test]
fn it_is_recognised() {
    assert_eq!(detect(BYTES), Some(Kind::Xp));
    assert_eq!(detect(DECIMAL), Some(Kind::Xp));
}
