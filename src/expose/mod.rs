//! The edges out: metrics, the HTTP interface, the terminal, alerts, the log.
//!
//! Invariant: everything here reads the last snapshot and counters of our own;
//! nothing waits for a source, so a scrape costs the databases nothing.

pub mod alertmanager;
pub mod history;
pub mod journal;
pub mod log;
pub mod metrics;
pub mod terminal;
pub mod web;
