//! The clock behind core's [`Time`]: the wall clock is taken once, then a monotonic one counts on, so time never goes back within a process
//! and nobody who sets the clock can disturb a decision.

use rbuddy_core::types::Time;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Gives the time. Copies of one clock agree with each other.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    started: Instant,
    started_at: Time,
}

impl Clock {
    /// A clock that starts at the wall clock's time.
    pub fn start() -> Clock {
        // A wall clock before 1970 is no clock: counting from 0 is as good, as only differences decide anything.
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Clock { started: Instant::now(), started_at: Time::from_unix_ms(0).after(wall) }
    }

    /// Now.
    pub fn now(&self) -> Time {
        self.started_at.after(self.started.elapsed())
    }
}
