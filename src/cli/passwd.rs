//! `passwd`: makes hashes of passwords, and keeps files of them.

use std::{
    fs,
    io::{self, BufRead, Read, Write},
    path::{Path, PathBuf},
};

#[cfg(unix)]
use std::{
    io::IsTerminal,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::Context;
#[cfg(unix)]
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

use super::{
    exit::{Exit, Failure},
    file::{NewFile, named},
    output,
    signal::Signals,
};
use crate::auth::{LONGEST_PASSWORD, PasswordHash};

#[derive(Debug, clap::Args)]
pub struct PasswdArgs {
    /// The file, which mqtt.password_file names; the user is added, or gets another password
    #[arg(required_unless_present = "hash")]
    file: Option<PathBuf>,
    /// The user
    #[arg(required_unless_present = "hash")]
    user: Option<String>,
    /// Make the file, where there is none
    #[arg(short, long, conflicts_with = "hash")]
    create: bool,
    /// Replace one that is there, with all its users
    #[arg(long, requires = "create")]
    force: bool,
    /// Print a hash instead, for password_hash in mqtt.users
    #[arg(long, conflicts_with_all = ["file", "user"])]
    hash: bool,
    /// Read the password from standard input, one line, in place of asking for it
    #[arg(long)]
    stdin: bool,
}

pub async fn run(args: PasswdArgs) -> Result<Exit, Failure> {
    let signals = Signals::install().map_err(|error| Failure::new(Exit::Failed, error))?;
    // What is wrong with the rest is said before anybody types a password.
    let mut lines = match (&args.file, &args.user) {
        (Some(file), Some(user)) => {
            check_user(user)?;
            match args.create {
                true => make(file, args.force)?,
                false => read_lines(file)?,
            }
        }
        _ => Vec::new(),
    };
    let (from_stdin, terminal) = (args.stdin, Terminal::default());
    let asking = terminal.clone();
    let asked = tokio::task::spawn_blocking(move || if from_stdin { read_password() } else { ask(&asking) });
    let password = tokio::select! {
        password = asked => password.context("asking failed")??,
        () = signals.asked() => {
            terminal.restore();
            return Ok(Exit::Interrupted);
        }
    };
    let mut salt = [0; 16];
    let random = rustls::crypto::ring::default_provider().secure_random;
    random.fill(&mut salt).ok().context("the system has no random bytes")?;
    let hash = PasswordHash::make(&password, salt);
    let (Some(file), Some(user)) = (args.file, args.user) else {
        output::line(hash)?;
        return Ok(Exit::Passed);
    };
    let line = format!("{user}:{hash}");
    match lines.iter().position(|line| line.trim().split_once(':').is_some_and(|(name, _)| name == user)) {
        Some(position) => lines[position] = line,
        None => lines.push(line),
    }
    let mut new = NewFile::create_private(&file)?;
    for line in lines {
        writeln!(new, "{line}")?;
    }
    new.finish()?;
    Ok(Exit::Passed)
}

/// A name that a line of the file can hold.
fn check_user(user: &str) -> Result<(), Failure> {
    let is_good = !user.is_empty()
        && user.trim() == user
        && !user.starts_with('#')
        && !user.contains(|c: char| c == ':' || c.is_control());
    match is_good {
        true => Ok(()),
        false => Err(Failure::usage(format!(
            "{user:?} cannot stand in a file: a name has no colon, no control characters, no blanks at its ends, and no # \
             at the beginning"
        ))),
    }
}

/// The lines that a new file begins with.
fn make(file: &Path, force: bool) -> Result<Vec<String>, Failure> {
    let holds_something = fs::metadata(file).is_ok_and(|found| found.is_file() && found.len() > 0);
    if holds_something && !force {
        return Err(Failure::usage(format!(
            "{}: it is there; without -c users are added to it, with --force it is replaced",
            file.display()
        )));
    }
    NewFile::check(file)?;
    Ok(Vec::new())
}

fn read_lines(file: &Path) -> Result<Vec<String>, Failure> {
    match fs::read_to_string(file) {
        Ok(text) => Ok(text.lines().map(str::to_owned).collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(Failure::usage(format!("{}: there is no such file; -c makes it", file.display())))
        }
        Err(error) => Err(named(file, error).into()),
    }
}

fn read_password() -> anyhow::Result<Vec<u8>> {
    let mut line = Vec::new();
    // A byte more than may be, and the end of the line.
    io::stdin().lock().take(LONGEST_PASSWORD as u64 + 3).read_until(b'\n', &mut line)?;
    checked(line)
}

fn checked(mut line: Vec<u8>) -> anyhow::Result<Vec<u8>> {
    for end in [b'\n', b'\r'] {
        if line.last() == Some(&end) {
            line.pop();
        }
    }
    anyhow::ensure!(!line.is_empty(), "the password is empty");
    anyhow::ensure!(line.len() <= LONGEST_PASSWORD, "the password has more than {LONGEST_PASSWORD} bytes");
    Ok(line)
}

fn ask(terminal: &Terminal) -> anyhow::Result<Vec<u8>> {
    anyhow::ensure!(
        terminal.hide(),
        "standard input is no terminal to ask for the password on; --stdin reads it from there"
    );
    let ask = |what: &str| {
        eprint!("{what}: ");
        let line = read_password();
        // The key that ended the line was not shown either.
        eprintln!();
        line
    };
    let both = ask("Password").and_then(|password| Ok((password, ask("The same again")?)));
    terminal.restore();
    let (password, again) = both?;
    anyhow::ensure!(password == again, "the passwords differ");
    Ok(password)
}

/// Standard input, where it is a terminal, which can be kept from showing what is typed.
#[derive(Clone, Default)]
struct Terminal {
    /// How it was; `None` while it is so.
    #[cfg(unix)]
    before: Arc<Mutex<Option<Termios>>>,
}

impl Terminal {
    /// Whether nothing is shown from now on.
    #[cfg(unix)]
    fn hide(&self) -> bool {
        let hide = || {
            let before = io::stdin().is_terminal().then(|| tcgetattr(io::stdin()).ok())??;
            let mut modes = before.clone();
            modes.local_modes.remove(LocalModes::ECHO);
            *self.before.lock().unwrap_or_else(PoisonError::into_inner) = Some(before);
            tcsetattr(io::stdin(), OptionalActions::Flush, &modes).ok()
        };
        hide().is_some()
    }

    #[cfg(not(unix))]
    fn hide(&self) -> bool {
        false
    }

    fn restore(&self) {
        #[cfg(unix)]
        if let Some(before) = self.before.lock().unwrap_or_else(PoisonError::into_inner).take() {
            // A terminal that has gone needs nothing.
            let _ = tcsetattr(io::stdin(), OptionalActions::Now, &before);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_password_without_its_end() {
        for (line, password) in
            [("secret\n", "secret"), ("secret\r\n", "secret"), (" se cret ", " se cret "), ("a\r", "a")]
        {
            assert_eq!(checked(line.into()).expect("a password"), password.as_bytes());
        }
        for line in ["", "\n", "\r\n"] {
            assert_eq!(checked(line.into()).expect_err("none").to_string(), "the password is empty");
        }
        let mut longest = vec![b'x'; LONGEST_PASSWORD];
        assert!(checked([&longest[..], b"\r\n"].concat()).is_ok());
        longest.push(b'x');
        assert_eq!(checked(longest).expect_err("none").to_string(), "the password has more than 4096 bytes");
    }

    #[test]
    fn names_that_would_not_be_read_again_are_refused() {
        for user in ["", "a:b", "#a", " a", "a ", "a\nb"] {
            assert!(check_user(user).is_err(), "{user:?}");
        }
        assert!(check_user("Jörg #2").is_ok());
    }
}
