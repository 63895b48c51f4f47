//! snowpit watches PostgreSQL behind PgBouncer and answers two questions at
//! three in the morning: which endpoint started this connection avalanche, and
//! which advisory lock is held by nobody.
//!
//! # The way of the data
//!
//! ```text
//! observe ──► sample ──► engine ──► expose
//! edges in    words      pure       edges out
//! ```
//!
//! Pollers under [`observe`] turn the outside world into [`sample::Sample`]s
//! and push them into one bounded channel. One task, wired in [`daemon`], owns
//! the [`engine::Engine`] and calls its synchronous `apply`. The engine answers
//! with effects (an incident opened, changed, was resolved) and an immutable
//! [`engine::Snapshot`]; everything under [`expose`] reads that snapshot and
//! nothing else. A scrape never waits for a database.
//!
//! The modules, in the order in which a sample passes them:

pub mod cli;
pub mod config;
pub mod daemon;

pub mod listen;
pub mod observe;

pub mod sample;

pub mod engine;

pub mod capture;
pub mod expose;
pub mod replay;

pub mod telemetry;

pub mod demo;

pub mod eval;
