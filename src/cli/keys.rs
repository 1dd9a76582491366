//! Keys on a terminal, one by one: for work that is steered while it runs.

use super::signal::Signals;

/// Says what keys do.
pub const HELP: &str = "keys: space pauses and goes on, n or Enter the next one, b the next ten, + and - double and halve the speed, m does not \
     wait, left and right arrow 10 s back and forth, q quits, ? this line";

/// What a key asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    PauseOrResume,
    Step,
    Burst,
    Faster,
    Slower,
    Max,
    Back,
    Forth,
    Quit,
    Help,
}

/// Makes keys of what a terminal sends.
#[derive(Debug, Default)]
struct KeyReader {
    /// Of a sequence that began with ESC.
    sequence: Vec<u8>,
}

const ESCAPE: u8 = 0x1b;

impl KeyReader {
    /// The key that is complete with `byte`.
    fn take(&mut self, byte: u8) -> Option<Key> {
        match (&*self.sequence, byte) {
            (_, ESCAPE) => {
                self.sequence = vec![ESCAPE];
                return None;
            }
            ([ESCAPE], b'[' | b'O') => {
                self.sequence.push(byte);
                return None;
            }
            ([ESCAPE, _, ..], byte) => {
                // Parameters of a key that was pressed with another one.
                if matches!(byte, b'0'..=b'?') {
                    return None;
                }
                self.sequence.clear();
                return match byte {
                    b'C' => Some(Key::Forth),
                    b'D' => Some(Key::Back),
                    _ => None,
                };
            }
            _ => self.sequence.clear(),
        }
        Some(match byte {
            b' ' => Key::PauseOrResume,
            b'n' | b'\n' | b'\r' => Key::Step,
            b'b' => Key::Burst,
            b'+' | b'=' => Key::Faster,
            b'-' => Key::Slower,
            b'm' => Key::Max,
            b'q' => Key::Quit,
            b'?' | b'h' => Key::Help,
            _ => return None,
        })
    }
}

/// The keys of the terminal that we are in the foreground of. It is as it was when this is dropped, and when a signal ends us.
pub struct Keys {
    pressed: tokio::sync::mpsc::Receiver<Key>,
    #[cfg(unix)]
    _terminal: terminal::Guard,
}

impl Keys {
    /// `None` where nobody sits: standard input, output or error is no terminal, or others are in its foreground. Whoever reads
    /// our output may read keys, too, and a pager does.
    #[cfg(unix)]
    pub fn listen(signals: &Signals) -> Option<Self> {
        let (press, pressed) = tokio::sync::mpsc::channel(16);
        let terminal = terminal::listen(signals, press)?;
        Some(Self { pressed, _terminal: terminal })
    }

    #[cfg(not(unix))]
    pub fn listen(_signals: &Signals) -> Option<Self> {
        None
    }

    /// The next one.
    pub async fn next(&mut self) -> Key {
        match self.pressed.recv().await {
            Some(key) => key,
            // The terminal has gone.
            None => std::future::pending().await,
        }
    }
}

#[cfg(unix)]
mod terminal {
    //! A terminal that hands over keys as they are pressed and does not show them.

    use std::{
        io::{self, IsTerminal},
        sync::{Arc, Mutex, MutexGuard, PoisonError},
        thread,
        time::Duration,
    };

    use rustix::{
        event::{PollFd, PollFlags, Timespec, poll},
        termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcgetpgrp, tcsetattr},
    };
    use tokio::{
        signal::unix::{SignalKind, signal},
        sync::mpsc::{Sender, error::TrySendError},
    };

    use super::{Key, KeyReader, Signals};

    /// Between two looks at who is in the foreground, and how the terminal is.
    const LOOK: Duration = Duration::from_millis(100);
    /// What shells add to the number of a signal that ended a command.
    const BY_SIGNAL: i32 = 128;

    /// How the terminal was; `None` once it is so again.
    type Before = Arc<Mutex<Option<Termios>>>;

    /// Gives the terminal back.
    pub struct Guard(Before);

    impl Drop for Guard {
        fn drop(&mut self) {
            restore(&self.0);
        }
    }

    pub fn listen(signals: &Signals, press: Sender<Key>) -> Option<Guard> {
        let is_terminal =
            io::stdin().is_terminal() && io::stdout().is_terminal() && io::stderr().is_terminal();
        if !is_terminal || !is_in_foreground() {
            return None;
        }
        let (mut hang_up, mut quit) = (signal(SignalKind::hangup()).ok()?, signal(SignalKind::quit()).ok()?);
        let before: Before = Arc::new(Mutex::new(Some(tcgetattr(io::stdin()).ok()?)));
        let guard = Guard(before.clone());
        let restored = before.clone();
        signals.before_exit(move || restore(&restored));
        let restored = before.clone();
        tokio::spawn(async move {
            let number = tokio::select! {
                _ = hang_up.recv() => SignalKind::hangup().as_raw_value(),
                _ = quit.recv() => SignalKind::quit().as_raw_value(),
            };
            restore(&restored);
            std::process::exit(BY_SIGNAL + number);
        });
        take_over(&before);
        let reading = thread::Builder::new().name("keys".to_owned()).spawn(move || read(&before, &press));
        reading.is_ok().then_some(guard)
    }

    fn locked(before: &Before) -> MutexGuard<'_, Option<Termios>> {
        before.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_in_foreground() -> bool {
        tcgetpgrp(io::stdin()).is_ok_and(|group| group == rustix::process::getpgrp())
    }

    fn restore(before: &Before) {
        if let Some(before) = locked(before).take() {
            // A terminal that has gone needs nothing.
            let _ = tcsetattr(io::stdin(), OptionalActions::Now, &before);
        }
    }

    /// Has keys handed over at once. `false` when the terminal was given back.
    fn take_over(before: &Before) -> bool {
        let before = locked(before);
        let Some(before) = &*before else { return false };
        let mut modes = before.clone();
        modes.local_modes.remove(LocalModes::ICANON | LocalModes::ECHO);
        modes.special_codes[SpecialCodeIndex::VMIN] = 0;
        modes.special_codes[SpecialCodeIndex::VTIME] = 0;
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &modes);
        true
    }

    /// Until the terminal is given back, or has gone.
    fn read(before: &Before, press: &Sender<Key>) {
        let mut reader = KeyReader::default();
        let mut bytes = [0; 64];
        loop {
            if locked(before).is_none() {
                return;
            }
            // Whoever reads or changes a terminal from behind is stopped.
            if !is_in_foreground() {
                thread::sleep(LOOK);
                continue;
            }
            // A shell that had us stopped has made it its own; a read would wait for a line then.
            let is_ours =
                || tcgetattr(io::stdin()).is_ok_and(|now| !now.local_modes.contains(LocalModes::ICANON));
            if !is_ours() && !take_over(before) {
                return;
            }
            let stdin = io::stdin();
            let mut ready = [PollFd::new(&stdin, PollFlags::IN)];
            let look = Timespec { tv_sec: 0, tv_nsec: i64::from(LOOK.subsec_nanos()) };
            let has_keys = poll(&mut ready, Some(&look)).is_ok_and(|count| count > 0);
            if !has_keys || !is_ours() {
                continue;
            }
            let len = match rustix::io::read(&stdin, &mut bytes) {
                // Ready, and nothing to read: it has gone.
                Ok(0) => return,
                Ok(len) => len,
                Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => continue,
                Err(_) => return,
            };
            for key in bytes[..len].iter().filter_map(|byte| reader.take(*byte)) {
                // Keys that nobody keeps up with are left out.
                if matches!(press.try_send(key), Err(TrySendError::Closed(_))) {
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(bytes: &[u8]) -> Vec<Key> {
        let mut reader = KeyReader::default();
        bytes.iter().filter_map(|byte| reader.take(*byte)).collect()
    }

    #[test]
    fn keys_are_told_from_what_terminals_send() {
        assert_eq!(
            keys(b" nb+-mq?\n"),
            [
                Key::PauseOrResume,
                Key::Step,
                Key::Burst,
                Key::Faster,
                Key::Slower,
                Key::Max,
                Key::Quit,
                Key::Help,
                Key::Step
            ]
        );
        assert_eq!(keys(b"\x1b[C\x1b[D\x1bOC\x1bOD"), [Key::Forth, Key::Back, Key::Forth, Key::Back]);
    }

    #[test]
    fn other_keys_mean_nothing() {
        // Up, with Shift; F5; Delete; ESC alone and a key behind it; letters.
        assert_eq!(keys(b"\x1b[1;2A\x1b[15~\x1b[3~xyz"), []);
        assert_eq!(keys(b"\x1b\x1b[Cn"), [Key::Forth, Key::Step]);
        assert_eq!(keys(b"\x1bn"), [Key::Step]);
    }
}
