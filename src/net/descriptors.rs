//! Descriptors for as many connections as there may be.

use std::os::fd::AsFd;

use rustix::{
    io::fcntl_dupfd_cloexec,
    process::{Resource, getrlimit, setrlimit},
};
use tracing::warn;

/// Descriptors that the process has besides its connections', and some for who uses the control plane.
const OTHERS: u64 = 64;

/// Sees to it that the process may have `connections` descriptors, and that the kernel's table is long
/// enough for them: in a process of several threads lengthening it waits for every processor, some
/// milliseconds each time, in which nobody is served.
///
/// `any` descriptor serves to do so. The soft limit of the process is raised as far as the hard one
/// allows; if that is not enough, a warning says so. Of two servers in one process each looks after
/// its own connections only.
pub fn reserve_descriptors(any: impl AsFd, connections: usize) {
    let wanted = (connections as u64).saturating_add(OTHERS);
    let mut limit = getrlimit(Resource::Nofile);
    let allowed = |limit: Option<u64>| limit.unwrap_or(u64::MAX);
    if allowed(limit.current) < wanted {
        limit.current = Some(wanted.min(allowed(limit.maximum)));
        let is_raised = setrlimit(Resource::Nofile, limit).is_ok();
        let available = allowed(getrlimit(Resource::Nofile).current);
        if !is_raised || available < wanted {
            warn!(available, wanted, "the limit of open files is below what max_connections needs");
        }
    }
    let last = wanted.min(allowed(getrlimit(Resource::Nofile).current)).saturating_sub(1);
    if let Ok(last) = i32::try_from(last) {
        // It is its number that counts; without it connections are served all the same.
        let _ = fcntl_dupfd_cloexec(any, last);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_raised_if_need_be_and_never_lowered() {
        let soft = || getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let before = soft();
        let any = std::net::UdpSocket::bind(("127.0.0.1", 0)).expect("a free port");
        reserve_descriptors(any, 10);
        assert!(soft() >= before.max(10 + OTHERS));
    }
}
