//! `/metrics`: one page of points from the last snapshot and our own health.
//!
//! Invariants: series of a subject that is gone, or of a source that does not
//! answer, vanish instead of showing old numbers; every label set is bounded;
//! no label carries a pid, a statement or a raw path. [`table`] is the list of
//! everything exported.

mod connections;
mod doors;
mod format;
mod history;
mod incidents;
mod locks;
mod openmetrics;
mod page;
mod pools;
mod pushes;
mod reloads;
mod routes;
mod self_health;
pub mod table;
mod text;

pub use doors::put_doors;
pub use format::Format;
pub use history::put_history;
pub use page::{Buckets, Family, LABEL_CHARS, Metric, Page, Type, Value};
pub use pushes::put_pushes;
pub use reloads::put_reloads;
pub use self_health::{
    EngineTicks, REVISION, put_engine, put_losses, put_rejections, put_runtime, put_sources,
};

use crate::engine::Snapshot;

/// Label value of everything beyond a limit.
const OTHER: &str = "other";

/// Label value of what the server does not say or may not tell us.
const UNKNOWN: &str = "unknown";

/// The points that come from the engine. `targets` are the configured ones:
/// each has a series of every kind of incident, open or not.
pub fn engine_page(page: &mut Page, snapshot: &Snapshot, targets: &[String]) {
    for (name, target) in snapshot.targets.iter().filter(|(_, target)| target.fresh) {
        connections::put(page, name, target);
        locks::put(page, name, &target.locks);
        locks::put_counts(page, name, &target.report.lock_counts);
    }
    for (name, pooler) in snapshot.poolers.iter().filter(|(_, pooler)| pooler.fresh) {
        pools::put(page, name, &pooler.report);
    }
    routes::put(page, snapshot);
    incidents::put(page, snapshot, targets);
}
