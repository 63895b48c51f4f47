//! What all locks of one look are judged by: the pooled servers by pid, and what
//! the state of the poolers allows to conclude of a backend that none of them
//! shows. Worked out once a look: there may be thousands of locks.

use std::collections::HashSet;

use ipnet::IpNet;

use super::advisory::Looks;
use super::pooled::{PoolerLook, Servers};
use super::tracked::Coverage;
use crate::sample::{Backend, UnixSeconds};

/// What is shared by the judgements on all locks of one look.
#[derive(Debug)]
pub struct Context<'a> {
    pub looks: &'a Looks<'a>,
    pub servers: Servers<'a>,
    /// Why a holder that no pooler shows may still belong to one.
    gap: Option<String>,
    /// When the pooler was read that was not read for longest.
    read_at: Option<UnixSeconds>,
    /// Addresses that polled poolers were seen to connect from.
    pooler_addresses: HashSet<&'a str>,
}

impl<'a> Context<'a> {
    pub fn of(looks: &'a Looks<'a>) -> Self {
        let all = looks.poolers.iter();
        let servers = all.flat_map(|look| &look.report.servers);
        Self {
            looks,
            servers: Servers::of(looks.poolers),
            gap: gap(looks),
            read_at: looks.poolers.iter().map(|look| look.at).reduce(f64::min),
            pooler_addresses: servers.map(|server| server.local_addr.as_str()).collect(),
        }
    }

    pub fn coverage(&self, backend: &Backend) -> Coverage {
        let client = backend.client.as_deref();
        Coverage {
            gap: self.gap.clone(),
            read_at: self.read_at,
            pooler_address: client.is_some_and(|client| self.is_pooler_address(client)),
            suspect_after: self
                .looks
                .settings
                .detect
                .orphaned_advisory_lock
                .suspect_after,
        }
    }

    /// Configured networks count always. Addresses that polled poolers were seen
    /// to connect from count unless every pooler is polled, or the address is a
    /// loopback that anything may use.
    fn is_pooler_address(&self, client: &str) -> bool {
        let Ok(address) = client.parse::<std::net::IpAddr>() else {
            return false;
        };
        let settings = self.looks.settings;
        let configured = |net: &IpNet| net.contains(&address);
        settings.pooler_addresses.iter().any(configured)
            || (!settings.poolers_complete
                && !address.is_loopback()
                && self.pooler_addresses.contains(client))
    }
}

fn gap(looks: &Looks<'_>) -> Option<String> {
    let complete = looks.settings.poolers_complete;
    let name = |look: &PoolerLook<'_>| look.report.pooler.clone();
    let first = |is: fn(&PoolerLook<'_>) -> bool| looks.poolers.iter().find(|l| is(l)).map(name);
    let shares_port = |look: &PoolerLook<'_>| {
        let config = look.report.config.as_ref();
        config.is_some_and(|config| config.so_reuseport)
    };
    if let Some(name) = first(|look| !look.fresh) {
        Some(format!("pooler {name} does not answer"))
    } else if let Some(name) = first(|look| look.report.truncated) {
        Some(format!("pooler {name} could not be read completely"))
    } else if complete {
        None
    } else if let Some(name) = first(shares_port) {
        Some(format!(
            "pooler {name} is one of several processes on one port"
        ))
    } else {
        Some(
            "some pooler in front of this server may not be polled (poolers.complete is not set)"
                .into(),
        )
    }
}
