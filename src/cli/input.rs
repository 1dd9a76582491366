//! Files that are read: more than once and from anywhere, so that what can't be is written to a temporary file first.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    path::Path,
    sync::Arc,
};

use super::{
    exit::{Exit, Failure},
    signal::Signals,
};

/// A file with a place of its own in it. Clones are at the same place, and go on by themselves.
#[derive(Clone, Debug)]
pub struct Input {
    file: Arc<File>,
    at: u64,
}

impl Input {
    /// The file at `path`; `-` is standard input. What is no regular file, such as a pipe, is read to its end, into a
    /// temporary file without a name, which goes with the process however that ends.
    ///
    /// # Errors
    /// [`Exit::Usage`] with the path, [`Exit::Interrupted`] when `signals` ask to end before a pipe has.
    pub async fn open(path: &Path, signals: &Signals) -> Result<Self, Failure> {
        let unreadable = |error: io::Error| Failure::usage(format!("{}: {error}", shown(path)));
        let input = if is_standard_input(path) {
            unless_asked(signals, || spooled(io::stdin())).await?
        } else {
            let path = path.to_owned();
            // A named pipe opens once somebody writes to it.
            unless_asked(signals, move || {
                let file = File::open(path)?;
                if file.metadata()?.is_file() { Ok(Self::new(file)) } else { spooled(file) }
            })
            .await?
        };
        input.map_err(unreadable)
    }

    /// From its beginning.
    pub fn new(file: File) -> Self {
        Self { file: Arc::new(file), at: 0 }
    }

    /// In bytes.
    ///
    /// # Errors
    /// The file system's.
    pub fn size(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }
}

/// Whether `path` means standard input, and no file of that name.
fn is_standard_input(path: &Path) -> bool {
    path.as_os_str() == "-"
}

/// What `path` is called in texts.
pub fn shown(path: &Path) -> String {
    if is_standard_input(path) { "standard input".to_owned() } else { path.display().to_string() }
}

/// All of `from`, in a temporary file. Blocks.
fn spooled(mut from: impl Read) -> io::Result<Input> {
    let mut file = tempfile::tempfile()?;
    io::copy(&mut from, &mut file)?;
    Ok(Input::new(file))
}

/// What `work`, which may block for good, comes to.
async fn unless_asked<T: Send + 'static>(
    signals: &Signals,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Failure> {
    tokio::select! {
        done = tokio::task::spawn_blocking(work) => done.map_err(|panic| Failure::new(Exit::Failed, panic)),
        () = signals.asked() => Err(Failure::new(Exit::Interrupted, anyhow::anyhow!("ended before all of it was there"))),
    }
}

impl Read for Input {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        #[cfg(unix)]
        let read = std::os::unix::fs::FileExt::read_at(&*self.file, buffer, self.at)?;
        #[cfg(windows)]
        let read = std::os::windows::fs::FileExt::seek_read(&*self.file, buffer, self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

impl Seek for Input {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
            SeekFrom::End(by) => self.size()?.checked_add_signed(by),
        };
        self.at = at.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[tokio::test]
    async fn clones_go_on_by_themselves() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"0123456789").unwrap();
        let signals = Signals::install().unwrap();
        let mut input = Input::open(file.path(), &signals).await.unwrap();
        input.seek(SeekFrom::End(-4)).unwrap();
        let mut again = input.clone();
        for input in [&mut input, &mut again] {
            let mut rest = String::new();
            input.read_to_string(&mut rest).unwrap();
            assert_eq!(rest, "6789");
        }
        assert!(input.seek(SeekFrom::Current(-11)).is_err());
        assert_eq!(input.size().unwrap(), 10);
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn a_named_pipe_that_nobody_writes_to_is_left_when_a_signal_comes() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let left = Input::open(&pipe, &Signals::given()).await.unwrap_err();
        assert_eq!(left.exit, Exit::Interrupted);
        // The thread that still waits for it is to end, too.
        File::options().write(true).open(&pipe).unwrap();
    }

    #[test]
    fn what_cannot_be_read_twice_is_spooled() {
        let mut input = spooled(&b"once"[..]).unwrap();
        for _ in 0..2 {
            input.rewind().unwrap();
            let mut text = String::new();
            input.read_to_string(&mut text).unwrap();
            assert_eq!(text, "once");
        }
    }
}
