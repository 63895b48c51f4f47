//! The screen over recordings of real servers, at both sizes; and what keys and
//! a silent daemon do.

use std::path::Path;
use std::sync::Arc;

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use tokio::sync::{broadcast, mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::asking::answer;
use super::door::Door;
use super::keys::Key;
use super::model::{Fact, Model, Outcome, Slot};
use super::palette::Palette;
use super::view::{self, Shown};
use crate::capture::Captures;
use crate::engine::Engine;
use crate::engine::Settings;
use crate::eval::scenario::{Evidence, Family, scenario};
use crate::expose::history::{Question, SeriesReader};
use crate::expose::metrics::EngineTicks;
use crate::expose::web::{self, WebState};
use crate::observe::health::Health;
use crate::sample::{Sample, UnixSeconds};

const SMALL: (u16, u16) = (80, 24);
const LARGE: (u16, u16) = (200, 50);

/// A program that has seen a recording up to a moment, and a terminal.
struct Seat {
    door: Door,
    at: UnixSeconds,
    model: Model,
    shown: Shown,
    size: (u16, u16),
    _stop: tokio_util::sync::DropGuard,
}

impl Seat {
    /// The first seconds of a capture.
    fn recorded(capture: &str, seconds: f64, size: (u16, u16)) -> Self {
        let file = format!("tests/data/{capture}.jsonl.zst");
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
        let mut captures = Captures::open(&[path]).unwrap();
        let settings = captures.settings();
        let samples: Vec<Sample> = std::iter::from_fn(|| captures.next())
            .map(Result::unwrap)
            .collect();
        let until = samples[0].t + seconds;
        Self::of(settings, samples, until, size)
    }

    /// An application that tells of its routes, a minute after one of them began
    /// to take all sessions.
    fn simulated(size: (u16, u16)) -> Self {
        let incident = scenario(Family::RareHeavyEndpoint, 1);
        let until = incident.truth.onset.unwrap() + 60.0;
        let samples = Evidence::HalfTags.restrict(&incident).collect();
        Self::of(incident.settings.clone(), samples, until, size)
    }

    fn of(
        mut settings: Settings,
        mut samples: Vec<Sample>,
        until: UnixSeconds,
        size: (u16, u16),
    ) -> Self {
        samples.retain(|sample| sample.t <= until);
        for sample in &samples {
            if let crate::sample::Report::Postgres(report) = &sample.report
                && !settings.targets.contains(&report.target)
            {
                settings.targets.push(report.target.clone());
            }
        }
        let targets = settings.targets.clone();
        let mut engine = Engine::new(settings);
        let (effects, heard) = broadcast::channel(1024);
        for sample in samples {
            for effect in engine.apply(sample) {
                effects.send(Arc::new(effect)).unwrap();
            }
        }
        let snapshot = Arc::new(engine.snapshot());
        let at = snapshot.at;
        let (publish, snapshot) = watch::channel(snapshot);
        let (questions, mut asked) = mpsc::channel::<Question>(16);
        let ticks = Arc::new(EngineTicks::default());
        let state = WebState::new(snapshot, Health::new(), ticks, targets)
            .with_series(SeriesReader::new(questions, None))
            .with_effects(heard);
        let stop = CancellationToken::new();
        let desk = web::open(state, &stop);
        tokio::spawn(async move {
            let _kept = (publish, effects);
            while let Some(question) = asked.recv().await {
                let found = engine.series(&question.selector, question.from, question.to);
                let _ = question.answer.send(found);
            }
        });
        Self {
            door: Door::Here(desk),
            at,
            model: Model::new("the recording".to_owned(), Palette::new(true)),
            shown: Shown::default(),
            size,
            _stop: stop.drop_guard(),
        }
    }

    /// Asks all that the view wants to know, until it wants nothing new.
    async fn learn(&mut self) {
        // The follower of changes takes them in as soon as it runs.
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        for _ in 0..3 {
            for question in self.model.questions(self.at) {
                let mut fact = answer(&self.door, &question).await.unwrap();
                if let Fact::Now(now) = &mut fact {
                    now.served_at = self.at;
                    now.version = "0.0.0".to_owned();
                }
                self.model.take(fact, self.at);
            }
        }
        self.draw();
    }

    /// What is on the screen.
    fn draw(&mut self) -> Terminal<TestBackend> {
        let (columns, rows) = self.size;
        let mut terminal = Terminal::new(TestBackend::new(columns, rows)).unwrap();
        terminal
            .draw(|frame| {
                let area = frame.area();
                self.shown = view::draw(&self.model, self.at, area, frame.buffer_mut());
            })
            .unwrap();
        self.model.tops = self.shown.tops;
        terminal
    }

    fn text(&mut self) -> String {
        self.draw().backend().to_string()
    }

    fn press(&mut self, key: Key) -> Outcome {
        let outcome = self.model.press(key, &self.shown, self.at);
        self.draw();
        outcome
    }

    async fn go(&mut self, view: char) {
        self.press(Key::Letter(view));
        self.learn().await;
    }
}

/// The name of a snapshot says its size.
macro_rules! look {
    ($seat:expr, $name:literal) => {
        let name = format!("{}_{}", $name, $seat.size.0);
        insta::assert_snapshot!(name, $seat.text());
    };
}

#[tokio::test]
async fn an_avalanche_is_told_at_both_sizes() {
    for size in [SMALL, LARGE] {
        let mut seat = Seat::recorded("avalanche", 76.0, size);
        seat.learn().await;
        look!(seat, "now");
        seat.go('2').await;
        look!(seat, "incident");
        seat.go('5').await;
        look!(seat, "history");
    }
}

#[tokio::test]
async fn locks_are_told_at_both_sizes() {
    for size in [SMALL, LARGE] {
        let mut seat = Seat::recorded("kinds", 41.2, size);
        seat.learn().await;
        seat.go('3').await;
        look!(seat, "locks");
        let mut seat = Seat::recorded("orphan", 7.1, size);
        seat.learn().await;
        seat.go('3').await;
        look!(seat, "orphan");
    }
}

#[tokio::test]
async fn routes_are_told_at_both_sizes() {
    for size in [SMALL, LARGE] {
        let mut seat = Seat::simulated(size);
        seat.learn().await;
        seat.go('4').await;
        look!(seat, "routes");
    }
}

#[tokio::test]
async fn help_and_the_whole_of_an_entry_lie_over_a_view() {
    let mut seat = Seat::recorded("orphan", 7.1, SMALL);
    seat.learn().await;
    seat.press(Key::Letter('?'));
    look!(seat, "help");
    seat.press(Key::Escape);
    seat.go('3').await;
    seat.press(Key::Letter('j'));
    seat.press(Key::Enter);
    look!(seat, "whole");
    let Outcome::Aside(commands) = seat.press(Key::Letter('c')) else {
        panic!("there is a command that frees it");
    };
    assert!(commands[0].starts_with("RECONNECT"), "{commands:?}");
    seat.press(Key::Escape);
    assert!(seat.text().contains("Who blocks whom"));
}

#[tokio::test]
async fn without_colours_the_text_is_the_same() {
    let mut seat = Seat::recorded("avalanche", 76.0, SMALL);
    seat.learn().await;
    let coloured = seat.draw();
    seat.model.palette = Palette::new(false);
    let plain = seat.draw();
    assert_eq!(coloured.backend().to_string(), plain.backend().to_string());
    let reset = ratatui::style::Color::Reset;
    let cells = &plain.backend().buffer().content;
    assert!(
        cells
            .iter()
            .all(|cell| cell.fg == reset && cell.bg == reset)
    );
    let cells = &coloured.backend().buffer().content;
    assert!(cells.iter().any(|cell| cell.fg != reset));
}

#[tokio::test]
async fn a_filter_is_typed_and_letters_are_letters_then() {
    let mut seat = Seat::recorded("kinds", 41.2, LARGE);
    seat.learn().await;
    seat.go('3').await;
    seat.press(Key::Letter('/'));
    for letter in "qqq3".chars() {
        assert_eq!(seat.press(Key::Letter(letter)), Outcome::Stay);
    }
    assert!(seat.text().contains("No session with these words"));
    seat.press(Key::Enter);
    assert!(seat.text().contains("filter: qqq3"));
    seat.press(Key::Escape);
    assert!(!seat.text().contains("with these words"));
    assert_eq!(seat.press(Key::Letter('q')), Outcome::Leave);
    // Also in the middle of a word.
    seat.press(Key::Letter('/'));
    assert_eq!(seat.press(Key::Interrupt), Outcome::Leave);
}

#[tokio::test]
async fn an_incident_opens_where_it_is_pointed_at_and_closes_to_there() {
    let mut seat = Seat::recorded("kinds", 41.2, SMALL);
    seat.learn().await;
    seat.go('5').await;
    seat.press(Key::Down);
    seat.press(Key::Down);
    seat.press(Key::Enter);
    seat.learn().await;
    let second = {
        let known = seat.model.history.data.as_ref().unwrap();
        let mut all: Vec<_> = known.incidents.iter().collect();
        all.sort_by(|a, b| b.opened_at.total_cmp(&a.opened_at));
        all[1].id.clone()
    };
    assert_eq!(seat.model.incident.data.as_ref().unwrap().id, second);
    seat.press(Key::Escape);
    assert_eq!(seat.model.place.name(), "History");
}

#[tokio::test]
async fn silence_is_told_and_ends() {
    let mut seat = Seat::recorded("orphan", 7.1, SMALL);
    seat.learn().await;
    assert!(seat.text().contains("● live"));
    let lost = || Fact::Failed(Slot::Now, "nothing answers".to_owned());
    seat.model.take(lost(), seat.at + 5.0);
    seat.at += 9.0;
    let text = seat.text();
    assert!(
        text.contains("▲ stale") && text.contains("for 9 s"),
        "{text}"
    );
    assert!(text.contains("nothing answers"), "{text}");
    // What was known stays on the screen.
    assert!(text.contains("orphaned advisory lock"), "{text}");
    seat.learn().await;
    assert!(seat.text().contains("● live"));
    // Also when nobody says that it failed.
    seat.at += 11.0;
    assert!(seat.text().contains("● live"));
    seat.at += 2.0;
    let text = seat.text();
    assert!(
        text.contains("▲ stale") && text.contains("for 13 s"),
        "{text}"
    );
    seat.learn().await;
    seat.press(Key::Letter('p'));
    assert!(seat.text().contains("paused"));
    assert!(seat.model.questions(seat.at).is_empty());
}

#[tokio::test]
async fn an_incident_that_is_gone_does_not_look_live() {
    let mut seat = Seat::recorded("avalanche", 76.0, LARGE);
    seat.learn().await;
    seat.go('2').await;
    let known = seat.model.incident.data.clone().unwrap();
    let age = format!("for {}", super::words::age(seat.at - known.onset_at));
    assert!(known.resolved_at.is_none() && seat.text().contains(&age));
    for slot in [Slot::Incident, Slot::Changes] {
        let why = format!("there is no {slot:?}");
        seat.model.take(Fact::Failed(slot, why), seat.at);
    }
    seat.at += 10.0;
    let text = seat.text();
    assert!(text.contains("there is no Incident"), "{text}");
    assert!(text.contains("there is no Changes"), "{text}");
    assert!(text.contains(&age), "{text}");
    assert!(text.contains("What to do"), "{text}");
}

/// Everything that comes from outside is as bad as it can be.
fn hostile(fact: Fact) -> Fact {
    let evil = format!(
        "\u{1b}]0;gone\u{7}\u{1b}[2J\u{9b}31m\u{202e}نص عربي\u{202c} 👩\u{200d}👩\u{200d}👧 🇩🇪 ❤\u{fe0f} Z{} {}",
        "\u{336}".repeat(400),
        "語".repeat(3000),
    );
    match fact {
        Fact::Now(mut now) => {
            for one in &mut now.incidents {
                one.summary.clone_from(&evil);
                one.target.clone_from(&evil);
                one.kind.clone_from(&evil);
                one.actions = vec![evil.clone()];
            }
            for one in &mut now.targets {
                one.name.clone_from(&evil);
                one.error = Some(evil.clone());
            }
            Fact::Now(now)
        }
        Fact::Locks(mut locks) => {
            for root in locks.targets.iter_mut().flat_map(|t| &mut t.root_blockers) {
                root.query = Some(evil.clone());
                root.application = Some(evil.clone());
                root.state = Some(evil.clone());
                for node in &mut root.nodes {
                    node.application = Some(evil.clone());
                    node.waits_for.object.clone_from(&evil);
                }
            }
            Fact::Locks(locks)
        }
        Fact::Routes(mut routes) => {
            for route in &mut routes.routes {
                route.route.clone_from(&evil);
                route.service.clone_from(&evil);
            }
            Fact::Routes(routes)
        }
        other => other,
    }
}

#[tokio::test]
async fn hostile_text_stays_text() {
    for size in [SMALL, LARGE, (41, 7), (20, 4)] {
        let mut seat = Seat::recorded("kinds", 41.2, size);
        seat.learn().await;
        for view in ['1', '3', '4'] {
            seat.press(Key::Letter(view));
            for question in seat.model.questions(seat.at) {
                let fact = answer(&seat.door, &question).await.unwrap();
                seat.model.take(hostile(fact), seat.at);
            }
            for whole in [false, true] {
                if whole {
                    seat.press(Key::Enter);
                }
                let terminal = seat.draw();
                for cell in &terminal.backend().buffer().content {
                    let symbol = cell.symbol();
                    let clean = symbol.chars().all(|c| !c.is_control() && c != '\u{202e}');
                    assert!(clean && symbol.chars().count() <= 4, "{symbol:?}");
                }
            }
            seat.press(Key::Escape);
        }
    }
}

#[tokio::test]
async fn any_size_and_any_key_is_fine() {
    let mut seat = Seat::recorded("avalanche", 76.0, SMALL);
    seat.learn().await;
    let mut random = fastrand::Rng::with_seed(7);
    let keys = [
        Key::Letter('1'),
        Key::Letter('2'),
        Key::Letter('3'),
        Key::Letter('4'),
        Key::Letter('5'),
        Key::Letter('s'),
        Key::Letter('?'),
        Key::Letter('/'),
        Key::Letter('x'),
        Key::Up,
        Key::Down,
        Key::PageUp,
        Key::PageDown,
        Key::Home,
        Key::End,
        Key::Enter,
        Key::Escape,
        Key::Tab,
        Key::BackTab,
        Key::Erase,
    ];
    for step in 0..600 {
        seat.size = (random.u16(0..220), random.u16(0..60));
        seat.press(keys[random.usize(0..keys.len())]);
        if step % 20 == 0 {
            seat.learn().await;
        }
    }
}
