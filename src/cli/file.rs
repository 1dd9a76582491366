//! A file that appears when it is whole.

use std::{
    fs::{self, File},
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
};

/// A regular file is written under a temporary name beside its place; [`finish`](Self::finish) renames it. Dropped
/// unfinished, it leaves nothing behind. What is no regular file, such as a pipe or `/dev/null`, is written to as it is,
/// and `-` is standard output.
pub struct NewFile {
    path: PathBuf,
    /// For a regular file.
    temporary: Option<Temporary>,
    out: Option<BufWriter<Out>>,
}

enum Out {
    File(File),
    StandardOutput(io::Stdout),
}

/// Who may read a new file.
#[derive(Clone, Copy, PartialEq)]
enum Readers {
    /// As the process has it with all its files.
    Umask,
    /// Those of the file that is replaced; of a new one its owner alone.
    AsBefore,
}

/// Where a file is until it is whole.
struct Temporary {
    path: PathBuf,
    /// What it becomes: a link leads to it.
    target: PathBuf,
}

impl NewFile {
    /// # Errors
    /// If `path` can't be written to; the text names it.
    pub fn create(path: &Path) -> io::Result<Self> {
        Self::create_for(path, Readers::Umask)
    }

    /// The same of a file that only its owner may read, or write. One that is there keeps owner, group and rights:
    /// it may be for a server that runs as another user.
    ///
    /// # Errors
    /// As [`create`](Self::create), and if owner and group can't be kept.
    pub fn create_private(path: &Path) -> io::Result<Self> {
        Self::create_for(path, Readers::AsBefore)
    }

    fn create_for(path: &Path, readers: Readers) -> io::Result<Self> {
        refuse_folder(path)?;
        let (temporary, out) = Self::open(path, readers).map_err(|error| named(path, error))?;
        Ok(Self { path: path.to_owned(), temporary, out: Some(BufWriter::new(out)) })
    }

    /// Whether [`create`](Self::create) can succeed, as far as that shows without touching what is there: a pipe that
    /// is opened has begun, for its reader.
    ///
    /// # Errors
    /// As [`create`](Self::create).
    pub fn check(path: &Path) -> io::Result<()> {
        refuse_folder(path)?;
        if is_standard_output(path) || is_special(path) {
            return Ok(());
        }
        let (temporary, _) = Self::open(path, Readers::Umask).map_err(|error| named(path, error))?;
        temporary.map_or(Ok(()), |temporary| fs::remove_file(temporary.path))
    }

    fn open(path: &Path, readers: Readers) -> io::Result<(Option<Temporary>, Out)> {
        if is_standard_output(path) {
            return Ok((None, Out::StandardOutput(io::stdout())));
        }
        if is_special(path) {
            return Ok((None, Out::File(File::options().write(true).open(path)?)));
        }
        let target = followed(path)?;
        let mut name = target.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{}.tmp", std::process::id()));
        let temporary = target.with_file_name(name);
        let mut options = File::options();
        options.write(true).create(true).truncate(true);
        #[cfg(unix)]
        if readers == Readers::AsBefore {
            // One that an end left behind may be readable.
            let _ = fs::remove_file(&temporary);
            std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        }
        let file = options.open(&temporary)?;
        #[cfg(unix)]
        if readers == Readers::AsBefore
            && let Ok(before) = fs::metadata(&target)
            && let Err(error) = keep_rights(&file, &before)
        {
            let _ = fs::remove_file(&temporary);
            return Err(error);
        }
        #[cfg(not(unix))]
        let _ = readers;
        Ok((Some(Temporary { path: temporary, target }), Out::File(file)))
    }

    /// # Errors
    /// If the rest can't be written; the text names the file.
    pub fn finish(mut self) -> io::Result<()> {
        let finish = |mut out: BufWriter<Out>| {
            out.flush()?;
            match (out.get_ref(), &self.temporary) {
                (Out::File(file), Some(Temporary { path, target })) => {
                    file.sync_all()?;
                    fs::rename(path, target)
                }
                _ => Ok(()),
            }
        };
        let finished = self.out.take().map_or(Ok(()), finish);
        if finished.is_err() {
            self.remove();
        }
        finished.map_err(|error| named(&self.path, error))
    }

    fn remove(&self) {
        if let Some(temporary) = &self.temporary {
            // The error before it is the one to tell, or nobody is left to be told.
            let _ = fs::remove_file(&temporary.path);
        }
    }
}

impl Write for NewFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let out = self.out.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
        out.write(bytes).map_err(|error| named(&self.path, error))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.as_mut().map_or(Ok(()), Write::flush).map_err(|error| named(&self.path, error))
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if self.out.take().is_some() {
            self.remove();
        }
    }
}

impl Write for Out {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::File(file) => file.write(bytes),
            Self::StandardOutput(out) => out.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::File(file) => file.flush(),
            Self::StandardOutput(out) => out.flush(),
        }
    }
}

/// Gives `file` owner, group and rights of the one `before` it.
#[cfg(unix)]
fn keep_rights(file: &File, before: &fs::Metadata) -> io::Result<()> {
    use std::os::unix::fs::{MetadataExt, fchown};

    let own = file.metadata()?;
    if (own.uid(), own.gid()) != (before.uid(), before.gid()) {
        fchown(file, Some(before.uid()), Some(before.gid())).map_err(|error| {
            let text = format!("its owner {}:{} can't be kept: {error}", before.uid(), before.gid());
            io::Error::new(error.kind(), text)
        })?;
    }
    // Behind the owner, who alone may read it until then.
    file.set_permissions(before.permissions())
}

/// Whether `path` means standard output, and no file of that name.
pub fn is_standard_output(path: &Path) -> bool {
    path.as_os_str() == "-"
}

fn refuse_folder(path: &Path) -> io::Result<()> {
    // What ends in `/` or `..` has no name, and a folder would only be in the way at the end.
    match path.file_name().is_none() || path.is_dir() {
        true => Err(named(path, io::Error::other("that is a folder, not a file to write"))),
        false => Ok(()),
    }
}

/// Whether there is something that a file must not take the place of.
fn is_special(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| !found.is_file())
}

/// Links in a row; the system itself follows no more.
const LINKS_MAX: usize = 40;

/// Where `path` leads to, there or not: a link stays one.
fn followed(path: &Path) -> io::Result<PathBuf> {
    let mut path = path.to_owned();
    for _ in 0..LINKS_MAX {
        match fs::read_link(&path) {
            Ok(target) => path = path.parent().unwrap_or(Path::new("")).join(target),
            // It is no link, or not there.
            Err(_) => return Ok(path),
        }
    }
    Err(io::Error::other("too many links lead on from it"))
}

/// The same error with the output in its text.
pub fn named(path: &Path, error: io::Error) -> io::Error {
    let text = match is_standard_output(path) {
        true => format!("standard output: {error}"),
        false => format!("{}: {error}", path.display()),
    };
    io::Error::new(error.kind(), text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_appears_when_it_is_finished() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("session.json");
        fs::write(&path, "old").unwrap();
        let mut file = NewFile::create(&path).unwrap();
        file.write_all(b"new").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        file.finish().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn an_unfinished_file_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = NewFile::create(&folder.path().join("session.json")).unwrap();
        file.write_all(b"half").unwrap();
        drop(file);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[cfg(unix)]
    #[test]
    fn a_link_stays_and_leads_to_the_new_file() {
        let folder = tempfile::tempdir().unwrap();
        let [target, link, dangling] =
            ["target.json", "link.json", "dangling.json"].map(|name| folder.path().join(name));
        fs::write(&target, "old").unwrap();
        std::os::unix::fs::symlink("target.json", &link).unwrap();
        std::os::unix::fs::symlink("new.json", &dangling).unwrap();
        for (link, leads_to) in [(&link, "target.json"), (&dangling, "new.json")] {
            NewFile::check(link).unwrap();
            let mut file = NewFile::create(link).unwrap();
            file.write_all(b"new").unwrap();
            file.finish().unwrap();
            assert_eq!(fs::read_link(link).unwrap(), Path::new(leads_to));
            assert_eq!(fs::read_to_string(folder.path().join(leads_to)).unwrap(), "new");
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 4);
        std::os::unix::fs::symlink("round.json", folder.path().join("round.json")).unwrap();
        let error = NewFile::create(&folder.path().join("round.json")).err().unwrap().to_string();
        assert!(error.ends_with("round.json: too many links lead on from it"), "{error}");
    }

    #[cfg(unix)]
    #[test]
    fn a_private_file_is_its_owners_and_one_that_is_there_keeps_its_rights() {
        use std::os::unix::fs::{MetadataExt, PermissionsExt};

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("passwd");
        let write = || {
            let mut file = NewFile::create_private(&path).unwrap();
            file.write_all(b"alice").unwrap();
            file.finish().unwrap();
            let found = fs::metadata(&path).unwrap();
            (found.mode() & 0o7777, found.uid(), found.gid())
        };
        let (mode, user, group) = write();
        assert_eq!(mode, 0o600);
        for mode in [0o640, 0o644, 0o400] {
            fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
            assert_eq!(write(), (mode, user, group));
        }
        // Only the system's administrator can give a file away.
        if std::os::unix::fs::chown(&path, Some(65_534), Some(65_533)).is_ok() {
            assert_eq!(write(), (0o400, 65_534, 65_533));
        }
    }

    #[cfg(unix)]
    #[test]
    fn what_is_no_regular_file_is_written_to_and_stays() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe.json");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
        assert!(made.success());
        // Must not wait for the reader.
        NewFile::check(&pipe).unwrap();
        let reading = std::thread::spawn({
            let pipe = pipe.clone();
            move || fs::read_to_string(pipe).unwrap()
        });
        let mut file = NewFile::create(&pipe).unwrap();
        file.write_all(b"whole").unwrap();
        file.finish().unwrap();
        assert_eq!(reading.join().unwrap(), "whole");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        let link = folder.path().join("null.json");
        std::os::unix::fs::symlink("/dev/null", &link).unwrap();
        let mut file = NewFile::create(&link).unwrap();
        file.write_all(b"gone").unwrap();
        file.finish().unwrap();
        assert!(is_special(&link) && fs::symlink_metadata(&link).unwrap().is_symlink());
    }

    #[test]
    fn a_folder_is_no_file_to_write() {
        let folder = tempfile::tempdir().unwrap();
        for path in [Path::new("."), Path::new(".."), folder.path()] {
            let error = NewFile::create(path).err().unwrap().to_string();
            assert_eq!(error, format!("{}: that is a folder, not a file to write", path.display()));
        }
    }

    #[test]
    fn a_folder_that_is_not_there_is_named() {
        let error = NewFile::create(Path::new("/nowhere/at/all.json")).err().unwrap();
        assert!(error.to_string().starts_with("/nowhere/at/all.json: "), "{error}");
    }
}
