//! The page in a real browser, over captures of real servers: how fast it is
//! there, who can use it, and what it makes of hostile names.

mod browser;
#[path = "browser/scene.rs"]
mod scene;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use browser::recorded::Recorded;
use browser::{Browser, Window};
use scene::{SCENE, VIEWS};
use serde_json::{Value, json};
use snowpit::engine::Settings;
use snowpit::engine::incident::{Attribution, Cause, Incident, Kind};
use snowpit::engine::locks::{AdvisoryLock, LockObject, LockView, RootBlocker, Verdict, WaitNode};
use snowpit::engine::snapshot::TargetView;
use snowpit::eval::scenario::Family;
use snowpit::sample::{Group, PostgresReport, Report, RouteTraffic, Sample, Server, TrafficReport};
use tokio::time::sleep;

fn unix_now() -> f64 {
    #[expect(clippy::disallowed_methods, reason = "samples are of now")]
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.unwrap().as_secs_f64()
}

/// No complaint, and nothing asked of anybody else.
async fn assert_clean(browser: &Browser, site: &Recorded) {
    browser.assert_no_complaint().await;
    let requests = browser.requests().await;
    assert!(requests.len() > 10, "{requests:?}");
    for url in requests {
        let own = url.starts_with(&site.url) || url.starts_with("data:");
        assert!(own, "{url} leaves the origin");
    }
}

#[tokio::test]
async fn the_first_paint_is_quick_and_small() {
    let site = Recorded::start(&SCENE).await;
    let browser = Browser::start(Window::default()).await;
    let mut paints = Vec::new();
    for _ in 0..5 {
        browser.open("about:blank").await;
        browser
            .devtools("Network.clearBrowserCache", json!({}))
            .await;
        browser.open(&site.url).await;
        browser.until_text("connection avalanche").await;
        let script = "return performance.getEntriesByType('paint')\
                      .find(e => e.name === 'first-contentful-paint').startTime";
        paints.push(browser.run(script).await.as_f64().unwrap());
    }
    let script = "return [performance.getEntriesByType('navigation'), \
                  performance.getEntriesByType('resource')].flat()\
                  .filter(e => !e.name.includes('/api/')).reduce((sum, e) => sum + e.transferSize, 0)";
    let bytes = browser.run(script).await.as_f64().unwrap();
    println!("first contentful paint after {paints:.0?} ms, {bytes} bytes");
    paints.sort_by(f64::total_cmp);
    assert!(paints[0] < 300.0, "{paints:?}");
    assert!(bytes > 1_000.0 && bytes < 150_000.0, "{bytes}");
    assert_clean(&browser, &site).await;
    browser.close().await;
}

#[tokio::test]
async fn a_change_is_on_the_page_at_once() {
    let mut takes = SCENE;
    takes[1].until = 5.0;
    let mut site = Recorded::start(&takes[1..2]).await;
    let browser = Browser::start(Window::default()).await;
    browser.open(&site.url).await;
    browser.until_text("gateway").await;
    let script = "window.seen = null; new MutationObserver(() => { \
                    if (!window.seen && document.body.innerText.includes('held by nobody')) \
                      window.seen = Date.now(); \
                  }).observe(document.body, {childList: true, subtree: true, characterData: true})";
    browser.run(script).await;
    // One sample after the other, until the engine says so.
    let mut told = None;
    for sample in std::mem::take(&mut site.rest) {
        let applied = unix_now();
        site.apply(vec![sample]).await;
        if site.open().await > 0 {
            told = Some(applied);
            break;
        }
    }
    let told = told.expect("the capture has an orphan");
    let seen = browser.until("the orphan", "return window.seen").await;
    let late = seen.as_f64().unwrap() / 1000.0 - told;
    println!("{:.0} ms from the engine to the page", late * 1000.0);
    assert!(late < 1.0, "{late}");
    assert_clean(&browser, &site).await;
    browser.close().await;
}

/// Serious findings of axe-core.
async fn accessibility(browser: &Browser) -> Vec<String> {
    let file = ".tools/browser/node_modules/axe-core/axe.min.js";
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    let axe = std::fs::read_to_string(path).expect("scripts/deps apps installs axe-core");
    browser.run(&axe).await;
    let script = "const done = arguments[arguments.length - 1]; \
                  axe.run(document, {resultTypes: ['violations']}).then(r => done(r.violations.map(v => \
                    [v.impact, v.id, v.help, v.nodes.slice(0, 3).map(n => n.html.slice(0, 200) + ' ' + n.failureSummary).join(' | ')])))";
    let found = browser.run_async(script).await;
    let found = found.as_array().expect("axe ran").clone();
    for one in &found {
        println!("{one}");
    }
    let grave = found
        .iter()
        .filter(|one| ["serious", "critical"].contains(&one[0].as_str().unwrap_or("")));
    grave.map(Value::to_string).collect()
}

#[tokio::test]
async fn everybody_can_use_every_view_in_both_themes() {
    let site = Recorded::with_traffic(&SCENE[1..3], Family::RareHeavyEndpoint, 1).await;
    let mut grave = Vec::new();
    for (dark, width, views) in [(true, 1280, 5), (false, 1280, 5), (true, 390, 3)] {
        let browser = Browser::start(Window {
            dark,
            width,
            ..Window::default()
        })
        .await;
        for view in &VIEWS[..views] {
            browser.open(&format!("{}/#/{view}", site.url)).await;
            let ready = "return !document.body.innerText.includes('Asking the daemon') \
                         && document.querySelectorAll('main [data-row]').length > 0";
            browser.until(view, ready).await;
            if *view == "incident" {
                browser
                    .until(
                        "a chart",
                        "return document.querySelectorAll('canvas').length",
                    )
                    .await;
            }
            let wide = "return document.documentElement.scrollWidth - innerWidth";
            let wide = browser.run(wide).await.as_i64().unwrap();
            assert!(wide <= 0, "{view} at {width} is {wide} too wide");
            for finding in accessibility(&browser).await {
                grave.push(format!("{view}, dark {dark}, {width}: {finding}"));
            }
        }
        assert_clean(&browser, &site).await;
        browser.close().await;
    }
    assert!(grave.is_empty(), "{}", grave.join("\n"));
}

#[tokio::test]
async fn the_keyboard_goes_everywhere() {
    let site = Recorded::start(&SCENE).await;
    let browser = Browser::start(Window::default()).await;
    browser.open(&site.url).await;
    browser.until_text("connection avalanche").await;
    for (key, view) in ["1", "2", "3", "4", "5"].into_iter().zip(VIEWS) {
        browser.keys(key).await;
        let script = format!("return document.querySelector('main').dataset.view === '{view}'");
        browser.until(view, &script).await;
    }
    browser.keys("1").await;
    browser.until_text("connection avalanche").await;
    browser.keys("j").await;
    let at = "return document.querySelector('[data-at]')?.dataset.row ?? ''";
    let first = browser.until("the first entry", at).await;
    browser.keys("jj").await;
    let third = browser.run(at).await;
    assert_ne!(first, third);
    browser.keys("kk").await;
    assert_eq!(browser.run(at).await, first);

    // The command of the entry, as it is.
    let grant = json!({ "permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"] });
    browser.devtools("Browser.grantPermissions", grant).await;
    browser.keys("c").await;
    browser.until_text("Copied").await;
    let copied = "navigator.clipboard.readText().then(arguments[arguments.length - 1])";
    let copied = browser.run_async(copied).await;
    let actions = site.incident(first.as_str().unwrap()).await["actions"].clone();
    assert_eq!(copied, actions[0]);

    browser.keys("\u{e007}").await;
    browser.until_text("What was said when").await;
    assert_eq!(
        browser
            .run("return decodeURIComponent(location.hash)")
            .await,
        json!(format!("#/incident/{}", first.as_str().unwrap()))
    );

    browser.keys("5").await;
    browser.until_text("History (5)").await;
    browser.keys("/avalanche").await;
    browser.until_text("History (1)").await;
    browser.keys("\u{e00c}").await;
    browser.until_text("History (5)").await;

    for theme in ["dark", "light", "auto"] {
        browser.keys("t").await;
        browser.until_text(&format!("Theme: {theme}")).await;
    }
    browser.keys("?").await;
    let open = "return document.getElementById('help').open";
    browser.until("the help", open).await;
    browser.keys("\u{e00c}").await;
    assert_clean(&browser, &site).await;
    browser.close().await;
}

#[tokio::test]
async fn a_daemon_that_is_gone_is_told_and_found_again() {
    let site = Recorded::start(&SCENE[..1]).await;
    let port = site.port();
    let browser = Browser::start(Window::default()).await;
    browser.open(&site.url).await;
    browser.until_text("connection avalanche").await;
    drop(site);
    browser.until_text("Stale since").await;
    let text = browser.text().await;
    assert!(
        text.contains("connection avalanche"),
        "what was known stays"
    );
    let settings = Settings {
        targets: vec!["fresh".into()],
        ..Settings::default()
    };
    let again = Recorded::at(settings, port).await;
    browser.until_text("not seen yet").await;
    let text = browser.text().await;
    assert!(!text.contains("Stale since"), "{text}");
    drop(again);
    browser.close().await;
}

/// What an attacker would put into a name.
fn hostile() -> Vec<String> {
    vec![
        "<img src=x onerror=\"window.hacked=1\">".into(),
        "\"><script>window.hacked=1</script>".into(),
        "'\"`&lt;b&gt;${window.hacked=1}{{window.hacked=1}}".into(),
        "javascript:window.hacked=1".into(),
        "👩‍💻🔥 naïve ﷽ 漢字".into(),
        "\u{202e}gnp.exe\u{202c} and \u{2066}more\u{2069}\u{0}\u{7}\nline".into(),
        "עברית العربية".into(),
        format!("<b>{}", "long ".repeat(2_000)),
    ]
}

#[tokio::test]
async fn what_comes_from_outside_is_text() {
    let names = hostile();
    // A server's name stands in the configuration, and in every selector.
    let short = |name: &str| name.chars().take(900).collect::<String>();
    let now = unix_now();
    let settings = Settings {
        targets: names.iter().map(|name| short(name)).collect(),
        ..Settings::default()
    };
    let site = Recorded::with(settings).await;
    let mut samples = Vec::new();
    for name in &names {
        let report = PostgresReport {
            target: short(name),
            server: Some(Server {
                max_connections: Some(100),
                ..Server::default()
            }),
            groups: vec![Group {
                database: Some(name.clone()),
                user: Some(name.clone()),
                application: Some(name.clone()),
                state: Some(name.clone()),
                route: Some(name.clone()),
                count: 3,
                ..Group::default()
            }],
            ..PostgresReport::default()
        };
        samples.push(Sample {
            t: now,
            report: Report::Postgres(report),
        });
        let traffic = TrafficReport {
            service: short(name),
            interval: 1.0,
            routes: vec![RouteTraffic {
                route: format!("GET /{}", short(name)),
                requests: 5.0,
                duration_seconds: 1.0,
                ..RouteTraffic::default()
            }],
            ..TrafficReport::default()
        };
        samples.push(Sample {
            t: now,
            report: Report::Traffic(traffic),
        });
    }
    // What routes do is worked out once a second.
    let mut later = samples.clone();
    later.iter_mut().for_each(|sample| sample.t += 2.0);
    site.apply(samples).await;
    site.apply(later).await;
    let shown = names.clone();
    site.show(move |snapshot| {
        for (at, name) in shown.iter().enumerate() {
            let server = short(name);
            snapshot
                .open
                .push(Arc::new(incident(at, &server, name, now)));
            let target = snapshot.targets.get_mut(&server).unwrap();
            Arc::make_mut(target).locks = Arc::new(hostile_locks(name));
        }
    })
    .await;

    for width in [1280, 390] {
        let browser = Browser::start(Window {
            width,
            ..Window::default()
        })
        .await;
        for view in VIEWS {
            browser.open(&format!("{}/#/{view}", site.url)).await;
            // Of an incident the newest is shown, which has the longest name.
            let expected = match view {
                "incident" => "<b>long long",
                _ => "<img src=x onerror=",
            };
            browser.until_text(expected).await;
            let harmed = "return window.hacked ?? \
                document.querySelectorAll('main img, main script, main b b, main [onerror]').length";
            assert_eq!(browser.run(harmed).await, json!(0), "{view}");
            let text = browser.text().await;
            assert!(!text.contains('\u{202e}'), "{view}: order can be turned");
            if view != "incident" {
                assert!(text.contains("‹202E›gnp.exe‹202C›"), "{view}: {text}");
                assert!(text.contains("👩‍💻🔥 naïve"), "{view}");
            }
            let whole = "return [...document.querySelectorAll('main bdi[title]')]\
                .filter(e => e.title.length > 800 && e.textContent.length <= 1000).length";
            assert!(browser.run(whole).await.as_u64().unwrap() > 0, "{view}");
            let wide = "return document.documentElement.scrollWidth - innerWidth";
            let wide = browser.run(wide).await.as_i64().unwrap();
            assert!(wide <= 0, "{view} at {width} is {wide} too wide");
        }
        // What every object has is no view.
        browser.open(&format!("{}/#/constructor", site.url)).await;
        let first = "return document.getElementById('main').dataset.view === 'now' || null";
        browser.until("the first view", first).await;
        assert_clean(&browser, &site).await;
        browser.close().await;
    }
}

fn incident(at: usize, target: &str, name: &str, now: f64) -> Incident {
    let one = Attribution {
        service: name.into(),
        route: name.into(),
        share: 0.9,
        connections: 30.0,
        rate_change: Some(2.0),
        hold_change: None,
        rate_part: Some(20.0),
        hold_part: Some(5.0),
        confidence: 0.9,
    };
    Incident {
        id: format!("hostile-{at}-{}", name.chars().take(40).collect::<String>()),
        target: target.into(),
        kind: Kind::ConnectionAvalanche,
        severity: Kind::ConnectionAvalanche.severity(),
        cause: Some(Cause::Endpoint),
        onset_at: now - 60.0,
        opened_at: now - 50.0,
        resolved_at: None,
        subject: serde_json::Map::from_iter([(name.to_owned(), json!(name))]),
        summary: name.into(),
        attribution: vec![one],
        unexplained_share: Some(0.1),
        evidence: vec![name.into()],
        actions: vec![name.into()],
        runbook: "connection_avalanche".into(),
    }
}

fn hostile_locks(name: &str) -> LockView {
    let some = || Some(name.to_owned());
    let object = LockObject {
        locktype: name.into(),
        mode: name.into(),
        object: name.into(),
    };
    LockView {
        name: name.into(),
        root_blockers: vec![RootBlocker {
            pid: Some(7),
            database: some(),
            user: some(),
            application: some(),
            client: some(),
            state: some(),
            query: some(),
            holds: vec![object.clone()],
            waiters: 1,
            direct_waiters: 1,
            action: name.into(),
            tree: vec![WaitNode {
                pid: 8,
                waits_for: object,
                application: some(),
                query: some(),
                ..WaitNode::default()
            }],
            ..RootBlocker::default()
        }],
        advisory_locks: vec![lock(1, name)],
        ..LockView::default()
    }
}

fn lock(pid: i32, name: &str) -> AdvisoryLock {
    AdvisoryLock {
        database: name.into(),
        key: pid.to_string(),
        names: vec![name.into()],
        allowed: false,
        mode: "ExclusiveLock".into(),
        pid: Some(pid),
        prepared: None,
        verdict: Verdict::ALL[pid as usize % 7],
        reason: name.into(),
        age_seconds: 61.0,
        waiters: 2,
        spinners: 22,
        pooler: Some(name.into()),
        pool: None,
        last_application: Some(name.into()),
        action: name.into(),
    }
}

/// Fifty servers, 1,000 routes, 5,000 locks.
#[tokio::test]
async fn much_of_everything_does_not_stutter() {
    let now = unix_now();
    let names: Vec<String> = (0..50).map(|at| format!("server-{at:02}")).collect();
    let settings = Settings {
        targets: names.clone(),
        ..Settings::default()
    };
    let site = Recorded::with(settings).await;
    let poll = |t: f64| {
        let of = |name: &String| Sample {
            t,
            report: Report::Postgres(PostgresReport {
                target: name.clone(),
                groups: vec![Group {
                    state: Some("active".into()),
                    count: 10,
                    ..Group::default()
                }],
                ..PostgresReport::default()
            }),
        };
        names.iter().map(of).collect::<Vec<_>>()
    };
    site.apply(poll(now)).await;
    let routes = (0..1000).map(|at| RouteTraffic {
        route: format!("GET /r{at}"),
        requests: f64::from(at),
        duration_seconds: f64::from(at) * 0.1,
        ..RouteTraffic::default()
    });
    let traffic = TrafficReport {
        service: "registry".into(),
        interval: 1.0,
        routes: routes.collect(),
        ..TrafficReport::default()
    };
    let report = Report::Traffic(traffic);
    site.apply(vec![Sample { t: now, report }]).await;
    let crowd = |snapshot: &mut snowpit::engine::Snapshot| {
        for target in snapshot.targets.values_mut() {
            let target: &mut TargetView = Arc::make_mut(target);
            target.locks = Arc::new(LockView {
                advisory_locks: (0..100).map(|pid| lock(pid, "some lock")).collect(),
                root_blockers: (0..10)
                    .map(|pid| RootBlocker {
                        pid: Some(pid),
                        waiters: 10,
                        tree: (0..10)
                            .map(|pid| WaitNode {
                                pid,
                                ..WaitNode::default()
                            })
                            .collect(),
                        ..RootBlocker::default()
                    })
                    .collect(),
                ..LockView::default()
            });
        }
    };
    site.show(crowd).await;

    let browser = Browser::start(Window::default()).await;
    for (view, expected) in [
        ("now", "server-49"),
        ("locks", "Advisory locks (5,000)"),
        ("routes", "Routes (500)"),
    ] {
        browser.open(&format!("{}/#/{view}", site.url)).await;
        browser.until_text(expected).await;
        let watch = "window.long = []; new PerformanceObserver(list => { \
            for (const e of list.getEntries()) window.long.push(e.duration) }).observe({type: 'longtask'})";
        browser.run(watch).await;
        let before = browser.busy().await;
        for second in 1..=5 {
            site.apply(poll(now + f64::from(second))).await;
            site.show(crowd).await;
            sleep(Duration::from_secs(1)).await;
        }
        let long = browser.run("return window.long").await;
        let long: Vec<f64> = serde_json::from_value(long).unwrap();
        println!("{view}: long tasks in 5 s: {long:.0?} ms");
        let busy = browser.busy().await - before;
        println!("{view}: {busy:.2} s of processor time in 5 s");
        // Whatever else the machine does: there is time left for a hand.
        assert!(busy < 2.0, "{view}: {busy}");
        if view == "locks" {
            let text = browser.text().await;
            assert!(text.contains("4,940 more are not shown"), "{text}");
        }
    }
    assert_clean(&browser, &site).await;
    browser.close().await;
}
