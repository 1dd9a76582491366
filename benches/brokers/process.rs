//! A broker or proxy that runs: its port, what it costs, and its end.

use std::{
    fs,
    net::{Ipv4Addr, TcpListener, TcpStream},
    os::unix::fs::MetadataExt,
    path::Path,
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// Within which a process has to listen.
const START_MAX: Duration = Duration::from_secs(10);

/// Within which it may end of its own accord.
const END_MAX: Duration = Duration::from_secs(5);

pub struct Process {
    pub port: u16,
    child: Child,
    /// Its working directory, with its settings and what it wrote.
    folder: TempDir,
}

impl Process {
    /// Starts `command`, which is to listen on `port` and stay in the foreground, in `folder`.
    pub fn start(mut command: Command, port: u16, folder: TempDir) -> Result<Self> {
        let path = folder.path().join("log");
        let log = fs::File::create(&path).context("creating a log")?;
        command.current_dir(folder.path()).stdin(Stdio::null());
        command.stdout(log.try_clone().context("sharing a log")?).stderr(log);
        let name = command.get_program().display().to_string();
        let child = command.spawn().with_context(|| format!("starting {name}"))?;
        let mut process = Self { port, child, folder };
        process.await_listening().with_context(|| {
            format!("{name} does not listen: {}", fs::read_to_string(&path).unwrap_or_default().trim())
        })?;
        Ok(process)
    }

    fn await_listening(&mut self) -> Result<()> {
        let start = Instant::now();
        while start.elapsed() < START_MAX {
            if TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_ok() {
                return Ok(());
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("it ended with {status}");
            }
            sleep(Duration::from_millis(10));
        }
        bail!("nothing on port {} after {START_MAX:?}", self.port)
    }

    #[allow(dead_code, reason = "for the other bench")]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// User and system time so far, of its children too.
    pub fn cpu(&self) -> Result<Duration> {
        cpu_of(&tree(self.child.id())?)
    }

    /// Bytes of memory in use.
    pub fn rss(&self) -> Result<u64> {
        self.memory("VmRSS:")
    }

    /// The same once it does not change any more: a process listens before all of it has started.
    pub fn settled_rss(&self) -> Result<u64> {
        let mut last = self.rss()?;
        loop {
            sleep(Duration::from_millis(300));
            match self.rss()? {
                same if same == last => return Ok(same),
                other => last = other,
            }
        }
    }

    /// The most there ever were.
    pub fn peak_rss(&self) -> Result<u64> {
        self.memory("VmHWM:")
    }

    fn memory(&self, key: &str) -> Result<u64> {
        let mut bytes = 0;
        for pid in tree(self.child.id())? {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap_or("0 kB");
            bytes += line.trim().trim_end_matches(" kB").parse::<u64>().context("a size in status")? << 10;
        }
        Ok(bytes)
    }
}

/// What it does to the disk.
#[allow(dead_code, reason = "not for the other bench")]
impl Process {
    /// Bytes of file pages that it had written, or will.
    pub fn written(&self) -> Result<u64> {
        let mut bytes = 0;
        for pid in tree(self.child.id())? {
            let io = fs::read_to_string(format!("/proc/{pid}/io")).context("reading what was written")?;
            let count = io.lines().find_map(|line| line.strip_prefix("write_bytes: "));
            bytes += count.context("write_bytes in io")?.parse::<u64>().context("a number in io")?;
        }
        Ok(bytes)
    }

    /// Bytes that the files in its folder occupy.
    pub fn occupied(&self) -> Result<u64> {
        occupied(self.folder.path())
    }
}

impl Drop for Process {
    /// Asks first: nginx takes its workers along only then.
    fn drop(&mut self) {
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let start = Instant::now();
        while start.elapsed() < END_MAX {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            sleep(Duration::from_millis(5));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// User and system time of this process, without what it started.
pub fn cpu_of_this() -> Result<Duration> {
    cpu_of(&[std::process::id()])
}

fn cpu_of(pids: &[u32]) -> Result<Duration> {
    let stats = pids.iter().filter_map(|pid| Stat::read(&Path::new("/proc").join(pid.to_string())));
    let ticks = stats.map(|stat| stat.ticks).sum();
    Ok(Duration::from_secs(ticks) / u32::try_from(rustix::param::clock_ticks_per_second())?)
}

fn occupied(folder: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(folder).context("reading a folder")? {
        let entry = entry?;
        // A file may be replaced meanwhile.
        let Ok(metadata) = entry.metadata() else { continue };
        bytes += if metadata.is_dir() { occupied(&entry.path())? } else { metadata.blocks() * 512 };
    }
    Ok(bytes)
}

/// A port that nobody had a moment ago.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("finding a free port")?.local_addr()?.port())
}

/// A process and its descendants.
fn tree(root: u32) -> Result<Vec<u32>> {
    let mut parents = Vec::new();
    for entry in fs::read_dir("/proc").context("reading /proc")? {
        let path = entry?.path();
        let pid = path.file_name().and_then(|name| name.to_str()?.parse::<u32>().ok());
        if let (Some(pid), Some(stat)) = (pid, Stat::read(&path)) {
            parents.push((pid, stat.parent));
        }
    }
    let mut found = vec![root];
    let mut at = 0;
    while let Some(&parent) = found.get(at) {
        found.extend(parents.iter().filter(|(_, of)| *of == parent).map(|(pid, _)| *pid));
        at += 1;
    }
    Ok(found)
}

struct Stat {
    parent: u32,
    ticks: u64,
}

impl Stat {
    /// `None` if the process has gone.
    fn read(folder: &Path) -> Option<Self> {
        let text = fs::read_to_string(folder.join("stat")).ok()?;
        // The second field is a name that may hold anything; the third is the state.
        let (_, fields) = text.rsplit_once(") ")?;
        let fields: Vec<&str> = fields.split(' ').collect();
        let ticks = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
        Some(Self { parent: fields.get(1)?.parse().ok()?, ticks })
    }
}
