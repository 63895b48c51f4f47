//! Now: what is wrong, and how each server is.

use super::page::{Page, piece, plain};
use super::parts::{Level, bar, culprits, sign, spark, title};
use crate::expose::terminal::answers::{Incident, Now, Target};
use crate::expose::terminal::model::{Model, Subject};
use crate::expose::terminal::text::{fit, safe};
use crate::expose::terminal::words::{age, clock, number, plural, seconds};

/// Open incidents laid out; the others are counted.
const OPEN: usize = 40;
/// Servers laid out.
const TARGETS: usize = 200;
/// Candidates of an incident here; its own view has all.
const CANDIDATES: usize = 3;
/// Columns of what stands before a bar.
const LABEL: usize = 20;
/// Near the limit: from this part of the room on.
const NEAR: f64 = 0.85;

const IN_TRANSACTION: [&str; 2] = ["idle in transaction", "idle in transaction (aborted)"];

/// The incidents, and the servers.
pub(super) fn pages(model: &Model, now: f64, columns: [usize; 2]) -> [Page; 2] {
    let mut open = Page::new(columns[0], model.palette);
    let mut servers = Page::new(columns[1], model.palette);
    let Some(known) = &model.now else {
        open.line(vec![piece("Asking …", model.palette.quiet())]);
        return [open, servers];
    };
    incidents(&mut open, model, known, now);
    sources(&mut servers, known);
    targets(&mut servers, model, known, now);
    [open, servers]
}

fn incidents(page: &mut Page, model: &Model, known: &Now, now: f64) {
    let palette = page.palette;
    let found: Vec<&Incident> = known
        .incidents
        .iter()
        .filter(|one| model.passes(&[&one.target, &one.kind, &one.summary]))
        .collect();
    for one in found.iter().take(OPEN) {
        page.entry(Subject::Incident(one.id.clone()), |page| {
            page.line_and(
                title(one, palette),
                vec![piece(
                    format!(
                        "for {}, since {}",
                        age(now - one.onset_at),
                        clock(one.onset_at, now)
                    ),
                    palette.quiet(),
                )],
            );
            page.text_within(2, &one.summary, palette.strong(), 4);
            culprits(page, one, CANDIDATES);
            for action in one.actions.iter().take(3) {
                page.command(2, action, 5);
            }
        });
        page.blank();
    }
    let hidden = found.len().saturating_sub(OPEN)
        + (known.open_incidents - known.incidents.len().min(known.open_incidents));
    if hidden > 0 {
        let words = format!("{} more are open", number(hidden as f64));
        page.line(vec![piece(words, palette.quiet())]);
        page.blank();
    }
}

fn sources(page: &mut Page, known: &Now) {
    if known.sources_down == 0 {
        return;
    }
    let palette = page.palette;
    let words = format!(
        "{} of {} without an answer",
        plural(known.sources_down as f64, "source"),
        number(known.sources as f64)
    );
    page.line(vec![piece(words, palette.warning())]);
    for one in known.down.iter().take(5) {
        let why = one.last_error.as_deref().unwrap_or_default();
        let words = format!("{} {} {why}", one.source, one.name);
        page.text_within(2, &words, palette.quiet(), 2);
    }
    page.blank();
}

/// The state of a server in one word.
pub(super) fn word_of(target: &Target, known: &Now) -> (Level, &'static str) {
    let mut open = known
        .incidents
        .iter()
        .filter(|one| one.target == target.name);
    if !target.fresh {
        let word = if target.at.is_none() {
            "not seen yet"
        } else {
            "out of sight"
        };
        return (Level::Unknown, word);
    }
    if open.any(|one| one.severity == "critical") {
        (Level::Critical, "incident")
    } else if !target.open_incidents.is_empty() {
        (Level::Warning, "warning")
    } else if target.upper.is_none() {
        (Level::Unknown, "learning")
    } else {
        (Level::Calm, "calm")
    }
}

fn targets(page: &mut Page, model: &Model, known: &Now, now: f64) {
    let palette = page.palette;
    let named = known
        .targets
        .iter()
        .filter(|one| model.passes(&[&one.name]));
    let mut all: Vec<&Target> = named.collect();
    if model.sort == 0 {
        all.sort_by(|a, b| {
            let trouble = word_of(a, known).0.cmp(&word_of(b, known).0);
            trouble.then_with(|| a.name.cmp(&b.name))
        });
    } else {
        let use_of = |target: &Target| target.watched().unwrap_or(-1.0);
        all.sort_by(|a, b| use_of(b).total_cmp(&use_of(a)));
    }
    if all.is_empty() {
        page.line(vec![piece(
            "No server has these words in its name.",
            palette.quiet(),
        )]);
    }
    for one in all.iter().take(TARGETS) {
        page.entry(Subject::Target(one.name.clone()), |page| {
            target(page, model, one, known, now);
        });
        page.blank();
    }
    if all.len() > TARGETS {
        let words = format!(
            "{} more servers: filter with /",
            number((all.len() - TARGETS) as f64)
        );
        page.line(vec![piece(words, palette.quiet())]);
    }
}

/// One server.
pub(super) fn target(page: &mut Page, model: &Model, one: &Target, known: &Now, now: f64) {
    let palette = page.palette;
    let (level, word) = word_of(one, known);
    let mut pieces = vec![piece(fit(&one.name, 40), palette.strong())];
    if one.in_recovery == Some(true) {
        pieces.push(piece("  standby", palette.quiet()));
    }
    page.line_and(pieces, vec![sign(level, word, palette)]);
    if let Some(error) = &one.error {
        page.text_within(2, error, palette.warning(), 3);
    }
    let Some(at) = one.at else { return };
    if !one.fresh {
        let words = format!("last seen {} ago; the figures are of then", age(now - at));
        page.text(2, &words, palette.quiet());
    }
    in_use(page, model, one);
    sessions(page, one);
    waits(page, one);
    pools(page, one);
}

fn label(words: &str, value: &str) -> String {
    format!("  {words:<9}{value:>7}  ")
}

/// The watched quantity against what is normal for it.
fn in_use(page: &mut Page, model: &Model, one: &Target) {
    let palette = page.palette;
    let Some(value) = one.watched() else {
        page.text(2, "this role cannot see what sessions do", palette.quiet());
        return;
    };
    let mut pieces = vec![piece(label("In use", &number(value)), palette.strong())];
    let columns = (page.columns.saturating_sub(LABEL) / 2).min(48);
    if let (Some(upper), Some(expected)) = (one.upper, one.expected) {
        let scale = value.max(upper * 1.4).max(8.0) * 1.05;
        let over = value > upper;
        let style = if over {
            palette.critical()
        } else {
            palette.value()
        };
        let parts = [
            ('░', palette.band(), 0.0, upper / scale),
            ('█', style, 0.0, value / scale),
        ];
        let tick = Some(('┊', palette.strong(), expected / scale));
        pieces.extend(bar(columns, ('·', palette.quiet()), &parts, tick));
        let words = format!(" expected {}, up to {}", number(expected), number(upper));
        pieces.push(piece(words, palette.quiet()));
        if over {
            pieces.push(piece(" ▲ over", palette.critical()));
        }
    } else {
        pieces.push(piece("learning what is normal", palette.quiet()));
    }
    page.line(pieces);
    past(page, model, one);
}

/// The last quarter of an hour of it.
fn past(page: &mut Page, model: &Model, one: &Target) {
    let palette = page.palette;
    let (values, span) = model.past_of(one);
    if values.iter().flatten().count() < 2 {
        return;
    }
    let columns = (page.columns.saturating_sub(LABEL) / 2).min(48);
    let top = values
        .iter()
        .flatten()
        .copied()
        .fold(one.upper.unwrap_or(0.0), f64::max);
    page.line(vec![
        plain(" ".repeat(LABEL)),
        piece(spark(&values, columns, top), palette.value()),
        piece(format!(" the last {}", age(span)), palette.quiet()),
    ]);
}

/// All sessions against the limit of the server.
fn sessions(page: &mut Page, one: &Target) {
    let palette = page.palette;
    let all = one.connections.unwrap_or(0.0);
    let limit = one.max_connections;
    let room = limit.map(|limit| limit - one.reserved_connections.unwrap_or(0.0));
    let scale = limit.unwrap_or(all).max(1.0);
    let active = one.sessions(&["active"]);
    let open = one.sessions(&IN_TRANSACTION);
    let near = room.is_some_and(|room| all >= NEAR * room);
    let count = room.map_or_else(
        || number(all),
        |room| format!("{}/{}", number(all), number(room)),
    );
    let style = if near {
        palette.critical()
    } else {
        palette.strong()
    };
    let mut pieces = vec![piece(label("Sessions", &count), style)];
    let columns = (page.columns.saturating_sub(LABEL) / 2).min(48);
    let parts = [
        ('░', palette.quiet(), 0.0, all / scale),
        (
            '▓',
            palette.warning(),
            active / scale,
            (active + open) / scale,
        ),
        ('█', palette.value(), 0.0, active / scale),
    ];
    let tick = room.map(|room| ('┊', palette.strong(), room / scale));
    pieces.extend(bar(columns, ('·', palette.quiet()), &parts, tick));
    let words = format!(
        " █ {} active ▓ {} in transaction ░ {} idle",
        number(active),
        number(open),
        number(one.sessions(&["idle"]))
    );
    // Beside the bar where there is room, else below it.
    let used: usize = pieces.iter().map(ratatui::text::Span::width).sum();
    if used + words.chars().count() <= page.columns {
        pieces.push(piece(words, palette.quiet()));
        page.line(pieces);
    } else {
        page.line(pieces);
        page.line(vec![
            plain(" ".repeat(LABEL - 1)),
            piece(words, palette.quiet()),
        ]);
    }
}

fn waits(page: &mut Page, one: &Target) {
    let palette = page.palette;
    let some = |words: String, is: bool| {
        piece(
            words,
            if is {
                palette.warning()
            } else {
                palette.quiet()
            },
        )
    };
    let counts = &one.locks;
    let lost: f64 = ["orphaned", "stranded"]
        .iter()
        .filter_map(|verdict| counts.advisory.get(*verdict))
        .sum();
    let mut pieces = vec![plain("  ")];
    pieces.push(if counts.waiters > 0.0 {
        let longest = seconds(counts.longest_wait_seconds);
        some(
            format!(
                "{} wait for locks, longest {longest}",
                number(counts.waiters)
            ),
            true,
        )
    } else {
        some("nobody waits for locks".to_owned(), false)
    });
    if lost > 0.0 {
        pieces.push(some(
            format!(" · {} nobody owns", plural(lost, "advisory lock")),
            true,
        ));
    }
    match one.clients_waiting {
        Some(waiting) if waiting > 0.0 => {
            let words = format!(" · {} wait in poolers", plural(waiting, "client"));
            pieces.push(some(words, true));
        }
        Some(_) => pieces.push(some(" · nobody waits in poolers".to_owned(), false)),
        None => {}
    }
    let wide: usize = pieces.iter().map(ratatui::text::Span::width).sum();
    if wide > page.columns
        && let Some(last) = pieces.pop()
    {
        // What tells of poolers stands below then.
        page.line(pieces);
        let words = last.content.trim_start_matches(" · ").to_owned();
        pieces = vec![plain("  "), piece(words, last.style)];
    }
    page.line(pieces);
}

fn pools(page: &mut Page, one: &Target) {
    let Some(worst) = one.pools.first() else {
        return;
    };
    let palette = page.palette;
    let all = one.pools.len() as f64 + one.pools_left_out;
    let size = worst.size.map_or_else(|| "?".to_owned(), number);
    page.line(vec![piece(
        format!(
            "  {}: busiest {} {} of {size} busy",
            plural(all, "pool"),
            safe(&format!("{}/{}", worst.database, worst.user)),
            number(worst.servers_active),
        ),
        palette.quiet(),
    )]);
}
