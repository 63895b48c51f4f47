//! The task that asks what is wanted, each question as often as it wants.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};

use super::door::{Door, Refusal};
use super::model::{Fact, Question, Slot};

/// Between two questions that failed: it may be that every answer is a refusal.
const PAUSE: Duration = Duration::from_millis(50);

/// How long the answer to how all is may take. With the longest of any other
/// answer it is shorter than what is shown may be old.
const NOW_TIMEOUT: Duration = Duration::from_secs(3);

type Key = (Slot, String);

fn key(question: &Question) -> Key {
    (question.slot, question.about.clone())
}

/// Asks until nobody wants to know any more.
///
/// One question after another: how all is comes first as often as it is due, then
/// what waits longest. What nobody wants any more is dropped where it stands.
pub(super) async fn ask(
    door: Door,
    mut wanted: watch::Receiver<Vec<Question>>,
    facts: mpsc::Sender<Fact>,
) {
    // When each is to be asked again.
    let mut due: BTreeMap<Key, Instant> = BTreeMap::new();
    loop {
        let questions = wanted.borrow_and_update().clone();
        // What is not wanted any more is asked at once when it is again.
        due.retain(|known, _| questions.iter().any(|question| key(question) == *known));
        let now = Instant::now();
        let Some(question) = next(&questions, &due, now) else {
            let first = due.values().min().copied();
            // While it is paused there is nothing to be asked.
            let first = first.unwrap_or(now + Duration::from_secs(3600));
            tokio::select! {
                changed = wanted.changed() => if changed.is_err() { return },
                () = sleep_until(first) => {}
            }
            continue;
        };
        let answer = tokio::select! {
            answer = in_time(&door, question) => answer,
            still_there = unwanted(&mut wanted, question) => {
                if still_there {
                    continue;
                }
                return;
            }
        };
        let failed = answer.is_err();
        // From the end of the answer, so that a slow one leaves time for others.
        let again = Instant::now() + question.every;
        due.insert(key(question), again);
        if failed && question.slot == Slot::Now {
            // Who does not answer this answers nothing.
            due.extend(questions.iter().map(|question| (key(question), again)));
        }
        let fact = answer.unwrap_or_else(|why| Fact::Failed(question.slot, why.to_string()));
        if facts.send(fact).await.is_err() {
            return;
        }
        if failed {
            sleep(PAUSE).await;
        }
    }
}

/// What is to be asked at `now`: of those that are due the first kind, else the
/// one that waits longest.
fn next<'a>(
    questions: &'a [Question],
    due: &BTreeMap<Key, Instant>,
    now: Instant,
) -> Option<&'a Question> {
    let when = |question: &Question| due.get(&key(question)).copied();
    let is_due = |question: &&Question| when(question).is_none_or(|when| when <= now);
    questions
        .iter()
        .filter(is_due)
        .min_by_key(|question| (question.slot != Slot::Now, when(question)))
}

/// Ends when a question is not wanted any more; false when nobody wants anything.
async fn unwanted(wanted: &mut watch::Receiver<Vec<Question>>, question: &Question) -> bool {
    let key_of_it = key(question);
    loop {
        if wanted.changed().await.is_err() {
            return false;
        }
        if !wanted
            .borrow_and_update()
            .iter()
            .any(|one| key(one) == key_of_it)
        {
            return true;
        }
    }
}

async fn in_time(door: &Door, question: &Question) -> Result<Fact, Refusal> {
    let answer = answer(door, question);
    if question.slot != Slot::Now {
        return answer.await;
    }
    let answer = tokio::time::timeout(NOW_TIMEOUT, answer).await;
    answer.unwrap_or_else(|_| {
        Err(Refusal::Unreachable {
            address: door.source(),
            why: format!("no answer within {} s", NOW_TIMEOUT.as_secs()),
        })
    })
}

/// # Errors
/// There is no answer, or it cannot be understood.
pub(super) async fn answer(door: &Door, question: &Question) -> Result<Fact, Refusal> {
    let body = door.get(&question.path).await?;
    let read = question.read(&body);
    read.map_err(|error| door.nonsense(&question.path, &error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::expose::terminal::model::first;

    #[test]
    fn how_all_is_comes_first_and_nothing_starves() {
        let other = |about: &str| Question {
            slot: Slot::Changes,
            about: about.to_owned(),
            ..first()
        };
        let questions = [other("a"), other("b"), first()];
        let now = Instant::now();
        let ago = |seconds| now - Duration::from_secs(seconds);
        assert_eq!(next(&questions, &BTreeMap::new(), now), Some(&questions[2]));
        let all = questions.iter().map(key).zip([ago(9), ago(5), now]);
        assert_eq!(next(&questions, &all.collect(), now), Some(&questions[2]));
        let later = now + Duration::from_secs(1);
        let due = [(key(&questions[2]), later), (key(&questions[1]), ago(3))];
        let mut due: BTreeMap<Key, Instant> = due.into();
        // What was never asked waits longest.
        assert_eq!(next(&questions, &due, now), Some(&questions[0]));
        due.insert(key(&questions[0]), ago(2));
        assert_eq!(next(&questions, &due, now), Some(&questions[1]));
        due.insert(key(&questions[0]), later);
        due.insert(key(&questions[1]), later);
        assert_eq!(next(&questions, &due, now), None);
    }

    #[tokio::test]
    async fn what_nobody_wants_any_more_is_dropped() {
        let chart = Question {
            slot: Slot::Changes,
            ..first()
        };
        let (want, mut wanted) = watch::channel(vec![first(), chart.clone()]);
        wanted.borrow_and_update();
        // Another time in the path of the same question is no reason.
        let later = Question {
            path: "/later".to_owned(),
            ..chart.clone()
        };
        want.send_replace(vec![first(), later]);
        let ended = tokio::time::timeout(Duration::from_millis(50), unwanted(&mut wanted, &chart));
        assert!(ended.await.is_err());
        want.send_replace(vec![first()]);
        assert!(unwanted(&mut wanted, &chart).await);
        drop(want);
        assert!(!unwanted(&mut wanted, &chart).await);
    }
}
