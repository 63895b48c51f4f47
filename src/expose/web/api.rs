//! `/api/v1/locks` and `/api/v1/advisory-locks`: the two lists of
//! `snowpit locks --json`.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::WebState;
use super::error::ApiError;
use crate::engine::Snapshot;
use crate::engine::locks::{RootBlocker, WaitNode};
use crate::engine::snapshot::TargetView;

/// Who blocks whom. With `nodes` each tree is a list of at most so many waiters,
/// each with its depth: a chain of hundreds nests too deep for many a reader of
/// JSON.
pub(super) async fn locks(
    State(state): State<Arc<WebState>>,
    Query(query): Query<Vec<(String, String)>>,
) -> Result<Response, ApiError> {
    let snapshot = state.snapshot();
    let Some(nodes) = parse_nodes(&query)? else {
        return Ok(state.kept.answer("locks", &snapshot, || {
            lock_trees(&snapshot, |root| json!(root))
        }));
    };
    let answer = lock_trees(&snapshot, |root| flat(root, nodes));
    Ok(Json(answer).into_response())
}

fn parse_nodes(query: &[(String, String)]) -> Result<Option<usize>, ApiError> {
    match query {
        [] => Ok(None),
        [(name, value)] if name == "nodes" => match value.parse() {
            Ok(nodes) if nodes > 0 => Ok(Some(nodes)),
            _ => Err(ApiError::bad_request("nodes must be a number from 1 on")),
        },
        _ => Err(ApiError::bad_request(
            "there is no such parameter: use nodes, once",
        )),
    }
}

fn lock_trees(snapshot: &Snapshot, root: impl Fn(&RootBlocker) -> Value) -> Value {
    by_target(snapshot, |name, target| {
        let roots = target.locks.root_blockers.iter();
        json!({
            "name": name,
            "at": target.at,
            "fresh": target.fresh,
            "root_blockers": roots.map(&root).collect::<Vec<_>>(),
        })
    })
}

/// The root with the first of its waiters, each below the one it waits for.
fn flat(root: &RootBlocker, limit: usize) -> Value {
    let mut nodes = Vec::new();
    let mut left_out = 0_usize;
    let mut ahead: Vec<(usize, &WaitNode)> = root.tree.iter().rev().map(|node| (1, node)).collect();
    while let Some((depth, node)) = ahead.pop() {
        ahead.extend(node.tree.iter().rev().map(|below| (depth + 1, below)));
        if nodes.len() == limit {
            left_out += 1;
            continue;
        }
        nodes.push(json!({
            "depth": depth,
            "pid": node.pid,
            "waits_for": node.waits_for,
            "wait_seconds": node.wait_seconds,
            "application": node.application,
            "state": node.state,
            "query": node.query,
            "queued": node.queued,
            "order_assumed": node.order_assumed,
        }));
    }
    json!({
        "pid": root.pid,
        "prepared": root.prepared,
        "database": root.database,
        "user": root.user,
        "application": root.application,
        "client": root.client,
        "state": root.state,
        "transaction_seconds": root.transaction_seconds,
        "state_seconds": root.state_seconds,
        "query": root.query,
        "holds": root.holds,
        "waiters": root.waiters,
        "direct_waiters": root.direct_waiters,
        "longest_wait_seconds": root.longest_wait_seconds,
        "action": root.action,
        "nodes": nodes,
        "nodes_left_out": left_out,
    })
}

/// Granted advisory locks with their verdicts.
pub(super) async fn advisory_locks(State(state): State<Arc<WebState>>) -> Response {
    let snapshot = state.snapshot();
    state.kept.answer("advisory-locks", &snapshot, || {
        by_target(&snapshot, |name, target| {
            json!({
                "name": name,
                "at": target.at,
                "fresh": target.fresh,
                "advisory_locks": target.locks.advisory_locks,
            })
        })
    })
}

fn by_target(snapshot: &Snapshot, view: impl Fn(&str, &TargetView) -> Value) -> Value {
    let targets: Vec<Value> = snapshot
        .targets
        .iter()
        .map(|(name, target)| view(name, target))
        .collect();
    json!({ "at": snapshot.at, "targets": targets })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(pid: i32, tree: Vec<WaitNode>) -> WaitNode {
        WaitNode {
            pid,
            tree,
            ..WaitNode::default()
        }
    }

    #[test]
    fn a_chain_of_hundreds_is_no_deep_answer() {
        let mut chain = node(1, Vec::new());
        for pid in 2..=600 {
            chain = node(pid, vec![chain]);
        }
        let root = RootBlocker {
            tree: vec![chain, node(700, Vec::new())],
            ..RootBlocker::default()
        };
        let text = flat(&root, 200).to_string();
        let answer: Value = serde_json::from_str(&text).unwrap();
        let nodes = answer["nodes"].as_array().unwrap();
        assert_eq!(nodes.len(), 200);
        assert_eq!(
            (&nodes[0]["pid"], &nodes[0]["depth"]),
            (&json!(600), &json!(1))
        );
        assert_eq!(
            (&nodes[199]["pid"], &nodes[199]["depth"]),
            (&json!(401), &json!(200))
        );
        assert_eq!(answer["nodes_left_out"], 401);
        let all = flat(&root, 1000);
        let last = &all["nodes"][600];
        assert_eq!((&last["pid"], &last["depth"]), (&json!(700), &json!(1)));
        // As a tree it cannot be read back.
        assert!(serde_json::from_str::<Value>(&json!(root).to_string()).is_err());
    }

    #[test]
    fn a_misspelt_parameter_is_no_answer() {
        let pairs = |name: &str, value: &str| vec![(name.to_owned(), value.to_owned())];
        assert!(matches!(parse_nodes(&[]), Ok(None)));
        assert!(matches!(parse_nodes(&pairs("nodes", "12")), Ok(Some(12))));
        for (name, value) in [("node", "12"), ("nodes", "0"), ("nodes", "many")] {
            assert!(parse_nodes(&pairs(name, value)).is_err(), "{name}={value}");
        }
    }
}
