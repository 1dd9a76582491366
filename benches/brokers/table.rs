//! The result: medians, and our part of the others', as Markdown.

use std::{fmt, fs};

use super::{peers::Peer, scenarios::Figure};

/// What all runs of one scenario gave.
pub struct Section {
    pub scenario: &'static str,
    /// By peer and round; a run that failed is not among them.
    pub runs: Vec<Vec<Vec<Figure>>>,
}

pub struct Table<'a> {
    /// We come first; a further peer of ours is compared with nobody.
    pub peers: &'a [Peer],
    pub sections: Vec<Section>,
}

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (ours, others) = self.peers.split_first().expect("we are always there");
        write!(f, "| scenario | | {} |", ours.name)?;
        for other in others {
            write!(f, " {} |", other.name)?;
            if !other.is_ours() {
                write!(f, " {}/{} |", ours.name, other.name)?;
            }
        }
        let columns = self.peers.len() + others.iter().filter(|other| !other.is_ours()).count();
        write!(f, "\n|---|---|{}", "---:|".repeat(columns))?;
        for section in &self.sections {
            // Of whichever peer has any: a scenario's figures are the same for all.
            let Some(figures) = section.runs.iter().find_map(|runs| runs.first()) else {
                write!(f, "\n| {} | failed |{}", section.scenario, " |".repeat(columns))?;
                continue;
            };
            for (row, figure) in figures.iter().enumerate() {
                let scenario = if row == 0 { section.scenario } else { "" };
                let medians: Vec<Option<f64>> = section.runs.iter().map(|runs| median(runs, row)).collect();
                write!(f, "\n| {scenario} | {} | {} |", figure.name, cell(medians[0]))?;
                for (other, &theirs) in others.iter().zip(&medians[1..]) {
                    write!(f, " {} |", cell(theirs))?;
                    if !other.is_ours() {
                        write!(f, " {} |", ratio(medians[0], theirs))?;
                    }
                }
            }
        }
        Ok(())
    }
}

/// The machine, for the line above the table.
pub fn machine() -> String {
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpus.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = model.map_or("unknown CPU", |(_, model)| model);
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{model}, {cores} cores, Linux {}", kernel.trim())
}

/// The load average of the last minute.
pub fn load_average() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|first| first.parse().ok()).unwrap_or(f64::NAN)
}

fn median(runs: &[Vec<Figure>], row: usize) -> Option<f64> {
    let mut values: Vec<f64> = runs.iter().map(|figures| figures[row].value).collect();
    values.sort_unstable_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        len if len % 2 == 1 => Some(values[middle]),
        _ => Some(f64::midpoint(values[middle - 1], values[middle])),
    }
}

fn cell(value: Option<f64>) -> String {
    value.map_or("failed".to_owned(), number)
}

/// Three digits, or all before the point, in groups.
pub fn number(value: f64) -> String {
    let decimals = match value {
        ..0.1 => 4,
        ..1.0 => 3,
        ..10.0 => 2,
        ..100.0 => 1,
        _ => 0,
    };
    let text = format!("{value:.decimals$}");
    let (whole, _) = text.split_once('.').unwrap_or((&text, ""));
    let mut grouped = String::new();
    for (at, character) in text.char_indices() {
        if at > 0 && at < whole.len() && (whole.len() - at) % 3 == 0 {
            grouped.push(',');
        }
        grouped.push(character);
    }
    grouped
}

/// `27` where we have 27 times theirs, `1/27` where we have so small a part.
fn ratio(ours: Option<f64>, theirs: Option<f64>) -> String {
    let (Some(ours), Some(theirs)) = (ours, theirs) else { return String::new() };
    if ours <= 0.0 || theirs <= 0.0 {
        return String::new();
    }
    let digits = |times: f64| if times < 9.95 { format!("{times:.1}") } else { format!("{times:.0}") };
    let times = ours / theirs;
    if times > 0.95 { digits(times) } else { format!("1/{}", digits(1.0 / times)) }
}
