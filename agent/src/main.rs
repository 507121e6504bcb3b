//! `hone-agent`: one node, its Docker, its jobs.

fn main() {}
