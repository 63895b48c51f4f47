//! The call of an advisory lock function, as it is read from the text of a
//! statement before that is redacted, and how often such statements are run.

use serde::{Deserialize, Serialize};

/// One call of `pg_advisory_lock` or one of its sisters.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LockCall {
    /// A bigint, or `1,7` for two int4; `None` when the text does not have it: a
    /// parameter, an expression, or cut off.
    pub key: Option<String>,
    /// `pg_try_…`: does not wait.
    #[serde(rename = "try", skip_serializing_if = "std::ops::Not::not")]
    pub tries: bool,
    /// Another session may have it in the same mode.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub shared: bool,
    /// `…_xact_…`: it ends with the transaction and cannot be left.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub transaction: bool,
}

/// A row of `pg_stat_statements`: executions since its statistics began, of all
/// users and in all databases.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StatementCalls {
    pub query_id: i64,
    pub calls: u64,
}
