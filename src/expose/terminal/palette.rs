//! Colours and weights. The sixteen colours that every terminal has, as its owner
//! has set them; without colours weight alone.
//!
//! Invariant: what a colour says is said by a sign or a word too.

use ratatui::style::{Color, Modifier, Style};

/// Which styles there are.
#[derive(Debug, Clone, Copy)]
pub struct Palette {
    colour: bool,
}

impl Palette {
    /// With colours, or without any, as `NO_COLOR` asks for.
    pub fn new(colour: bool) -> Self {
        Self { colour }
    }

    fn of(self, colour: Color) -> Style {
        if self.colour {
            Style::new().fg(colour)
        } else {
            Style::new()
        }
    }

    pub(super) fn critical(self) -> Style {
        self.of(Color::Red).add_modifier(Modifier::BOLD)
    }

    pub(super) fn warning(self) -> Style {
        self.of(Color::Yellow).add_modifier(Modifier::BOLD)
    }

    pub(super) fn calm(self) -> Style {
        self.of(Color::Green)
    }

    /// What is beside the matter.
    pub(super) fn quiet(self) -> Style {
        Style::new().add_modifier(Modifier::DIM)
    }

    pub(super) fn strong(self) -> Style {
        Style::new().add_modifier(Modifier::BOLD)
    }

    /// Names of routes, and what is typed.
    pub(super) fn name(self) -> Style {
        self.of(Color::Cyan)
    }

    pub(super) fn value(self) -> Style {
        self.of(Color::Blue)
    }

    pub(super) fn band(self) -> Style {
        self.of(Color::Green).add_modifier(Modifier::DIM)
    }

    /// A row that is all one statement, such as the keys.
    pub(super) fn reversed(self) -> Style {
        Style::new().add_modifier(Modifier::REVERSED)
    }
}
