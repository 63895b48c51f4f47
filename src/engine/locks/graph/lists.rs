//! A list for each session in one piece of memory: a look has thousands of
//! sessions, and most of them hold one lock or ask for one.

/// Pairs by session, in the order in which they were added.
#[derive(Debug, Default)]
pub struct Lists {
    /// Where each list begins in `pairs`, and where the last one ends.
    begins: Vec<u32>,
    pairs: Vec<(u32, u32)>,
}

impl Lists {
    /// Of `(session, pair)`, for so many sessions.
    pub fn of(added: &[(u32, (u32, u32))], sessions: usize) -> Self {
        let mut begins = vec![0u32; sessions + 1];
        for (session, _) in added {
            begins[*session as usize + 1] += 1;
        }
        for at in 1..begins.len() {
            begins[at] += begins[at - 1];
        }
        let mut next = begins.clone();
        let mut pairs = vec![(0, 0); added.len()];
        for &(session, pair) in added {
            let place = &mut next[session as usize];
            pairs[*place as usize] = pair;
            *place += 1;
        }
        Self { begins, pairs }
    }

    /// The list of one session; empty for one that nothing was added for.
    pub fn at(&self, session: u32) -> &[(u32, u32)] {
        let at = session as usize;
        match (self.begins.get(at), self.begins.get(at + 1)) {
            (Some(&begin), Some(&end)) => &self.pairs[begin as usize..end as usize],
            _ => &[],
        }
    }
}
