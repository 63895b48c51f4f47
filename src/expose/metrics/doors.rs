//! Our own listeners: who is there, and who was turned away.

use super::page::Page;
use super::table;
use crate::listen::{Doors, Refusal, Turned};

/// A series for each listener and reason, from the start.
pub fn put_doors(page: &mut Page, doors: &Doors) {
    let tally = doors.tally();
    for listener in doors.listeners().iter().copied() {
        let name = listener.as_str();
        page.put(
            &table::HTTP_CONNECTIONS,
            [name],
            tally.open(listener) as f64,
        );
        for refusal in Refusal::ALL {
            let count = tally.refusals(listener, refusal);
            let labels = [name, refusal.as_str()];
            page.put(&table::HTTP_CONNECTIONS_REFUSED, labels, count as f64);
        }
        for why in Turned::ALL {
            let count = tally.turned_away(listener, why);
            page.put(
                &table::HTTP_REQUESTS_REFUSED,
                [name, why.as_str()],
                count as f64,
            );
        }
        let wrong = tally.wrong_logins(listener);
        page.put(&table::AUTH_FAILURES, [name], wrong as f64);
        let failures = tally.reload_failures(listener);
        page.put(&table::ACCESS_RELOAD_FAILURES, [name], failures as f64);
        let expiry = doors.certificate_expiry(listener);
        page.put_some(&table::TLS_CERTIFICATE_EXPIRY, [name], expiry);
    }
}
