//! What a key does to where somebody looks.

use super::{FILTER, Model, Over, Place, Subject};
use crate::expose::terminal::keys::Key;
use crate::expose::terminal::view::{self, Shown, orders};
use crate::sample::UnixSeconds;

/// What is to happen after a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::expose::terminal) enum Outcome {
    Stay,
    Leave,
    Suspend,
    /// Whatever is on the screen is drawn anew.
    Redraw,
    /// These commands are shown as they are, to be copied.
    Aside(Vec<String>),
}

impl Model {
    /// A key was pressed at `now`, while this was shown.
    pub(in crate::expose::terminal) fn press(
        &mut self,
        key: Key,
        shown: &Shown,
        now: UnixSeconds,
    ) -> Outcome {
        match key {
            Key::Interrupt => return Outcome::Leave,
            Key::Suspend => return Outcome::Suspend,
            Key::Redraw => return Outcome::Redraw,
            _ if self.typing => self.type_filter(key),
            Key::Letter('c') => return self.aside(shown),
            _ if self.over.is_some() => self.press_over(key, shown),
            Key::Letter('q') => return Outcome::Leave,
            Key::Escape if !self.filter.is_empty() => self.filter.clear(),
            Key::Escape => self.back(),
            _ => self.press_view(key, shown, now),
        }
        Outcome::Stay
    }

    fn press_view(&mut self, key: Key, shown: &Shown, now: UnixSeconds) {
        match key {
            Key::Letter(digit @ '1'..='5') => {
                let at = usize::from(digit as u8 - b'1');
                // Who goes there by the key wants what matters now.
                self.opened = None;
                self.go(Place::ALL[at]);
            }
            Key::Tab => self.turn(1),
            Key::BackTab => self.turn(Place::ALL.len() - 1),
            Key::Letter('/') => self.typing = true,
            Key::Letter('s') => {
                self.sort = (self.sort + 1) % orders(self.place).len().max(1);
                self.tops = [0; 3];
            }
            Key::Letter('p') => {
                self.paused = match self.paused {
                    None => Some(now),
                    Some(_) => None,
                };
            }
            Key::Letter('?' | 'h') => self.lay_over(Over::Help),
            Key::Enter => self.enter(shown),
            Key::Letter('j') | Key::Down => self.step(shown, 1),
            Key::Letter('k') | Key::Up => self.step(shown, -1),
            Key::PageDown | Key::Letter(' ') => self.step(shown, shown.page()),
            Key::PageUp | Key::Letter('b') => self.step(shown, -shown.page()),
            Key::Home | Key::Letter('g') => self.step(shown, isize::MIN / 2),
            Key::End | Key::Letter('G') => self.step(shown, isize::MAX / 2),
            _ => {}
        }
    }

    /// What lies over a view scrolls, and goes.
    fn press_over(&mut self, key: Key, shown: &Shown) {
        let by = match key {
            Key::Letter('j') | Key::Down => 1,
            Key::Letter('k') | Key::Up => -1,
            Key::PageDown | Key::Letter(' ') => shown.page(),
            Key::PageUp | Key::Letter('b') => -shown.page(),
            Key::Home | Key::Letter('g') => isize::MIN / 2,
            Key::End | Key::Letter('G') => isize::MAX / 2,
            _ => {
                self.over = None;
                return;
            }
        };
        self.tops[2] = self.tops[2].saturating_add_signed(by);
    }

    fn type_filter(&mut self, key: Key) {
        match key {
            Key::Letter(letter) if self.filter.chars().count() < FILTER => self.filter.push(letter),
            Key::Erase => {
                self.filter.pop();
            }
            Key::Escape => {
                self.filter.clear();
                self.typing = false;
            }
            Key::Enter => self.typing = false,
            _ => {}
        }
        self.tops = [0; 3];
    }

    fn turn(&mut self, by: usize) {
        let at = Place::ALL.iter().position(|place| *place == self.place);
        let next = (at.unwrap_or(0) + by) % Place::ALL.len();
        self.go(Place::ALL[next]);
    }

    fn go(&mut self, place: Place) {
        let before = self.wanted_incident().cloned();
        if place != Place::Incident {
            self.opened = None;
        }
        if self.place != place {
            self.place = place;
            self.sort = 0;
            self.pointed = None;
        }
        self.tops = [0; 3];
        if self.wanted_incident() != before.as_ref() || place == Place::Incident {
            self.forget_stale_incident();
        }
    }

    /// What is kept of another incident than the one that is wanted.
    fn forget_stale_incident(&mut self) {
        let kept = self.incident.data.as_ref().map(|one| &one.id);
        if kept.is_none() || kept != self.wanted_incident() {
            self.forget_incident();
        }
    }

    /// An incident that was opened is closed; any other view goes to the first.
    fn back(&mut self) {
        if self.place == Place::Incident && self.opened.is_some() {
            self.go(self.opened_in);
        } else {
            self.go(Place::Now);
        }
    }

    fn lay_over(&mut self, over: Over) {
        self.over = Some(over);
        self.tops[2] = 0;
    }

    fn enter(&mut self, shown: &Shown) {
        let Some(subject) = self.pointed.clone().or_else(|| shown.first()) else {
            return;
        };
        match subject {
            Subject::Incident(id) => {
                self.opened = Some(id);
                self.opened_in = self.place;
                self.go(Place::Incident);
            }
            other => self.lay_over(Over::Whole(other)),
        }
    }

    /// The commands of what is pointed at, else of the first that has some.
    fn aside(&self, shown: &Shown) -> Outcome {
        let laid_over = match &self.over {
            Some(Over::Whole(subject)) => Some(subject.clone()),
            _ => None,
        };
        let commands = if self.place == Place::Incident {
            let one = self.incident.data.as_ref();
            one.map(|one| one.actions.clone()).unwrap_or_default()
        } else if let Some(subject) = laid_over.or_else(|| self.pointed.clone()) {
            view::commands(self, &subject)
        } else {
            let all = shown
                .entries
                .iter()
                .map(|entry| view::commands(self, entry));
            let mut some = all.filter(|commands| !commands.is_empty());
            some.next().unwrap_or_default()
        };
        if commands.is_empty() {
            return Outcome::Stay;
        }
        Outcome::Aside(commands)
    }

    /// Moves what is pointed at; where there is nothing to point at, the lines.
    fn step(&mut self, shown: &Shown, by: isize) {
        let entries = &shown.entries;
        if entries.is_empty() {
            for top in &mut self.tops[..2] {
                *top = top.saturating_add_signed(by);
            }
            return;
        }
        let at = self
            .pointed
            .as_ref()
            .and_then(|pointed| entries.iter().position(|entry| entry == pointed));
        let next = match (at, by.signum()) {
            (Some(at), _) => at.saturating_add_signed(by),
            (None, -1) if by == -1 => entries.len() - 1,
            (None, -1) => 0,
            // The first press points at the first of them.
            (None, _) => usize::try_from(by - 1).unwrap_or(0),
        };
        self.pointed = Some(entries[next.min(entries.len() - 1)].clone());
    }
}
