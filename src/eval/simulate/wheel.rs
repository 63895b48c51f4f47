//! What happens when: a wheel of time slots.
//!
//! Invariant: an event comes out in the slot of its time, each once. Within a
//! slot the order is that of putting in: nobody looks closer than a slot.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Slots a second. A request shorter than a slot is seen when it spans the
/// slot's edge, as often as it would be by a look at a random moment.
pub const SLOTS: u64 = 100;

/// Slots of one turn: eighty seconds, longer than most requests.
const TURN: u64 = 8192;

/// Events by slot.
#[derive(Debug)]
pub struct Wheel {
    slots: Vec<Vec<u32>>,
    /// Beyond this turn.
    far: BinaryHeap<Reverse<(u64, u32)>>,
    now: u64,
}

impl Wheel {
    pub fn new() -> Self {
        Self {
            slots: vec![Vec::new(); TURN as usize],
            far: BinaryHeap::new(),
            now: 0,
        }
    }

    /// Puts an event into a slot that is not over.
    pub fn put(&mut self, slot: u64, event: u32) {
        if slot < self.now + TURN {
            let slot = slot.max(self.now);
            self.slots[(slot % TURN) as usize].push(event);
        } else {
            self.far.push(Reverse((slot, event)));
        }
    }

    /// The events of the current slot; give the list back with [`Self::advance`].
    pub fn take(&mut self) -> Vec<u32> {
        while let Some(&Reverse((slot, event))) = self.far.peek()
            && slot < self.now + TURN
        {
            self.far.pop();
            self.put(slot, event);
        }
        std::mem::take(&mut self.slots[(self.now % TURN) as usize])
    }

    /// Goes on to the next slot. The list is kept for its memory.
    pub fn advance(&mut self, mut list: Vec<u32>) {
        list.clear();
        self.slots[(self.now % TURN) as usize] = list;
        self.now += 1;
    }

    pub fn now(&self) -> u64 {
        self.now
    }
}

/// The slot of a time in seconds.
pub fn slot(t: f64) -> u64 {
    (t * SLOTS as f64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_event_comes_once_in_its_slot() {
        let mut wheel = Wheel::new();
        let due = [0, 5, 5, TURN - 1, TURN, 3 * TURN + 7];
        for (event, slot) in (0u32..).zip(due) {
            wheel.put(slot, event);
        }
        let mut seen = Vec::new();
        for now in 0..4 * TURN {
            let list = wheel.take();
            seen.extend(list.iter().map(|&event| (event, now)));
            wheel.advance(list);
        }
        let expected: Vec<_> = (0u32..).zip(due).collect();
        assert_eq!(seen, expected);
    }
}
