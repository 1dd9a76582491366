//! What a user can see, and the rules that hold the tree together.

mod clauses;
mod commands;
mod guide;
mod running;
mod tidy;
mod tree;
