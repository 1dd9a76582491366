//! Everything that is wrong with settings, told at once.

use super::error::ConfigError;

/// What was found so far.
#[derive(Debug, Default)]
pub struct Problems(Vec<ConfigError>);

impl Problems {
    pub fn add(&mut self, problem: ConfigError) {
        match problem {
            ConfigError::Several(several) => self.0.extend(several),
            one => self.0.push(one),
        }
    }

    /// `None`, after noting the error.
    pub fn keep<T>(&mut self, result: Result<T, ConfigError>) -> Option<T> {
        result.map_err(|problem| self.add(problem)).ok()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// # Errors
    /// The only one, or [`ConfigError::Several`]: in a file's order, and those of other sources behind it.
    pub fn finish(mut self) -> Result<(), ConfigError> {
        self.0.sort_by_key(|problem| problem.line_and_column().unwrap_or((u64::MAX, 0)));
        match self.0.len() {
            0 => Ok(()),
            1 => Err(self.0.remove(0)),
            _ => Err(ConfigError::Several(self.0)),
        }
    }
}
