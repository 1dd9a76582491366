//! The `mockforge` command.

fn main() {}
