//! What a message costs the whole process, beside other brokers on the same machine: the release
//! binary and each peer take turns, driven over loopback by a load of our own that checks every delivery.
//!
//! ```sh
//! cargo bench --bench brokers
//! cargo bench --bench brokers -- --list
//! cargo bench --bench brokers -- --rounds 1 --scenarios pairs-qos0,fan-out
//! cargo bench --bench brokers -- --proxy
//! cargo bench --bench brokers -- --durability
//! ```
//!
//! Loopback does most of the receiving in the sender's system call, so part of what delivering costs is
//! charged to the generator, and the other way round: the same for all peers. Compare within one table.

mod client;
mod load;
mod options;
mod peers;
mod process;
mod scenarios;
mod table;
mod wire;

use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use rustix::process::{Resource, getrlimit, setrlimit};

use self::{
    options::Options,
    peers::Peer,
    scenarios::{Figure, SCENARIOS, Scenario},
    table::{Section, Table, number},
};

fn main() -> Result<ExitCode> {
    let options = Options::from_command_line();
    if options.list {
        for scenario in SCENARIOS {
            println!("{:19} {}", scenario.name, scenario.about);
        }
        return Ok(ExitCode::SUCCESS);
    }
    if cfg!(debug_assertions) {
        // As `cargo test --all-targets` does.
        eprintln!("nothing is measured without optimizations; `cargo bench --bench brokers` has them");
        return Ok(ExitCode::SUCCESS);
    }
    ensure!(
        options.scenarios().next().is_some(),
        "none of these scenarios is one of that kind: --list says which are"
    );
    raise_descriptors()?;
    let peers = options.peers();

    let mut failures = 0;
    let (mut load_min, mut load_max) = (f64::INFINITY, f64::NEG_INFINITY);
    let mut sections = Vec::new();
    for scenario in options.scenarios() {
        let mut runs: Vec<Vec<Vec<Figure>>> = peers.iter().map(|_| Vec::new()).collect();
        for round in 1..=options.rounds {
            for (peer, runs) in peers.iter().zip(&mut runs) {
                let load = table::load_average();
                (load_min, load_max) = (load_min.min(load), load_max.max(load));
                eprint!("{round} {} {}:", scenario.name, peer.name);
                match run(scenario, peer, &options) {
                    Ok(figures) => {
                        for figure in &figures {
                            eprint!(" {} {}", figure.name, number(figure.value));
                        }
                        eprintln!();
                        runs.push(figures);
                    }
                    Err(error) => {
                        eprintln!(" FAILED: {error:#}");
                        failures += 1;
                    }
                }
            }
        }
        sections.push(Section { scenario: scenario.name, runs });
    }

    let rounds = match options.rounds {
        1 => "one round".to_owned(),
        rounds => format!("medians of {rounds} interleaved rounds"),
    };
    let mut versions: Vec<String> =
        peers.iter().filter_map(Peer::version).map(|version| format!("; {version}")).collect();
    versions.dedup();
    let versions = versions.concat();
    println!(
        "{}{versions}; load average {load_min:.1} to {load_max:.1}; {rounds} of {:?}{}.\n",
        table::machine(),
        options.seconds,
        if options.proxy { "; CPU and memory are the proxy's" } else { "" },
    );
    println!("{}", Table { peers: &peers, sections });
    if failures > 0 {
        println!("\n{failures} runs failed; medians are of the others.");
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

fn run(scenario: &Scenario, peer: &Peer, options: &Options) -> Result<Vec<Figure>> {
    // The broker behind a proxy is dropped after it.
    let upstream = options.proxy.then(|| Peer::mockforge().start(None)).transpose()?;
    let process = peer.start(upstream.as_ref().map(|broker| broker.port))?;
    scenario.run(&process, options.seconds)
}

/// Descriptors for 5,000 clients, here and in what is started from here.
fn raise_descriptors() -> Result<()> {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).context("raising the limit of open files")
}
