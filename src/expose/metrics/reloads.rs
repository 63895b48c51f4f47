//! What became of reading the configuration again.

use super::page::Page;
use super::table;
use crate::expose::web::ReloadState;

/// There from the start, when the file was read for the first time.
pub fn put_reloads(page: &mut Page, reloads: &ReloadState) {
    let successful = f64::from(u8::from(reloads.successful));
    page.put(&table::RELOAD_SUCCESSFUL, [], successful);
    page.put(&table::RELOAD_SUCCESS_AT, [], reloads.success_at);
    let [good, bad] = [reloads.succeeded, reloads.failed];
    page.put(&table::RELOADS, ["success"], good as f64);
    page.put(&table::RELOADS, ["failure"], bad as f64);
}
