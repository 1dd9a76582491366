//! The command line of the benchmark.

use std::time::Duration;

use clap::{
    Parser,
    builder::{PossibleValuesParser, TypedValueParser},
};

use super::{
    peers::Peer,
    scenarios::{SCENARIOS, Scenario},
};

/// Measures mockforge beside other brokers or proxies, each run with a fresh process
#[derive(Parser)]
// In place of the name that cargo gave the file.
#[command(name = "brokers", bin_name = "cargo bench --bench brokers --")]
pub struct Options {
    /// How often each run is repeated; the table has medians
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    pub rounds: u32,
    /// How long messages are published in each run
    #[arg(long, value_name = "S", default_value = "2", value_parser = parse_seconds)]
    pub seconds: Duration,
    /// Only these, a comma apart [default: all of the kind but filters-1m]
    #[arg(long, value_name = "NAMES", value_delimiter = ',', value_parser = scenario_names())]
    scenarios: Vec<String>,
    /// Print the scenarios and do nothing
    #[arg(long)]
    pub list: bool,
    /// A further peer; its command gets the port appended, with --proxy also the broker's, and stays in
    /// the foreground; may be given more than once
    #[arg(long = "brokers", value_name = "NAME=COMMAND")]
    others: Vec<Peer>,
    /// Measure proxies in front of our broker: ours with and without --record, nginx and haproxy
    #[arg(long)]
    pub proxy: bool,
    /// Measure what outlives the broker: ours with each durability, and mosquitto with its persistence
    #[arg(long, conflicts_with = "proxy")]
    durability: bool,
    /// See that it works: every scenario once, for a moment, with ours alone
    #[arg(long, conflicts_with_all = ["rounds", "seconds", "others"])]
    test: bool,
    /// Passed by cargo
    #[arg(long, hide = true)]
    bench: bool,
}

/// How long messages are published in a run of `--test`.
const MOMENT: Duration = Duration::from_millis(100);

impl Options {
    pub fn from_command_line() -> Self {
        let options = Self::parse();
        if options.test { Self { rounds: 1, seconds: MOMENT, ..options } } else { options }
    }

    /// Who takes part.
    pub fn peers(&self) -> Vec<Peer> {
        if self.test {
            return if self.durability { Peer::durabilities() } else { vec![Peer::mockforge()] };
        }
        let mut peers = match self {
            Self { proxy: true, .. } => Peer::proxies(),
            Self { durability: true, .. } => Peer::persistent_brokers(),
            _ => Peer::brokers(),
        };
        peers.extend(self.others.iter().cloned());
        peers
    }

    /// Those named, or those that run unasked.
    pub fn scenarios(&self) -> impl Iterator<Item = &'static Scenario> {
        SCENARIOS.iter().filter(|scenario| {
            let is_named = self.scenarios.iter().any(|name| name == scenario.name);
            let is_wanted = if self.scenarios.is_empty() { scenario.is_default } else { is_named };
            is_wanted && (scenario.is_proxied || !self.proxy) && scenario.is_persistent == self.durability
        })
    }
}

fn scenario_names() -> impl TypedValueParser<Value = String> {
    PossibleValuesParser::new(SCENARIOS.iter().map(|scenario| scenario.name))
}

fn parse_seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().map_err(|_| "expected seconds".to_owned())?;
    if !(0.1..=600.0).contains(&seconds) {
        return Err("expected between 0.1 and 600 seconds".to_owned());
    }
    Ok(Duration::from_secs_f64(seconds))
}
