//! What a user can see, and the rules that hold the tree together.

mod clauses;
mod commands;
// Processes are watched and ended as that system does it.
#[cfg(all(target_os = "linux", target_pointer_width = "64"))]
mod crash;
mod embedded;
mod guide;
mod proxies;
mod running;
mod tidy;
mod tree;
