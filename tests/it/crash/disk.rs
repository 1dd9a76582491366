//! A folder as a disk may have it after a power cut: what was synced, and of the rest whatever is drawn.
//!
//! `disk.c`, preloaded into the server, writes down what it does to its files. Writes are durable once a sync of their
//! file that began after them is done; names, once their folder was synced. Of later writes each sector of 512 bytes may have
//! come or not, and the file's length without its bytes; later names came up to one of them, as with a journal.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    fs, io,
    path::{Path, PathBuf},
    process::Command,
};

use super::draws::Draws;

const SECTOR: usize = 512;

/// Files and folders below a root, by their paths.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Image {
    folders: BTreeSet<PathBuf>,
    files: BTreeMap<PathBuf, Vec<u8>>,
}

impl Image {
    fn read(root: &Path) -> io::Result<Self> {
        let mut image = Self::default();
        image.read_folder(root)?;
        Ok(image)
    }

    fn read_folder(&mut self, folder: &Path) -> io::Result<()> {
        self.folders.insert(folder.to_owned());
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                self.read_folder(&path)?;
            } else {
                self.files.insert(path.clone(), fs::read(&path)?);
            }
        }
        Ok(())
    }

    /// In place of what is there.
    fn write(&self, root: &Path) -> io::Result<()> {
        fs::remove_dir_all(root)?;
        self.write_below()
    }

    fn moved(&self, from: &Path, to: &Path) -> Self {
        let moved = |path: &PathBuf| to.join(path.strip_prefix(from).expect("it is below the root"));
        Self {
            folders: self.folders.iter().map(moved).collect(),
            files: self.files.iter().map(|(path, bytes)| (moved(path), bytes.clone())).collect(),
        }
    }

    fn write_below(&self) -> io::Result<()> {
        for folder in &self.folders {
            fs::create_dir_all(folder)?;
        }
        self.files.iter().try_for_each(|(path, bytes)| fs::write(path, bytes))
    }
}

/// Of how many runs it is known what they began with.
const RUNS_KEPT: usize = 4;

pub struct Disk {
    root: PathBuf,
    library: PathBuf,
    log: PathBuf,
    /// What was there before the server began to write.
    before: Image,
    /// The same of the runs before, the last one first, for whoever looks into a failure.
    earlier: VecDeque<Image>,
    /// Syncs count for nothing: such a disk loses what was promised.
    pub is_lying: bool,
}

impl Disk {
    /// For what a server will do below `root`; `folder` is for its own files.
    pub fn new(root: &Path, folder: &Path) -> Self {
        let library = folder.join("disk.so");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/crash/disk.c");
        let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
        let mut command = Command::new(compiler);
        command
            .args(["-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-o"])
            .arg(&library)
            .arg(source);
        assert!(command.status().expect("a C compiler, as Rust has one to link").success(), "{command:?}");
        fs::create_dir_all(root).expect("a writable folder");
        let before = Image::read(root).expect("a readable folder");
        let log = folder.join("disk.log");
        Self { root: root.to_owned(), library, log, before, earlier: VecDeque::new(), is_lying: false }
    }

    pub fn preload(&self, command: &mut Command) {
        command
            .env("LD_PRELOAD", &self.library)
            .env("CRASH_DISK_ROOT", &self.root)
            .env("CRASH_DISK_LOG", &self.log);
    }

    /// Makes of the folder of a server that has ended what a power cut at that moment leaves of it.
    pub fn cut(&mut self, draws: &mut Draws) -> io::Result<()> {
        let mut history = self.history()?;
        let after = history.cut(draws);
        self.earlier.push_front(std::mem::replace(&mut self.before, after));
        self.earlier.truncate(RUNS_KEPT);
        self.before.write(&self.root)
    }

    /// Writes what the last runs began with to `folder`.
    pub fn keep_earlier(&self, folder: &Path) -> io::Result<()> {
        for (ago, image) in [&self.before].into_iter().chain(&self.earlier).enumerate() {
            image.moved(&self.root, &folder.join(format!("start-{ago}-runs-ago"))).write_below()?;
        }
        Ok(())
    }

    /// Whether the log accounts for all that is in the folder of a server that ended by itself; what was done is
    /// durable from here on.
    pub fn is_accounted_for(&mut self) -> io::Result<bool> {
        let found = Image::read(&self.root)?;
        let is_it = self.history()?.live() == found;
        self.before = found;
        Ok(is_it)
    }

    fn history(&self) -> io::Result<History> {
        let mut history = History::new(&self.before, self.is_lying);
        // A server that was killed at once has no log.
        let log = if self.log.exists() { fs::read(&self.log)? } else { Vec::new() };
        let mut rest = &log[..];
        while !rest.is_empty() {
            if !History::has_entry(rest) {
                // Killed in the midst of writing down what no sync has made durable.
                break;
            }
            history
                .take(&mut rest)
                .ok_or_else(|| io::Error::other("the log of the disk is of another one"))?;
        }
        if self.log.exists() {
            fs::remove_file(&self.log)?;
        }
        Ok(history)
    }
}

enum Change {
    Write { at: usize, bytes: Vec<u8> },
    Resize(usize),
}

impl Change {
    fn apply(&self, to: &mut Vec<u8>) {
        match self {
            Self::Write { at, bytes } => {
                let end = at + bytes.len();
                to.resize(to.len().max(end), 0);
                to[*at..end].copy_from_slice(bytes);
            }
            Self::Resize(len) => to.resize(*len, 0),
        }
    }
}

#[derive(Default)]
struct FileHistory {
    durable: Vec<u8>,
    /// In order, none of which is durable yet.
    pending: Vec<Change>,
    /// How many changes were pending when each thread's sync began.
    syncs: HashMap<u64, usize>,
}

impl FileHistory {
    fn finish_sync(&mut self, thread: u64) {
        let Some(count) = self.syncs.remove(&thread) else { return };
        for change in self.pending.drain(..count) {
            change.apply(&mut self.durable);
        }
        for begun in self.syncs.values_mut() {
            *begun = begun.saturating_sub(count);
        }
    }

    fn live(&self) -> Vec<u8> {
        let mut content = self.durable.clone();
        self.pending.iter().for_each(|change| change.apply(&mut content));
        content
    }

    fn cut(&self, draws: &mut Draws) -> Vec<u8> {
        match draws.below(4) {
            0 => return self.durable.clone(),
            1 => return self.live(),
            _ => {}
        }
        // How many changes the length has seen; the bytes may have seen others.
        let seen = if draws.once_in(2) {
            self.pending.len()
        } else {
            draws.below(self.pending.len() as u64 + 1) as usize
        };
        let mut len = self.durable.len();
        let mut content = self.durable.clone();
        let mut stopped = BTreeSet::new();
        for (index, change) in self.pending.iter().enumerate() {
            match change {
                Change::Write { at, bytes } => {
                    let end = at + bytes.len();
                    content.resize(content.len().max(end), 0);
                    for sector in at / SECTOR..end.div_ceil(SECTOR) {
                        // A sector is written as it is in memory, so one that lacks a change lacks all later ones.
                        if stopped.contains(&sector) || draws.once_in(3) {
                            stopped.insert(sector);
                            continue;
                        }
                        let (from, to) = ((sector * SECTOR).max(*at), ((sector + 1) * SECTOR).min(end));
                        content[from..to].copy_from_slice(&bytes[from - at..to - at]);
                    }
                    if index < seen {
                        len = len.max(end);
                    }
                }
                Change::Resize(new) if index < seen => {
                    len = *new;
                    let cut_off = content.len().min(len);
                    content[cut_off..].fill(0);
                }
                Change::Resize(_) => {}
            }
        }
        content.resize(len, 0);
        content
    }
}

enum Naming {
    Created(PathBuf, usize),
    Folder(PathBuf),
    Renamed(PathBuf, PathBuf),
    Removed(PathBuf),
}

impl Naming {
    fn folder(&self) -> Option<&Path> {
        match self {
            Self::Created(path, _) | Self::Folder(path) | Self::Renamed(_, path) | Self::Removed(path) => {
                path.parent()
            }
        }
    }
}

/// Which file each name stands for.
#[derive(Clone, Default)]
struct Names {
    folders: BTreeSet<PathBuf>,
    files: BTreeMap<PathBuf, usize>,
}

impl Names {
    fn apply(&mut self, naming: &Naming) {
        match naming {
            Naming::Created(path, file) => {
                self.files.insert(path.clone(), *file);
            }
            Naming::Folder(path) => {
                self.folders.insert(path.clone());
            }
            Naming::Renamed(from, to) => {
                if let Some(file) = self.files.remove(from) {
                    self.files.insert(to.clone(), file);
                }
                // Of a folder, all that is below it.
                let below = |path: &PathBuf| path.strip_prefix(from).ok().map(|rest| to.join(rest));
                self.folders =
                    self.folders.iter().map(|path| below(path).unwrap_or_else(|| path.clone())).collect();
                let files = std::mem::take(&mut self.files);
                self.files =
                    files.into_iter().map(|(path, file)| (below(&path).unwrap_or(path), file)).collect();
            }
            Naming::Removed(path) => {
                self.files.remove(path);
                self.folders.remove(path);
            }
        }
    }

    /// Without what is in folders that are not there.
    fn image(&self, content: impl Fn(usize) -> Vec<u8>) -> Image {
        let is_there = |path: &Path| {
            let inside = path.ancestors().skip(1);
            let roots = self.folders.first().expect("the root is one of them");
            inside.take_while(|folder| folder.starts_with(roots)).all(|folder| self.folders.contains(folder))
        };
        let folders = self.folders.iter().filter(|path| is_there(path)).cloned().collect();
        let files = self.files.iter().filter(|(path, _)| is_there(path));
        Image { folders, files: files.map(|(path, file)| (path.clone(), content(*file))).collect() }
    }
}

/// What one server did to the files below a root.
struct History {
    files: Vec<FileHistory>,
    /// Files and folders by inode.
    file_inodes: HashMap<u64, usize>,
    folder_inodes: HashMap<u64, PathBuf>,
    durable: Names,
    live: Names,
    pending: Vec<Naming>,
    is_lying: bool,
}

impl History {
    fn new(before: &Image, is_lying: bool) -> Self {
        let mut files = Vec::new();
        let mut names = Names { folders: before.folders.clone(), files: BTreeMap::new() };
        for (path, bytes) in &before.files {
            names.files.insert(path.clone(), files.len());
            files.push(FileHistory { durable: bytes.clone(), ..FileHistory::default() });
        }
        Self {
            files,
            file_inodes: HashMap::new(),
            folder_inodes: HashMap::new(),
            durable: names.clone(),
            live: names,
            pending: Vec::new(),
            is_lying,
        }
    }

    /// Takes the next record of a log; None if it is not whole.
    /// Whether `log` begins with a whole entry.
    fn has_entry(log: &[u8]) -> bool {
        let Some((header, rest)) = log.split_first_chunk::<40>() else { return false };
        let len = u64::from_ne_bytes(header[32..].try_into().expect("8 bytes"));
        rest.len() as u64 >= len
    }

    fn take(&mut self, log: &mut &[u8]) -> Option<()> {
        let (header, rest) = log.split_first_chunk::<40>()?;
        let word =
            |index: usize| u64::from_ne_bytes(header[8 * index..8 * index + 8].try_into().expect("8 bytes"));
        let (kind, inode, first, second) = (word(0), word(1), word(2), word(3));
        let (bytes, rest) = rest.split_at_checked(word(4) as usize)?;
        *log = rest;
        let path =
            |bytes: &[u8]| PathBuf::from(String::from_utf8(bytes.to_vec()).expect("a path of this test"));
        match kind {
            1 if self.live.folders.contains(&path(bytes)) => {
                self.folder_inodes.insert(inode, path(bytes));
            }
            1 => {
                self.file_inodes.insert(inode, *self.live.files.get(&path(bytes))?);
            }
            2 => {
                self.file_inodes.insert(inode, self.files.len());
                self.name(Naming::Created(path(bytes), self.files.len()));
                self.files.push(FileHistory::default());
            }
            3 => self.file(inode)?.pending.push(Change::Write { at: first as usize, bytes: bytes.to_vec() }),
            4 => self.file(inode)?.pending.push(Change::Resize(first as usize)),
            5 | 6 if self.is_lying => {}
            5 | 6 if self.folder_inodes.contains_key(&inode) => {
                if kind == 6 {
                    self.sync_folder(inode);
                }
            }
            5 => {
                let file = self.file(inode)?;
                file.syncs.insert(first, file.pending.len());
            }
            6 => self.file(inode)?.finish_sync(first),
            7 => {
                let (from, to) = bytes.split_at_checked(first as usize)?;
                debug_assert_eq!(to.len() as u64, second);
                self.name(Naming::Renamed(path(from), path(to)));
            }
            8 => self.name(Naming::Removed(path(bytes))),
            9 => self.name(Naming::Folder(path(bytes))),
            _ => return None,
        }
        Some(())
    }

    fn file(&mut self, inode: u64) -> Option<&mut FileHistory> {
        self.files.get_mut(*self.file_inodes.get(&inode)?)
    }

    fn name(&mut self, naming: Naming) {
        self.live.apply(&naming);
        self.pending.push(naming);
    }

    fn sync_folder(&mut self, inode: u64) {
        let folder = &self.folder_inodes[&inode];
        // What was the folder of that name before has gone with it.
        let is_moved = |naming: &Naming| match naming {
            Naming::Renamed(from, to) => folder.starts_with(from) || folder.starts_with(to),
            _ => false,
        };
        let is_synced = |naming: &Naming| naming.folder() == Some(folder) || is_moved(naming);
        let (synced, pending) = std::mem::take(&mut self.pending).into_iter().partition(is_synced);
        self.pending = pending;
        let synced: Vec<Naming> = synced;
        synced.iter().for_each(|naming| self.durable.apply(naming));
    }

    fn live(&self) -> Image {
        self.live.image(|file| self.files[file].live())
    }

    fn cut(&mut self, draws: &mut Draws) -> Image {
        let all = self.pending.len();
        let came = if draws.once_in(2) { all } else { draws.below(all as u64 + 1) as usize };
        self.pending.drain(..came).for_each(|naming| self.durable.apply(&naming));
        let contents: Vec<Vec<u8>> = self.files.iter().map(|file| file.cut(draws)).collect();
        self.durable.image(|file| contents[file].clone())
    }
}

#[test]
fn what_was_synced_is_there_and_of_the_rest_any_sector() {
    let write = |at, byte: u8, len| Change::Write { at, bytes: vec![byte; len] };
    let pending = vec![write(0, 1, 1024), write(512, 2, 1024)];
    let mut file = FileHistory { pending, ..FileHistory::default() };
    file.syncs.insert(1, 1);
    file.finish_sync(1);
    assert_eq!((file.durable.len(), file.pending.len()), (1024, 1));
    let mut seen = BTreeSet::new();
    for seed in 0..200 {
        let content = file.cut(&mut Draws::new(seed, 0));
        assert_eq!(content[..512], [1; 512]);
        let second = content[512];
        let third = content.get(1024).copied();
        assert!(content.len() == if third.is_some() { 1536 } else { 1024 });
        seen.insert((second, third));
    }
    assert_eq!(seen.len(), 6, "{seen:?}");
}

#[test]
fn names_come_in_order_and_those_of_a_synced_folder_for_certain() {
    let root = PathBuf::from("/root");
    let before = Image { folders: [root.clone()].into(), files: BTreeMap::new() };
    let mut log = Vec::new();
    let mut put = |kind: u64, inode: u64, bytes: &[u8]| {
        for word in [kind, inode, 0, 0, bytes.len() as u64] {
            log.extend(word.to_ne_bytes());
        }
        log.extend(bytes);
    };
    put(2, 10, b"/root/kept");
    put(1, 1, b"/root");
    put(5, 1, b"");
    put(6, 1, b"");
    put(9, 0, b"/root/folder");
    put(2, 11, b"/root/folder/file");
    let mut seen = BTreeSet::new();
    for seed in 0..100 {
        let mut history = History::new(&before, false);
        let mut rest = &log[..];
        while !rest.is_empty() {
            history.take(&mut rest).unwrap();
        }
        let image = history.cut(&mut Draws::new(seed, 0));
        assert!(image.files.contains_key(Path::new("/root/kept")));
        seen.insert((image.folders.len(), image.files.len()));
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), [(1, 1), (2, 1), (2, 2)]);
}
