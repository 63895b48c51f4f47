//! The task that asks what is wanted, each question as often as it wants.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};

use super::door::{Door, Refusal};
use super::model::{Fact, Question, Slot};

/// Between two rounds in any case: it may be that every answer is a refusal.
const PAUSE: Duration = Duration::from_millis(50);

/// Asks until nobody wants to know any more.
pub(super) async fn ask(
    door: Door,
    mut wanted: watch::Receiver<Vec<Question>>,
    facts: mpsc::Sender<Fact>,
) {
    let mut asked: BTreeMap<(Slot, String), Instant> = BTreeMap::new();
    loop {
        let questions = wanted.borrow_and_update().clone();
        let key = |question: &Question| (question.slot, question.about.clone());
        // What is not wanted any more is asked at once when it is again.
        asked.retain(|known, _| questions.iter().any(|question| key(question) == *known));
        for question in &questions {
            let last = asked.get(&key(question));
            if last.is_some_and(|last| last.elapsed() < question.every) {
                continue;
            }
            asked.insert(key(question), Instant::now());
            let answer = answer(&door, question).await;
            let lost = question.slot == Slot::Now && answer.is_err();
            let fact = answer.unwrap_or_else(|why| Fact::Failed(question.slot, why.to_string()));
            if facts.send(fact).await.is_err() {
                return;
            }
            // Who does not answer this answers nothing.
            if lost {
                break;
            }
        }
        let due = questions
            .iter()
            .filter_map(|question| Some(*asked.get(&key(question))? + question.every))
            .min();
        let now = Instant::now();
        // While it is paused there is nothing to be asked.
        let due = due.unwrap_or(now + Duration::from_secs(3600));
        tokio::select! {
            changed = wanted.changed() => if changed.is_err() { return },
            () = sleep_until(due.max(now + PAUSE)) => {}
        }
    }
}

/// # Errors
/// There is no answer, or it cannot be understood.
pub(super) async fn answer(door: &Door, question: &Question) -> Result<Fact, Refusal> {
    let body = door.get(&question.path).await?;
    let read = question.read(&body);
    read.map_err(|error| door.nonsense(&question.path, &error))
}
