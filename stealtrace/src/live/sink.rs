//! Who gets to see a live trace's events.

use anyhow::Result;
use stealtrace_common::{
    event::Event,
    ring::{Entry, Repair, Sighting},
};

use crate::pipeline::Flow;

/// Sees everything in the order in which it happened.
pub(crate) trait Sink {
    /// One more event.
    fn event(&mut self, _event: &Event) -> Result<Flow> {
        Ok(Flow::Continue)
    }

    /// A vCPU's descriptor was found.
    fn sighting(&mut self, _sighting: &Sighting) -> Result<Flow> {
        Ok(Flow::Continue)
    }

    /// An update was repaired, or would have been.
    fn repair(&mut self, _repair: &Repair) -> Result<Flow> {
        Ok(Flow::Continue)
    }

    /// Whichever it is.
    fn entry(&mut self, entry: &Entry) -> Result<Flow> {
        match entry {
            Entry::Event(event) => self.event(event),
            Entry::Sighting(sighting) => self.sighting(sighting),
            Entry::Repair(repair) => self.repair(repair),
        }
    }

    /// What there was has been handed over; time passes.
    fn tick(&mut self) -> Result<Flow> {
        Ok(Flow::Continue)
    }
}

/// Several at once. One that has enough ends it, and so do all for whom it would go on in vain.
pub(crate) struct Fan<'a>(pub(crate) Vec<&'a mut dyn Sink>);

impl Fan<'_> {
    fn each(&mut self, mut act: impl FnMut(&mut dyn Sink) -> Result<Flow>) -> Result<Flow> {
        let Self(sinks) = self;
        let mut all = Flow::InVain;
        for sink in sinks {
            all = all.and(act(*sink)?);
        }
        Ok(all)
    }
}

impl Sink for Fan<'_> {
    fn entry(&mut self, entry: &Entry) -> Result<Flow> {
        self.each(|sink| sink.entry(entry))
    }

    fn tick(&mut self) -> Result<Flow> {
        self.each(|sink| sink.tick())
    }
}

#[cfg(test)]
mod tests {
    use anyhow::Result;
    use stealtrace_common::{event::Event, ring::Entry};

    use super::{Fan, Sink};
    use crate::pipeline::Flow;

    struct Says(Flow);

    impl Sink for Says {
        fn event(&mut self, _event: &Event) -> Result<Flow> {
            Ok(self.0)
        }
    }

    fn together(flows: [Flow; 2]) -> Flow {
        let [mut one, mut other] = flows.map(Says);
        Fan(vec![&mut one, &mut other]).entry(&Entry::Event(Event::default())).unwrap()
    }

    #[test]
    fn one_that_has_enough_ends_it_and_so_do_all_that_go_on_in_vain() {
        use Flow::{Continue, InVain, Stop};
        assert_eq!(together([Continue, Stop]), Stop);
        assert_eq!(together([Stop, InVain]), Stop);
        assert_eq!(together([InVain, Continue]), Continue);
        assert_eq!(together([InVain, InVain]), InVain);
    }
}
