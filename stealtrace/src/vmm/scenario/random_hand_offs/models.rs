//! Models of kernels: what each may charge a guest for every KVM_RUN. They follow KVM's source, one per class.

use super::{
    stage::Record,
    steps::{Act, VCPUS},
};

/// A range of nanoseconds, both ends included; wide enough for any difference of two run_delays.
type Range = (i128, i128);

/// What a model knows of a vCPU.
#[derive(Clone, Copy, Default)]
struct Known {
    /// `last_steal`.
    last_steal: Range,
    /// Last to run it, if nothing was restored since.
    runner: Option<usize>,
}

/// One model.
pub(super) struct Model {
    pub(super) name: &'static str,
    /// Is this charge possible?
    allows: fn(&Known, &Record, growth_ns: i128) -> bool,
    /// What the step leaves behind.
    learn: fn(&mut Known, &Record),
}

/// Every model, the strictest first.
pub(super) const MODELS: [Model; 3] = [
    Model { name: "sound", allows: sound_allows, learn: learn_runs },
    Model { name: "fixed", allows: fixed_allows, learn: learn_runs },
    Model { name: "affected", allows: affected_allows, learn: learn_every_ioctl },
];

impl Model {
    /// The first step that this model does not allow.
    pub(super) fn misfit(&self, records: &[Record]) -> Option<usize> {
        let mut known = [Known::default(); VCPUS];
        records.iter().position(|record| {
            let known = &mut known[record.step.vcpu];
            let allowed = record.growth_ns().is_none_or(|growth| (self.allows)(known, record, growth.into()));
            (self.learn)(known, record);
            !allowed
        })
    }
}

/// No thread's run_delay is ever subtracted from another's: on one runner exactly its own, else at most the time.
fn sound_allows(known: &Known, record: &Record, growth_ns: i128) -> bool {
    if known.runner == Some(record.step.thread) {
        within(growth_ns, difference(record, known))
    } else {
        record.fault().is_none()
    }
}

/// Since 4.4: whoever runs, its run_delay less that of whoever ran before; nothing else charges.
fn fixed_allows(known: &Known, record: &Record, growth_ns: i128) -> bool {
    within(growth_ns, difference(record, known))
}

/// Before 4.4: the run_delay of whoever runs, less that of the last thread to issue any ioctl. A runner that is
/// rescheduled on its way into the guest loses that, and charges only what it waited since.
fn affected_allows(known: &Known, record: &Record, growth_ns: i128) -> bool {
    let waited = i128::from(record.run_delay_ns.1) - i128::from(record.run_delay_ns.0);
    within(growth_ns, difference(record, known)) || (!record.undisturbed() && within(growth_ns, (0, waited)))
}

/// The caller's run_delay less last_steal.
fn difference(record: &Record, known: &Known) -> Range {
    let (least, most) = range(record);
    (least - known.last_steal.1, most - known.last_steal.0)
}

fn range(record: &Record) -> Range {
    (record.run_delay_ns.0.into(), record.run_delay_ns.1.into())
}

fn within(value: i128, (least, most): Range) -> bool {
    (least..=most).contains(&value)
}

fn learn_runs(known: &mut Known, record: &Record) {
    match record.step.act {
        Act::Run => *known = Known { last_steal: range(record), runner: Some(record.step.thread) },
        Act::Restore => known.runner = None,
        Act::Read => {}
    }
}

fn learn_every_ioctl(known: &mut Known, record: &Record) {
    *known = Known { last_steal: range(record), runner: None };
}

#[cfg(test)]
mod tests {
    use super::MODELS;
    use crate::vmm::scenario::random_hand_offs::{
        stage::{
            Record,
            testing::{did, ran},
        },
        steps::Act,
    };

    /// Which models explain these records?
    fn fit(records: &[Record]) -> Vec<&'static str> {
        MODELS.iter().filter(|model| model.misfit(records).is_none()).map(|model| model.name).collect()
    }

    #[test]
    fn one_thread_alone_fits_all() {
        assert_eq!(fit(&[ran(1, (0, 0), 0), ran(1, (70, 80), 75)]), ["sound", "fixed", "affected"]);
        assert!(fit(&[ran(1, (0, 0), 0), ran(1, (70, 80), 69)]).is_empty());
        assert!(fit(&[ran(1, (0, 0), 0), ran(1, (70, 80), 81)]).is_empty());
    }

    #[test]
    fn a_hand_off_that_goes_back_is_not_sound() {
        assert_eq!(fit(&[ran(1, (100, 100), 100), ran(2, (30, 30), -70)]), ["fixed", "affected"]);
        assert_eq!(fit(&[ran(1, (100, 100), 100), ran(2, (30, 30), 0)]), ["sound"]);
        assert!(fit(&[ran(1, (100, 100), 100), ran(2, (30, 30), -69)]).is_empty());
    }

    #[test]
    fn a_foreign_ioctl_matters_on_affected_kernels_only() {
        let run_and_read = [ran(1, (100, 100), 100), did(2, Act::Read, (30, 30))];
        let then = |growth| fit(&[&run_and_read[..], &[ran(1, (100, 100), growth)]].concat());
        assert_eq!(then(0), ["sound", "fixed"]);
        assert_eq!(then(70), ["affected"]);
    }

    #[test]
    fn a_restore_copies_on_affected_kernels_only() {
        let records = |growth| [did(1, Act::Restore, (500, 500)), ran(2, (30, 30), growth)];
        assert_eq!(fit(&records(30)), ["sound", "fixed"]);
        assert_eq!(fit(&records(-470)), ["affected"]);
    }

    #[test]
    fn rescheduled_a_runner_on_an_affected_kernel_spares_the_guest() {
        let restored = did(1, Act::Restore, (500, 500));
        let spared = Record { preemptions: 1, ..ran(2, (30, 40), 5) };
        assert_eq!(fit(&[restored.clone(), Record { preemptions: 0, ..spared.clone() }]), ["sound"]);
        assert_eq!(fit(&[restored, spared]), ["sound", "affected"]);
    }

    #[test]
    fn vcpus_are_told_apart() {
        let mut other = ran(2, (30, 30), 30);
        other.step.vcpu = 1;
        assert_eq!(fit(&[ran(1, (100, 100), 100), other]), ["sound", "fixed", "affected"]);
    }
}
