//! How far long work is: drawn on a terminal, said now and then elsewhere.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::output;

/// Between two lines where nobody draws.
const PLAIN_INTERVAL: Duration = Duration::from_secs(10);

/// Goes to standard error, so that standard output has results only.
pub struct Progress {
    bar: Option<ProgressBar>,
    said: Instant,
}

impl Progress {
    /// A line that changes, for work of unknown length.
    pub fn line() -> Self {
        Self::new(|| {
            let style = ProgressStyle::with_template("{spinner} {wide_msg}").expect("the template is valid");
            ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr()).with_style(style)
        })
    }

    /// A bar from 0 to `total`.
    pub fn bar(total: u64) -> Self {
        Self::new(|| {
            let style =
                ProgressStyle::with_template("{wide_bar} {pos}/{len} {msg}").expect("the template is valid");
            ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr()).with_style(style)
        })
    }

    fn new(bar: impl FnOnce() -> ProgressBar) -> Self {
        Self { bar: output::is_terminal().then(bar), said: Instant::now() }
    }

    /// Says a line above what is drawn.
    pub fn say(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.println(text),
            None => eprintln!("{text}"),
        }
    }

    pub fn update(&mut self, position: u64, text: impl FnOnce() -> String) {
        match &self.bar {
            Some(bar) => {
                bar.set_message(text());
                bar.set_position(position);
                bar.tick();
            }
            None if self.said.elapsed() >= PLAIN_INTERVAL => {
                self.said = Instant::now();
                eprintln!("{}", text());
            }
            None => {}
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
