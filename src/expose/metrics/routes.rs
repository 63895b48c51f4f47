//! What the applications tell of their routes.
//!
//! Several ways can tell of the same requests; a counter or a duration is of
//! the one that is believed first, never a sum.

use std::collections::BTreeMap;

use super::page::{Page, clip, largest};
use super::{OTHER, table};
use crate::engine::Snapshot;

/// Routes of a target shown one by one, as many as the contract allows.
const MAX_ROUTES: usize = 100;

pub(super) fn put(page: &mut Page, snapshot: &Snapshot) {
    let view = &snapshot.traffic;
    for total in &view.totals {
        let labels = [&*total.service, &*total.route];
        page.put(&table::ROUTE_REQUESTS, labels, total.requests);
    }
    page.put_some(&table::ROUTE_REQUESTS, [OTHER, OTHER], view.other_total);

    for target in snapshot.targets.keys() {
        let tied = view.routes.iter().filter(|r| r.targets.contains(target));
        let holds: BTreeMap<[String; 2], f64> = tied
            .filter_map(|route| Some(([clip(&route.service), clip(&route.route)], route.hold()?)))
            .collect();
        // A mean of other routes would mean nothing: beyond the limit they are
        // left out.
        for ([service, route], hold) in largest(holds, MAX_ROUTES).0 {
            page.put(&table::ROUTE_HOLD, [target, &service, &route], hold);
        }
    }
}
