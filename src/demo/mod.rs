//! Real servers in a temporary directory, and real incidents staged on them.

pub mod servers;
