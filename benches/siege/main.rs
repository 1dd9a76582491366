//! What an innocent pair of clients notices while others lay siege to the server: the release binary, attacked over
//! loopback, with the latency of the innocent beside what it was at rest in the same process.
//!
//! ```sh
//! cargo bench --bench siege
//! cargo bench --bench siege -- --seconds 5 slowloris unread
//! cargo bench --bench siege -- --list
//! ```
//!
//! The attackers run on the same machine, at a lower priority, as they would not take the server's processor elsewhere.
//! A latency runs from when the message was to be sent, whatever kept it from being sent.

mod attacks;
mod field;
mod innocents;
mod layers;
#[path = "../brokers/process.rs"]
#[expect(dead_code, reason = "the other bench uses more of it")]
mod process;
mod wire;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use clap::Parser;
use hdrhistogram::Histogram;
use rustix::process::{Resource, getrlimit, setrlimit};

use self::{
    attacks::{ATTACKS, Attack},
    field::{Figures, Siege},
};

#[derive(Parser)]
struct Options {
    /// Attacks by name; all if there is none
    attacks: Vec<String>,
    /// How long each of them, and the rest before it, is measured
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Another server than the one that was built
    #[arg(long, value_name = "PROGRAM", default_value = env!("CARGO_BIN_EXE_mockforge"))]
    server: PathBuf,
    #[arg(long)]
    list: bool,
    /// What cargo says
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<ExitCode> {
    let options = Options::parse();
    if options.list {
        for attack in ATTACKS {
            println!("{:12} {}", attack.name, attack.about);
        }
        return Ok(ExitCode::SUCCESS);
    }
    if cfg!(debug_assertions) {
        // As `cargo test --all-targets` does.
        eprintln!("nothing is measured without optimizations; `cargo bench --bench siege` has them");
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(unknown) =
        options.attacks.iter().find(|name| !ATTACKS.iter().any(|attack| attack.name == **name))
    {
        bail!("no attack is called {unknown}; --list has them");
    }
    raise_descriptors()?;
    println!(
        "| attack | at rest: p50 p99 max, ms | under attack: p50 p99 max, ms | lost | attackers | RSS before, during, after, MiB | descriptors during, after | CPU of server, of all else, % |"
    );
    println!("|---|---:|---:|---:|---|---:|---:|---:|");
    let is_chosen = |attack: &&Attack| {
        options.attacks.is_empty() || options.attacks.iter().any(|name| name == attack.name)
    };
    let mut failures = 0;
    for attack in ATTACKS.iter().filter(is_chosen) {
        match lay(&options.server, attack, Duration::from_secs(options.seconds)) {
            Ok(figures) => print(attack, &figures),
            Err(error) => {
                failures += 1;
                println!("| {} | FAILED: {error:#} |", attack.name);
            }
        }
    }
    Ok(if failures == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs one attack on a server of its own.
fn lay(server: &Path, attack: &Attack, time: Duration) -> Result<Figures> {
    let siege = Siege::begin(server, attack, time)?;
    // The innocent are as they are: only who attacks yields.
    let attackers = thread::Builder::new().name("attackers".to_owned());
    let run = attack.run;
    attackers
        .spawn(move || -> Result<Figures> {
            rustix::process::nice(10).context("lowering the priority")?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(run(siege))
        })
        .context("starting a thread")?
        .join()
        .map_err(|_| anyhow::anyhow!("the attackers panicked"))?
}

fn print(attack: &Attack, figures: &Figures) {
    let ms = |histogram: &Histogram<u64>| {
        let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1e6;
        format!("{:.2} {:.2} {:.1}", at(0.5), at(0.99), histogram.max() as f64 / 1e6)
    };
    let [before, during, after] = figures.rss.map(|bytes| bytes >> 20);
    println!(
        "| {} | {} | {} | {} of {} | {} | {before} {during} {after} | {} {} | {:.0} {:.0} |",
        attack.name,
        ms(&figures.at_rest),
        ms(&figures.attacked),
        figures.lost,
        figures.sent,
        figures.attackers,
        figures.descriptors[0],
        figures.descriptors[1],
        figures.server_cpu * 100.0,
        figures.other_cpu * 100.0,
    );
}

fn raise_descriptors() -> Result<()> {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).context("raising the limit of open files")
}
