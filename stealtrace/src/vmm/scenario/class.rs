//! A kernel's class, and what kernels of each class do to a scenario.

use std::fmt;

use clap::ValueEnum;

use super::Harm;

/// What a kernel's steal accounting can be trusted with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Class {
    /// A restore from another thread corrupts (the bug of 2015)
    Affected,
    /// A restore is sound, a KVM_RUN hand-off corrupts (every Linux since 4.4)
    Fixed,
    /// Neither corrupts
    Sound,
}

impl Class {
    /// Of a kernel that does this harm; None if it does not even account for one thread alone.
    #[must_use]
    pub const fn of(alone: Harm, restore: Harm, hand_off: Harm) -> Option<Self> {
        match (alone, restore, hand_off) {
            (Harm::None, Harm::Corrupt, _) => Some(Self::Affected),
            (Harm::None, Harm::None, Harm::Corrupt) => Some(Self::Fixed),
            (Harm::None, Harm::None, Harm::None) => Some(Self::Sound),
            _ => None,
        }
    }

    /// What must be known of a kernel to say that it is at least this.
    #[must_use]
    pub const fn needs(self) -> &'static [Decides] {
        match self {
            Self::Affected | Self::Fixed => &[Decides::Restore],
            Self::Sound => &[Decides::Restore, Decides::HandOff],
        }
    }

    /// In one sentence.
    #[must_use]
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::Affected => {
                "affected: restoring steal time from another thread corrupts the guest's counter"
            }
            Self::Fixed => "fixed: restore is sound, but a KVM_RUN hand-off to another thread corrupts",
            Self::Sound => "sound: neither restore nor a KVM_RUN hand-off corrupts",
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Affected => "affected",
            Self::Fixed => "fixed",
            Self::Sound => "sound",
        })
    }
}

/// What a scenario's result says about a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decides {
    /// Whether one thread alone is accounted for.
    Alone,
    /// Whether a restore from another thread is sound.
    Restore,
    /// Whether a KVM_RUN hand-off is sound.
    HandOff,
}

/// The harm that a scenario shows on kernels of each class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expects {
    affected: Harm,
    fixed: Harm,
    sound: Harm,
}

impl Expects {
    /// No kernel does harm.
    pub(super) const NO_HARM: Self = Self { affected: Harm::None, fixed: Harm::None, sound: Harm::None };
    /// Linux before 4.4 copies the restoring thread's run_delay.
    pub(super) const RESTORE: Self = Self { affected: Harm::Corrupt, ..Self::NO_HARM };
    /// Linux before 4.4 charges the past once more after any thread's ioctl.
    pub(super) const FOREIGN_IOCTL: Self = Self { affected: Harm::OverCharged, ..Self::NO_HARM };
    /// Linux before 4.4 assigns what a thread has waited, at every load, and adds it at the next entry: a runner that is
    /// scheduled out between the two is charged only for its last wait.
    pub(super) const RESCHEDULED: Self = Self { affected: Harm::UnderCharged, ..Self::NO_HARM };
    /// No kernel up to 7.3 tells the old runner's run_delay from the new one's, and none before 7.3 of a guest of Xen's.
    pub(super) const HAND_OFF_DOWN: Self =
        Self { affected: Harm::Corrupt, fixed: Harm::Corrupt, sound: Harm::None };
    /// The same with more run_delay in the new runner.
    pub(super) const HAND_OFF_UP: Self =
        Self { affected: Harm::OverCharged, fixed: Harm::OverCharged, sound: Harm::None };
    /// Since 4.4 last_steal is 0, or stale, when the MSR is enabled.
    pub(super) const FIRST_RUN: Self =
        Self { affected: Harm::None, fixed: Harm::OverCharged, sound: Harm::None };

    /// Since 4.4 enabling the MSR does not start anew with the run_delay of whoever runs the vCPU.
    #[cfg(target_arch = "x86_64")]
    pub(super) const ENABLED_ELSEWHERE: Self = Self { fixed: Harm::Corrupt, ..Self::NO_HARM };

    /// On kernels of this class.
    #[must_use]
    pub const fn on(self, class: Class) -> Harm {
        match class {
            Class::Affected => self.affected,
            Class::Fixed => self.fixed,
            Class::Sound => self.sound,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Class, Expects, Harm};

    #[test]
    fn classes_follow_from_behaviour() {
        let (none, corrupt) = (Harm::None, Harm::Corrupt);
        assert_eq!(Class::of(none, corrupt, corrupt), Some(Class::Affected));
        assert_eq!(Class::of(none, corrupt, none), Some(Class::Affected));
        assert_eq!(Class::of(none, none, corrupt), Some(Class::Fixed));
        assert_eq!(Class::of(none, none, none), Some(Class::Sound));
    }

    #[test]
    fn a_kernel_that_does_anything_else_has_no_class() {
        assert_eq!(Class::of(Harm::Broken, Harm::None, Harm::Corrupt), None);
        assert_eq!(Class::of(Harm::None, Harm::Broken, Harm::Corrupt), None);
        assert_eq!(Class::of(Harm::None, Harm::None, Harm::OverCharged), None);
    }

    #[test]
    fn a_sound_kernel_does_no_harm_at_all() {
        for expects in [
            Expects::NO_HARM,
            Expects::RESTORE,
            Expects::FOREIGN_IOCTL,
            Expects::RESCHEDULED,
            Expects::HAND_OFF_DOWN,
            Expects::HAND_OFF_UP,
            Expects::FIRST_RUN,
            #[cfg(target_arch = "x86_64")]
            Expects::ENABLED_ELSEWHERE,
        ] {
            assert_eq!(expects.on(Class::Sound), Harm::None);
        }
    }
}
