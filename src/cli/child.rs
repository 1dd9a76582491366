//! A command that is run beside a server of ours: with our terminal and our signals, and an exit code to keep.

use std::{ffi::OsString, io, process::ExitStatus};

use tokio::process::{Child as Process, Command};

use super::{
    exit::{Exit, Failure},
    signal::Passed,
};

/// As `env` and shells exit for a command that is not there, and for one that cannot be run.
const NOT_FOUND: u8 = 127;
const NOT_RUNNABLE: u8 = 126;
/// What shells add to the number of a signal that ended a command.
const BY_SIGNAL: i32 = 128;

/// A command that runs.
pub struct Child {
    process: Process,
    name: String,
}

impl Child {
    /// Runs `words`, the first of which is the program; standard input, output and error are ours.
    ///
    /// # Errors
    /// [`Exit::Command`] with 127 for a program that is not there, with 126 for one that cannot be run.
    pub fn spawn(words: &[OsString], variables: &[(&str, &str)]) -> Result<Self, Failure> {
        let (program, arguments) = words.split_first().ok_or_else(|| Failure::usage("no command"))?;
        let name = program.to_string_lossy().into_owned();
        let spawned =
            Command::new(program).args(arguments).envs(variables.iter().copied()).kill_on_drop(true).spawn();
        match spawned {
            Ok(process) => Ok(Self { process, name }),
            Err(error) => {
                let code = if error.kind() == io::ErrorKind::NotFound { NOT_FOUND } else { NOT_RUNNABLE };
                Err(Failure::new(Exit::Command(code), anyhow::anyhow!("{name}: {error}")))
            }
        }
    }

    /// Its exit code; that of one which a signal ended is 128 and the signal's number. What we are sent meanwhile goes to it.
    ///
    /// # Errors
    /// If the operating system does not tell.
    pub async fn ended(mut self, signals: &mut Passed) -> Result<u8, Failure> {
        let status = loop {
            let pid = self.process.id();
            tokio::select! {
                status = self.process.wait() => break status,
                signal = signals.recv() => signal.pass_to(pid),
            }
        };
        let status =
            status.map_err(|error| Failure::new(Exit::Failed, anyhow::anyhow!("{}: {error}", self.name)))?;
        Ok(code(status))
    }
}

#[cfg(unix)]
fn code(status: ExitStatus) -> u8 {
    use std::os::unix::process::ExitStatusExt;
    let code = status.code().or_else(|| status.signal().map(|signal| BY_SIGNAL + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX)
}

/// A code that does not fit into ours is a failure all the same.
#[cfg(not(unix))]
fn code(status: ExitStatus) -> u8 {
    status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX)
}
