//! Who waits for whom, and who holds an advisory lock for nobody.
//!
//! [`graph`] builds the wait-for graph of one look and finds its roots.
//! [`advisory`] follows each granted advisory lock from poll to poll and gives
//! a [`Verdict`] on it. Both end in one [`LockView`].

pub mod advisory;
mod calls;
pub mod catalogue;
pub(super) mod context;
pub mod ended;
pub mod graph;
pub mod key;
mod leaver;
mod modes;
pub(super) mod pooled;
mod prepared;
pub mod spin;
mod taking;
mod tracked;
pub mod view;
mod words;

pub use view::{
    AdvisoryLock, LockObject, LockView, PoolIdentity, RootBlocker, Spinners, Verdict, WaitNode,
    WaitTimes, WaitsByType,
};
