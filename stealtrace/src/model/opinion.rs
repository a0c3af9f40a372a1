//! What is thought of a guest's counter, look by look. KVM may be about to put a charge into it, and a snapshot that is
//! loaded sets it once: what seems off must seem so twice.

use super::{Judgement, Sight, judge};

/// What is thought of a counter.
#[derive(Clone, Debug, Default)]
pub(crate) struct Opinion {
    told: Option<Judgement>,
    /// The look that the next one is compared with.
    before: Option<Sight>,
    /// A later one in which it seemed off, by so much (ns).
    suspect: Option<(Sight, i64)>,
}

impl Opinion {
    /// Does it take another look to know?
    pub(crate) const fn is_open(&self) -> bool {
        self.suspect.is_some()
    }

    /// One more look.
    pub(crate) fn form(&mut self, now: Sight) -> Judgement {
        let seems = judge(self.before.as_ref(), &now);
        let told = match (self.suspect.take(), seems) {
            (None, Judgement::Off(ns)) => {
                self.suspect = Some((now, ns));
                return self.told.unwrap_or(Judgement::Untold);
            }
            (Some((suspect, ns)), Judgement::Off(_)) => match judge(Some(&suspect), &now) {
                Judgement::Sound => Judgement::Jumped(ns),
                Judgement::Untold => {
                    self.suspect = Some((suspect, ns));
                    return self.told.unwrap_or(Judgement::Untold);
                }
                known => known,
            },
            (_, Judgement::Untold) if self.is_as_before(&now) => self.told.unwrap_or(Judgement::Untold),
            (_, known) => known,
        };
        self.before = Some(now);
        self.told = Some(told);
        told
    }

    /// Nothing was charged since: what was known still holds.
    fn is_as_before(&self, now: &Sight) -> bool {
        self.before.as_ref().is_some_and(|before| {
            (before.enabling, before.runner_tid, before.counter)
                == (now.enabling, now.runner_tid, now.counter)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Sight, Judgement, Opinion};

    const SECOND: u64 = 1_000_000_000;

    /// The guest's counter and last_steal in seconds, and how often it was updated.
    fn look(steal: u64, last_steal: u64, updates: u32) -> Sight {
        let charged_ns = last_steal * SECOND;
        Sight {
            enabling: 0x1041,
            runner_tid: Some(7),
            counter: Some((steal * SECOND, updates * 2)),
            charged_ns: charged_ns..=charged_ns,
        }
    }

    fn opinions<const N: usize>(looks: [Sight; N]) -> [Judgement; N] {
        let mut opinion = Opinion::default();
        looks.map(|look| opinion.form(look))
    }

    #[test]
    fn what_counts_right_is_sound_and_stays_so_while_nothing_happens() {
        let told = opinions([look(5, 5, 1), look(6, 6, 2), look(6, 6, 2)]);
        assert_eq!(told, [Judgement::Untold, Judgement::Sound, Judgement::Sound]);
    }

    #[test]
    fn a_charge_that_was_on_its_way_is_no_fault() {
        let told = opinions([look(5, 5, 1), look(6, 8, 2), look(9, 9, 3)]);
        assert_eq!(told, [Judgement::Untold, Judgement::Untold, Judgement::Sound]);
    }

    #[test]
    fn what_goes_on_counting_wrong_is_off() {
        let told = opinions([look(5, 5, 1), look(9, 6, 2), look(13, 7, 3), look(17, 8, 4), look(21, 9, 5)]);
        assert_eq!(told[1], Judgement::Untold);
        assert!(told[2..].iter().all(|told| *told == Judgement::Off(3_000_000_000)), "{told:?}");
    }

    #[test]
    fn what_jumps_once_is_told_so_and_sound_again() {
        let told = opinions([look(5, 5, 1), look(9, 6, 2), look(10, 7, 3), look(11, 8, 4)]);
        assert_eq!(told[2..], [Judgement::Jumped(3_000_000_000), Judgement::Sound]);
    }

    #[test]
    fn after_a_hand_over_it_takes_two_looks_again() {
        let handed_over = Sight { runner_tid: Some(8), ..look(7, 2, 3) };
        let told = opinions([look(5, 5, 1), look(6, 6, 2), handed_over]);
        assert_eq!(told[2], Judgement::Untold);
    }
}
