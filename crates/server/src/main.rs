//! The Outrider binary: builds everything from the config, starts workers, drains.

fn main() {}
