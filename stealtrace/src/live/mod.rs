//! A live trace, whatever it is for: set up one way, followed by one loop, seen by sinks. The only place that waits.

mod follow;
mod open;
mod sink;
pub(crate) mod vcpus;

pub(crate) use self::{
    open::Live,
    sink::{Fan, Sink},
};
