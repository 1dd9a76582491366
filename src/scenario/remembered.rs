//! Which of a run's steps are remembered: a long `repeat` must not crowd out what was expected, and what failed.

use std::sync::Arc;

use super::report::{StepResult, StepStatus};

/// As many as a scenario has; only who drives one does more.
const OUTER_MAX: usize = 10_000;

/// Of each kind of steps within others.
const INNER_MAX: usize = 2_000;

/// Steps that have ended, in that order, as far as they are remembered.
#[derive(Debug, Default)]
pub struct Remembered {
    steps: Vec<Arc<StepResult>>,
    left_out: u64,
    outer: usize,
    /// By kind: those that did not pass, ends of blocks and expectations, all others.
    inner: [usize; 3],
}

impl Remembered {
    pub fn add(&mut self, step: Arc<StepResult>) {
        let (count, max) = match (step.number.contains('.'), step.status) {
            (false, _) => (&mut self.outer, OUTER_MAX),
            (true, StepStatus::Failed | StepStatus::Skipped) => (&mut self.inner[0], INNER_MAX),
            (true, StepStatus::Passed) if step.expects || step.is_block() => (&mut self.inner[1], INNER_MAX),
            (true, StepStatus::Passed) => (&mut self.inner[2], INNER_MAX),
        };
        if *count < max {
            *count += 1;
            self.steps.push(step);
        } else {
            self.left_out += 1;
        }
    }

    pub fn steps(&self) -> Vec<StepResult> {
        self.steps.iter().map(|step| StepResult::clone(step)).collect()
    }

    /// How many more there were.
    pub fn left_out(&self) -> u64 {
        self.left_out
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn many_steps_of_a_repeat_leave_room_for_what_was_expected_and_what_failed() {
        let step = |number: &str, kind: &str, status| StepResult {
            number: number.to_owned(),
            kind: kind.to_owned(),
            name: String::new(),
            line: 1,
            pass: 1,
            expects: kind == "expect",
            status,
            at: Duration::ZERO,
            took: Duration::ZERO,
            text: String::new(),
            nearest: None,
        };
        let mut remembered = Remembered::default();
        let mut add = |step| remembered.add(Arc::new(step));
        for _ in 0..5_000 {
            add(step("1.1", "state.set", StepStatus::Passed));
        }
        add(step("1.2", "expect", StepStatus::Passed));
        add(step("1.3.1", "wait", StepStatus::Failed));
        add(step("1.3", "parallel", StepStatus::Passed));
        add(step("1", "repeat", StepStatus::Passed));
        add(step("2", "wait", StepStatus::Passed));
        assert_eq!(remembered.left_out(), 3_000);
        let steps = remembered.steps();
        let last: Vec<&str> = steps[2_000..].iter().map(|step| &*step.number).collect();
        assert_eq!(last, ["1.2", "1.3.1", "1.3", "1", "2"]);
    }
}
