//! All that is known of what was pointed at: nothing of it is cut.

use ratatui::style::Style;

use super::page::{Page, piece};
use super::{locks, now, routes};
use crate::expose::terminal::model::{Model, Subject};
use crate::expose::terminal::words::{number, seconds};
use crate::sample::UnixSeconds;

/// Rows of one statement of a waiter: the longest that a server keeps of one.
const STATEMENT: usize = 1000;

pub(super) fn page(model: &Model, subject: &Subject, now: UnixSeconds, columns: usize) -> Page {
    let mut page = Page::new(columns, model.palette);
    if fill(&mut page, model, subject, model.server_now(now)).is_none() {
        page.line(vec![piece("It is gone.", model.palette.quiet())]);
    }
    page
}

fn fill(page: &mut Page, model: &Model, subject: &Subject, at: UnixSeconds) -> Option<()> {
    match subject {
        // It has a view of its own.
        Subject::Incident(_) => return None,
        Subject::Target(name) => target(page, model, name, at)?,
        Subject::Root(..) => {
            let (target, root) = locks::root(model, subject)?;
            locks::tree(page, target, root, at, usize::MAX, STATEMENT);
        }
        Subject::Advisory(..) => {
            let (target, lock) = locks::lock(model, subject)?;
            locks::advisory(page, target, lock, at);
            page.blank();
            for (name, text) in [
                ("key", &lock.key),
                ("mode", &lock.mode),
                ("reason", &lock.reason),
            ] {
                page.text(0, &format!("{name}: {text}"), Style::new());
            }
            page.text(
                0,
                &format!("names: {}", lock.names.join(", ")),
                Style::new(),
            );
            if !lock.action.is_empty() {
                page.blank();
                page.heading("What frees it");
                page.command(0, &lock.action, usize::MAX);
            }
        }
        Subject::Route(service, name) => {
            let known = model.routes.data.as_ref()?;
            let mut all = known.routes.iter();
            let route = all.find(|one| one.service == *service && one.route == *name)?;
            routes::whole(page, route);
        }
    }
    Some(())
}

fn target(page: &mut Page, model: &Model, name: &str, at: UnixSeconds) -> Option<()> {
    let one = model.target(name)?;
    now::target(page, model, one, model.now.as_ref()?, at);
    let palette = page.palette;
    page.blank();
    page.text(0, &one.name, palette.name());
    if let Some(error) = &one.error {
        page.text(0, error, palette.warning());
    }
    page.blank();
    page.heading("Sessions by state");
    for (state, count) in &one.states {
        page.text(2, &format!("{} {state}", number(*count)), Style::new());
    }
    page.blank();
    page.heading("Pools, the busiest first");
    for pool in &one.pools {
        let mut words = format!(
            "{}/{} at {}, {}: {} of {} busy, {} free, {} waiting",
            pool.database,
            pool.user,
            pool.pooler,
            pool.mode,
            number(pool.servers_active),
            pool.size.map_or_else(|| "?".to_owned(), number),
            number(pool.servers_idle),
            number(pool.clients_waiting),
        );
        if pool.max_wait_seconds > 0.0 {
            words += &format!(", longest {}", seconds(pool.max_wait_seconds));
        }
        if pool.paused {
            words += ", paused";
        }
        if !pool.fresh {
            words += ", out of sight";
        }
        page.text(2, &words, Style::new());
    }
    if one.pools_left_out > 0.0 {
        let words = format!("{} more", number(one.pools_left_out));
        page.text(2, &words, palette.quiet());
    }
    Some(())
}
