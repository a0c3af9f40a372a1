//! Stage: named threads that do what a scenario tells them, one act at a time.
//! A vCPU is moved into a thread for an act and moved out again; it is never shared.

use std::{
    sync::mpsc::{self, Sender},
    thread::{self, JoinHandle},
};

use anyhow::{Context as _, Result, anyhow};

use super::Vcpu;

type Act = Box<dyn FnOnce() + Send>;

/// A thread that waits to be told what to do; ends when dropped.
pub struct StageThread {
    acts: Option<Sender<Act>>,
    thread: Option<JoinHandle<()>>,
}

impl StageThread {
    /// A new thread with run_delay near 0.
    ///
    /// # Errors
    /// When the host has no more threads.
    pub fn spawn(name: &str) -> Result<Self> {
        let (acts, waiting) = mpsc::channel::<Act>();
        let perform = move || waiting.into_iter().for_each(|act| act());
        let thread = thread::Builder::new().name(name.to_owned()).spawn(perform).context("start a thread")?;
        Ok(Self { acts: Some(acts), thread: Some(thread) })
    }

    /// Have it do this, and wait for the result.
    ///
    /// # Errors
    /// What the act returned, or that the thread is gone.
    pub fn act<R: Send + 'static>(&self, act: impl FnOnce() -> Result<R> + Send + 'static) -> Result<R> {
        let (done, result) = mpsc::channel();
        let acts = self.acts.as_ref().context("the thread has ended")?;
        acts.send(Box::new(move || drop(done.send(act())))).map_err(|_| anyhow!("the thread has ended"))?;
        result.recv().context("the thread panicked")?
    }

    /// Lend it a vCPU for an act.
    ///
    /// # Errors
    /// As `act`.
    pub fn lend<R: Send + 'static>(
        &self,
        mut vcpu: Vcpu,
        act: impl FnOnce(&mut Vcpu) -> Result<R> + Send + 'static,
    ) -> Result<(Vcpu, R)> {
        self.act(move || act(&mut vcpu).map(|result| (vcpu, result)))
    }
}

impl Drop for StageThread {
    fn drop(&mut self) {
        drop(self.acts.take());
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }
}
