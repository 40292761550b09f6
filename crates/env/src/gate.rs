//! A gate that all tasks of one simulated process pass: while it is closed the process stands still, as after SIGSTOP.
//! Its clocks go on, and its timers are due when it opens.

use parking_lot::Mutex;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

/// See the module's words.
#[derive(Debug)]
pub struct Gate(Mutex<State>);

#[derive(Debug)]
struct State {
    closed: bool,
    /// Tasks that would have run, in this order. At most as many as the process has.
    waiting: Vec<Waker>,
}

impl Gate {
    /// An open gate.
    pub const fn new() -> Self {
        Gate(Mutex::new(State { closed: false, waiting: Vec::new() }))
    }

    /// No task runs from now on.
    pub fn close(&self) {
        self.0.lock().closed = true;
    }

    /// Tasks run again.
    pub fn open(&self) {
        let waiting = {
            let mut state = self.0.lock();
            state.closed = false;
            std::mem::take(&mut state.waiting)
        };
        waiting.into_iter().for_each(Waker::wake);
    }

    /// Whether tasks stand still.
    pub fn is_closed(&self) -> bool {
        self.0.lock().closed
    }

    /// A future that runs while the gate is open.
    pub fn pass<F: Future>(&'static self, future: F) -> Passing<F> {
        Passing { gate: self, future: Box::pin(future) }
    }

    /// Whether the task of this waker may run now; if not it is woken when the gate opens.
    fn lets_through(&self, waker: &Waker) -> bool {
        let mut state = self.0.lock();
        if state.closed && !state.waiting.iter().any(|waiting| waiting.will_wake(waker)) {
            state.waiting.push(waker.clone());
        }
        !state.closed
    }
}

impl Default for Gate {
    fn default() -> Self {
        Gate::new()
    }
}

/// See [`Gate::pass`].
pub struct Passing<F> {
    gate: &'static Gate,
    future: Pin<Box<F>>,
}

impl<F: Future> Future for Passing<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        match self.gate.lets_through(cx.waker()) {
            true => self.future.as_mut().poll(cx),
            false => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::time::{Instant, sleep, timeout};

    /// A task whose timer is due stands still until the gate opens, and goes on then.
    #[tokio::test(start_paused = true)]
    async fn a_closed_gate_holds_tasks_up() {
        static GATE: Gate = Gate::new();
        let began = Instant::now();
        let mut task = tokio::spawn(GATE.pass(sleep(Duration::from_secs(1))));
        tokio::task::yield_now().await;
        GATE.close();
        assert!(timeout(Duration::from_secs(5), &mut task).await.is_err() && GATE.is_closed());
        GATE.open();
        task.await.expect("it ends");
        assert_eq!(began.elapsed().as_secs(), 5);
    }
}
