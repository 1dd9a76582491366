//! A file that appears when it is whole.

use std::{
    fs::{self, File},
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
};

/// Written under a temporary name beside its place; [`finish`](Self::finish) renames it. Dropped
/// unfinished, it leaves nothing behind.
pub struct NewFile {
    path: PathBuf,
    temporary: PathBuf,
    file: Option<BufWriter<File>>,
}

impl NewFile {
    /// # Errors
    /// If the folder can't be written to; the text names `path`.
    pub fn create(path: &Path) -> io::Result<Self> {
        // What ends in `/` or `..` has no name, and a folder would only be in the way at the end.
        let name = path.file_name().filter(|_| !path.is_dir());
        let name =
            name.ok_or_else(|| named(path, io::Error::other("that is a folder, not a file to write")))?;
        let mut temporary = name.to_owned();
        temporary.push(format!(".{}.tmp", std::process::id()));
        let temporary = path.with_file_name(temporary);
        let file = File::create(&temporary).map_err(|error| named(path, error))?;
        Ok(Self { path: path.to_owned(), temporary, file: Some(BufWriter::new(file)) })
    }

    /// # Errors
    /// If the rest can't be written; the text names the file.
    pub fn finish(mut self) -> io::Result<()> {
        let finish = |file: BufWriter<File>| {
            file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
            fs::rename(&self.temporary, &self.path)
        };
        match self.file.take().map_or(Ok(()), finish) {
            Ok(()) => Ok(()),
            Err(error) => {
                // The first error is the one to tell.
                let _ = fs::remove_file(&self.temporary);
                Err(named(&self.path, error))
            }
        }
    }
}

impl Write for NewFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let file = self.file.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
        file.write(bytes).map_err(|error| named(&self.path, error))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.as_mut().map_or(Ok(()), Write::flush).map_err(|error| named(&self.path, error))
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if self.file.take().is_some() {
            // Nobody is left to be told.
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

fn named(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
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
