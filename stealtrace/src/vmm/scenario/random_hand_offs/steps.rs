//! Random sequences of steps, and shorter ones that still fail.

/// Threads that take part.
pub(super) const THREADS: usize = 4;
/// vCPUs that take part.
pub(super) const VCPUS: usize = 2;
/// Sequences tried at most to shorten one.
const MOST_TRIES: u32 = 60;

/// What one thread does to one vCPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) thread: usize,
    pub(super) vcpu: usize,
    pub(super) act: Act,
}

/// One ioctl.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Act {
    /// KVM_RUN
    Run,
    /// What restores steal time
    Restore,
    /// What reads registers
    Read,
}

/// Steps with this many hand-offs.
pub(super) fn generate(seed: u64, hand_offs: u32) -> Vec<Step> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut steps = Vec::new();
    let mut runners = [None; VCPUS];
    let mut made = 0;
    while made < hand_offs {
        let act = match random.u32(0..10) {
            0 => Act::Restore,
            1 | 2 => Act::Read,
            _ => Act::Run,
        };
        let step = Step { thread: random.usize(0..THREADS), vcpu: random.usize(0..VCPUS), act };
        if act == Act::Run {
            made += u32::from(runners[step.vcpu].is_some_and(|runner| runner != step.thread));
            runners[step.vcpu] = Some(step.thread);
        }
        steps.push(step);
    }
    steps
}

/// A shorter sequence that still fails: leave out ever smaller parts as long as it does.
pub(super) fn shrink(steps: &[Step], mut fails: impl FnMut(&[Step]) -> bool) -> Vec<Step> {
    let mut steps = steps.to_vec();
    let mut part = steps.len().div_ceil(2);
    let mut tries = 0;
    while part > 0 {
        let mut at = 0;
        while at < steps.len() && tries < MOST_TRIES {
            let mut shorter = steps.clone();
            shorter.drain(at..(at + part).min(steps.len()));
            tries += 1;
            if fails(&shorter) {
                steps = shorter;
            } else {
                at += part;
            }
        }
        part /= 2;
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::{Act, Step, generate, shrink};

    #[test]
    fn a_seed_is_a_sequence() {
        assert_eq!(generate(7, 100), generate(7, 100));
        assert_ne!(generate(7, 100), generate(8, 100));
    }

    #[test]
    fn there_are_as_many_hand_offs_as_asked_for() {
        let mut runners = [None; 2];
        let mut hand_offs = 0;
        for step in generate(1, 50).iter().filter(|step| step.act == Act::Run) {
            hand_offs += u32::from(runners[step.vcpu].is_some_and(|runner| runner != step.thread));
            runners[step.vcpu] = Some(step.thread);
        }
        assert_eq!(hand_offs, 50);
    }

    #[test]
    fn what_does_not_matter_is_left_out() {
        let bad = Step { thread: 3, vcpu: 1, act: Act::Restore };
        let mut steps: Vec<_> = generate(1, 20).into_iter().filter(|step| *step != bad).collect();
        steps.insert(steps.len() / 3, bad);
        assert_eq!(shrink(&steps, |steps| steps.contains(&bad)), [bad]);
    }

    #[test]
    fn what_always_matters_stays() {
        let steps = generate(1, 5);
        assert_eq!(shrink(&steps, |shorter| shorter.len() == steps.len()), steps);
    }
}
