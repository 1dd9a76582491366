//! Figures of this process, where the system tells them (Linux).

use std::{fs, time::SystemTime};

use super::family::Family;

/// Named as Prometheus' own client libraries name them.
pub fn families(started_at: SystemTime) -> Vec<Family> {
    let start = started_at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let mut families =
        vec![Family::gauge("process_start_time_seconds", "Start, in Unix time.").value(start.as_secs_f64())];
    families.extend(
        cpu_seconds().map(|seconds| {
            Family::counter("process_cpu_seconds_total", "User and system time.").value(seconds)
        }),
    );
    if let Ok(status) = fs::read_to_string("/proc/self/status") {
        let kibibytes = |key| Some(number(&status, key)? * 1024);
        for (name, help, value) in [
            ("process_resident_memory_bytes", "Resident memory.", kibibytes("VmRSS:")),
            ("process_virtual_memory_bytes", "Virtual memory.", kibibytes("VmSize:")),
            ("process_threads", "Threads.", number(&status, "Threads:")),
        ] {
            families.extend(value.map(|value| Family::gauge(name, help).value(value)));
        }
    }
    // Beside those that are counted, the one that lists them.
    let open = fs::read_dir("/proc/self/fd").map(|entries| (entries.count() as u64).saturating_sub(1));
    families.extend(open.map(|open| Family::gauge("process_open_fds", "Open file descriptors.").value(open)));
    families.extend(
        max_fds().map(|most| {
            Family::gauge("process_max_fds", "Most file descriptors that may be open.").value(most)
        }),
    );
    families
}

fn cpu_seconds() -> Option<f64> {
    // Kernel interfaces count in USER_HZ, which is 100 on every Linux that Rust builds for.
    const TICKS_PER_SECOND: f64 = 100.0;
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The command's name, in parentheses, may hold spaces; fields are counted from behind it.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((user + system) / TICKS_PER_SECOND)
}

/// The number behind `key` at the beginning of a line.
fn number(status: &str, key: &str) -> Option<u64> {
    let rest = status.lines().find_map(|line| line.strip_prefix(key))?;
    rest.split_ascii_whitespace().next()?.parse().ok()
}

fn max_fds() -> Option<u64> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    number(&limits, "Max open files")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::family::Value;

    #[test]
    #[cfg(target_os = "linux")]
    fn this_process_is_described() {
        let families = families(SystemTime::now());
        for name in [
            "process_cpu_seconds_total",
            "process_resident_memory_bytes",
            "process_virtual_memory_bytes",
            "process_threads",
            "process_open_fds",
            "process_max_fds",
        ] {
            let family = families.iter().find(|family| family.name == name).expect(name);
            let is_positive = match family.samples[0].value {
                Value::Count(count) => count > 0,
                Value::Number(number) => number >= 0.0,
                Value::Histogram(_) => false,
            };
            assert!(is_positive, "{family:?}");
        }
    }
}
